"""What may be stored and logged: URIs and texts without the credentials they carry."""

from __future__ import annotations

import re

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,15}://[^\s'\"<>]+")


def redact(uri: str) -> str:
    """A URI as it may be stored and logged: without user name, password, query and fragment.

    Paths and s3:// keys keep their `?` and `#`, which are part of a name there.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return uri
    if scheme.lower() in ("http", "https"):
        rest = rest.split("?", 1)[0].split("#", 1)[0]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def redact_text(text: str) -> str:
    """A line of a log, an error or a command line with every URI in it redacted."""
    return _URI.sub(lambda found: redact(found[0]), text)
