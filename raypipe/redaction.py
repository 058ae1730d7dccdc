"""Remove credentials and control characters from URIs and texts before they are shown or stored."""

from __future__ import annotations

import re

_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.\-]{0,15}://(?:[^\s@/?#'\"<>:]{1,256}:[^\s@/]{0,256}@)?[^\s'\"<>]+"
)
"""A URI in a text. A quote ends it unless the quote is part of the password."""

_LOST_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{1,15}:/)(?!/)[^\s@/:]{1,256}:[^\s@/]{0,256}@")
"""The credentials of a URI that lost a slash: mistyped, or passed through `pathlib.Path`."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:]*)(:\d*)?")


def redact(uri: str) -> str:
    """Remove user name, password, query and fragment from a URI.

    Paths and s3:// keys keep `?` and `#`, which are part of their names.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return uri
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and not _HOST.fullmatch(authority):
        # The password contains "/", "?" or "#", which should have been escaped.
        rest = rest.rpartition("@")[2] if "@" in rest else "..."
    if scheme.lower() in ("http", "https"):
        rest = rest.split("?", 1)[0].split("#", 1)[0]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def redact_text(text: str) -> str:
    """Redact every URI in a line of a log, an error message or a command line."""
    return _LOST_SLASH.sub(r"\1", _URI.sub(lambda found: redact(found[0]), text))


def printable(text: str, limit: int | None = None) -> str:
    """Escape control characters in a text, and shorten the result to `limit` characters.

    Names and headers of files are untrusted: a line break could forge a line of the log, and an
    escape sequence could control the terminal. Bytes that are not UTF-8, which Python keeps as
    surrogates, are escaped too. A shortened text ends in "...".
    """
    shown = _escape(text if limit is None else text[: limit + 1])
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 3]}..."


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
