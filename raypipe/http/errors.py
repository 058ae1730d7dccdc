"""A file that could not be had, told without the credentials its URI may carry."""

from __future__ import annotations

from raypipe.errors import RaypipeError
from raypipe.redaction import redact


def describe(error: Exception) -> str:
    """An error as reasons quote it: its type and what it says, as far as that can be said."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__


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
