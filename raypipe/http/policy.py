"""Decide for all requests what is retried, when, and how long a server may take.

`HttpClient` (many files) and `PoliteSession` (pyvo, single tables) both ask through
`ask_until_answered`.
"""

from __future__ import annotations

import http
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from itertools import count
from typing import TypeVar
from urllib.parse import urlsplit

from raypipe._version import __version__
from raypipe.config import DiscoverConfig, IngestConfig
from raypipe.http.errors import FetchError, TryAgain

T = TypeVar("T")

USER_AGENT = f"raypipe/{__version__} python-requests/{version('requests')}"

RETRIED_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
"""The server is busy or in trouble: another attempt may succeed."""

LONGEST_PAUSE_S = 60.0
"""Limit of the pause between two attempts, unless the server asks for more."""

LONGEST_RETRY_AFTER_S = 300.0
"""Longest Retry-After that is waited for. After a longer one the request fails at once."""

TOO_LARGE = int(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
"""Status of the FetchError for an answer that is larger than its limit."""

_LENGTH_DIGITS = 18
_YEAR_S = 365 * 86400.0
_LONGEST_CONNECT_S = 10.0
_DOWN_AFTER = 10
"""Requests that failed in a row, after which a server gets one attempt per request."""


@dataclass(frozen=True)
class Patience:
    """Hold the limits of one request: the settings of these names in [discover] and [ingest].

    A request gets `attempts`. An attempt fails `silence_s` seconds after the last byte, and
    `answer_s` seconds after it began if the answer is incomplete then. The pause between two
    attempts starts at `backoff_s` seconds and doubles.
    """

    attempts: int
    backoff_s: float
    silence_s: float
    answer_s: float

    @classmethod
    def from_settings(cls, settings: DiscoverConfig | IngestConfig) -> Patience:
        """Read the limits of a section of the configuration."""
        return cls(settings.attempts, settings.backoff_s, settings.silence_s, settings.answer_s)

    @property
    def connect_s(self) -> float:
        """Time limit for making a connection, in s."""
        return min(self.silence_s, _LONGEST_CONNECT_S)

    def pause_s(self, attempt: int) -> float:
        """Return the pause after failed attempt number `attempt`, counted from 1, in s.

        It is drawn between half and all of `backoff_s` 2^(attempt - 1), so that clients that failed
        together do not come back together.
        """
        longest = min(LONGEST_PAUSE_S, self.backoff_s * 2.0 ** min(attempt - 1, 60))
        return longest * random.uniform(0.5, 1.0)


class Host:
    """Limit how many requests a server gets at once, and wait when it asks for a pause."""

    def __init__(self, concurrency: int) -> None:
        self.failures_in_a_row = 0
        self._slots = threading.BoundedSemaphore(concurrency)
        self._not_before = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until the server may be asked and a slot is free; keep the slot in the block.

        A TryAgain raised in the block makes the next turns wait for the pause that it asks for.
        Raises TryAgain if that pause is still longer than LONGEST_RETRY_AFTER_S.
        """
        while True:
            self._wait()
            with self._slots:
                if self._not_before > time.monotonic():
                    continue
                try:
                    yield
                except TryAgain as failure:
                    self.hold(failure.asked_pause_s)
                    raise
                return

    def hold(self, seconds: float) -> None:
        """Leave the server alone for some seconds from now."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _wait(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            if wait > LONGEST_RETRY_AFTER_S:
                raise TryAgain("the server asked for a pause", wait)
            time.sleep(wait)


class Hosts:
    """Hold the servers that have been asked, each with `concurrency` slots."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._hosts: dict[str, Host] = {}
        self._lock = threading.Lock()

    def of(self, url: str) -> Host:
        """Return the server that a URL names. Raises FetchError if it is no URL."""
        try:
            name = urlsplit(url).netloc.rpartition("@")[2].lower()
        except ValueError as error:
            raise FetchError(url, "not a URL", retryable=False) from error
        with self._lock:
            return self._hosts.setdefault(name, Host(self._concurrency))


def ask_until_answered(
    url: str,
    host: Host,
    patience: Patience,
    attempt: Callable[[], T],
    retrying: Callable[[TryAgain], None],
) -> T:
    """Return what `attempt` returns, repeating it while it raises TryAgain.

    `retrying` is called before each repetition. Raises FetchError, retryable, after the last
    attempt, or at once if the server asks for a pause longer than LONGEST_RETRY_AFTER_S; errors of
    `attempt` other than TryAgain end the request.
    """
    for number in count(1):
        try:
            with host.turn():
                answer = attempt()
            host.failures_in_a_row = 0
            return answer
        except TryAgain as failure:
            if problem := _why_it_ends(failure, number, host, patience):
                host.failures_in_a_row += 1
                raise FetchError(url, problem, retryable=True) from failure
            retrying(failure)
            time.sleep(patience.pause_s(number))
        except FetchError:
            host.failures_in_a_row = 0
            raise
    raise AssertionError("unreachable")


def _why_it_ends(failure: TryAgain, number: int, host: Host, patience: Patience) -> str | None:
    """Return what to say of the last attempt; None if another one follows."""
    if failure.asked_pause_s > LONGEST_RETRY_AFTER_S:
        return f"{failure}; the server asks to come back at {_clock_time(failure.asked_pause_s)}"
    is_down = host.failures_in_a_row >= _DOWN_AFTER
    if number < patience.attempts and not is_down:
        return None
    return f"{failure}, after {number} attempt{'s' if number > 1 else ''}"


def _clock_time(seconds: float) -> str:
    """Return the time that is some seconds from now, rounded up to minutes.

    Reasons of rejects are counted: all requests that a server did not want must have the same.
    """
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return f"{moment + timedelta(minutes=1):%Y-%m-%d %H:%M} UTC"


def raise_if_busy(status: int, headers: Mapping[str, str]) -> None:
    """Raise TryAgain for a status that is retried, with the pause that the server asks for."""
    if status in RETRIED_STATUSES:
        raise TryAgain(
            f"the server answered {describe_status(status)}",
            retry_after_s(headers.get("Retry-After")),
        )


def describe_status(status: int) -> str:
    """Return a status with its phrase, for instance "404 Not Found"."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after_s(value: str | None) -> float:
    """Parse a Retry-After header, seconds or a date, to seconds, at most a year.

    Returns 0 if there is none or it cannot be read.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _YEAR_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), _YEAR_S)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the length of the content that a server announces, in bytes as sent, if it does."""
    if "Transfer-Encoding" in headers:
        return None
    value = headers.get("Content-Length", "")
    return int(value) if value.isdecimal() and len(value) <= _LENGTH_DIGITS else None


def too_large(url: str, max_bytes: int, *, retryable: bool) -> FetchError:
    """Return the error for an answer of more than `max_bytes`."""
    problem = f"the answer is larger than {max_bytes / 2**20:g} MiB"
    return FetchError(url, problem, retryable=retryable, status=TOO_LARGE)
