"""Make URIs and texts fit to store, log and print: no credentials, no control characters."""

from __future__ import annotations

import re

_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.\-]{0,15}://(?:[^\s@/?#'\"<>:]{1,256}:[^\s@/]{0,256}@)?[^\s'\"<>]+"
)
"""A URI in a text. A quote ends it, unless it is in the password, where it should not be."""

_LOST_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{1,15}:/)(?!/)[^\s@/:]{1,256}:[^\s@/]{0,256}@")
"""The credentials of a URI that was mistyped, or that went through `pathlib.Path`."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:]*)(:\d*)?")


def redact(uri: str) -> str:
    """A URI as it may be stored and logged: without user name, password, query and fragment.

    Paths and s3:// keys keep their `?` and `#`, which are part of a name there.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return uri
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and not _HOST.fullmatch(authority):
        # A password with one of these characters, which should have been escaped.
        rest = rest.rpartition("@")[2] if "@" in rest else "..."
    if scheme.lower() in ("http", "https"):
        rest = rest.split("?", 1)[0].split("#", 1)[0]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def redact_text(text: str) -> str:
    """A line of a log, an error or a command line with every URI in it redacted."""
    return _LOST_SLASH.sub(r"\1", _URI.sub(lambda found: redact(found[0]), text))


def printable(text: str, limit: int | None = None) -> str:
    """Escape control characters in a text, and cut the result to `limit` characters.

    Files from elsewhere choose their own names and headers: a line break in one would forge a line
    of the log, an escape sequence would steer the terminal. Bytes that are not UTF-8, which Python
    keeps as surrogates, are escaped too. A text that was cut ends in "...".
    """
    shown = _escape(text if limit is None else text[: limit + 1])
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 3]}..."


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
