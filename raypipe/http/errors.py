"""Describe failed requests, without credentials, and tell which of them to try again."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import requests
import urllib3

from raypipe.errors import RaypipeError
from raypipe.redaction import redact

_NETWORK = (OSError, urllib3.exceptions.HTTPError, HTTPException)
"""Base classes of whatever sockets, http.client, urllib3 and requests raise."""

_NOT_A_URL = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationValueError,
    UnicodeError,
)
_TLS = (ssl.SSLError, urllib3.exceptions.SSLError)


class FetchError(RaypipeError):
    """Report a file that could not be fetched.

    `retryable` says that a later run may succeed. `status` is the HTTP status that refused the
    file, None if there was none. The message starts with the URI, without credentials.
    """

    def __init__(
        self, uri: str, problem: str, *, retryable: bool, status: int | None = None
    ) -> None:
        super().__init__(f"{redact(uri)}: {problem}")
        self.problem = problem
        self.retryable = retryable
        self.status = status


class TryAgain(Exception):
    """Report a failed attempt that may succeed when repeated.

    `asked_pause_s` is the pause that the server asked for with Retry-After, in s.
    """

    def __init__(self, problem: str, asked_pause_s: float = 0.0) -> None:
        super().__init__(problem)
        self.asked_pause_s = asked_pause_s


class OutOfTimeError(TimeoutError):
    """Report a read that lasted longer than the policy allows; the text names the limit."""


def describe(error: Exception) -> str:
    """Return an error's type and text for a reason; only its type if the text cannot be had."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__


@contextmanager
def network_errors_explained(url: str) -> Iterator[None]:
    """Turn errors of the network into TryAgain, or into FetchError if no attempt can cure them.

    The texts of HTTP libraries hold whole URLs, with credentials; they are not passed on.
    """
    try:
        yield
    except (*_NETWORK, *_NOT_A_URL) as error:
        raise _explain(url, error) from error


def _explain(url: str, error: BaseException) -> TryAgain | FetchError:
    chain = list(_causes(error))
    if _holds(chain, *_NOT_A_URL):
        return FetchError(url, "not a URL that can be requested", retryable=False)
    if _holds(chain, ssl.SSLCertVerificationError):
        return FetchError(url, "the server's certificate is not trusted", retryable=False)
    for cause in chain:
        if isinstance(cause, OutOfTimeError):
            return TryAgain(str(cause))
    if _holds(chain, urllib3.exceptions.NewConnectionError):
        # A subclass of urllib3's TimeoutError, even if the connection was refused at once.
        return TryAgain(f"the connection failed ({_shown(chain[-1])})")
    if _holds(chain, TimeoutError, urllib3.exceptions.TimeoutError):
        return TryAgain("the connection failed (timed out)")
    if _holds(chain, *_TLS):
        return TryAgain("the encrypted connection broke")
    return TryAgain(f"the connection failed ({_shown(chain[-1])})")


def _holds(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in chain)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the network errors that it wraps, from the outermost to the first cause.

    requests and urllib3 keep the inner error in `reason`, in `args`, as `__cause__` or only as
    `__context__`. A context of another kind is an exception that was being handled when the
    request was made: it is no cause.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        inner = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        error = next((each for each in inner if isinstance(each, _NETWORK)), None)


def _shown(error: BaseException) -> str:
    """Return a text without URLs: what the operating system says, else the type of the error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
