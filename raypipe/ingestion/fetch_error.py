"""A file that could not be had, told without the credentials its URI may carry."""

from __future__ import annotations

from raypipe.errors import RaypipeError


class FetchError(RaypipeError):
    """A file that could not be had.

    `retryable` where another run may have it; `status` is the HTTP status that refused it, None
    where there was none. The message starts with the URI, without credentials.
    """

    def __init__(
        self, uri: str, problem: str, *, retryable: bool, status: int | None = None
    ) -> None:
        super().__init__(f"{redact(uri)}: {problem}")
        self.problem = problem
        self.retryable = retryable
        self.status = status


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
