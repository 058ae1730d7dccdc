"""HTTP for whole releases: bounded in time and size, patient with servers in trouble."""

from __future__ import annotations

import http
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from urllib3 import BaseHTTPResponse

from raypipe.config import IngestConfig
from raypipe.http.connections import shared_connections, start_clock
from raypipe.http.errors import FetchError
from raypipe.http.redirects import leads_inside
from raypipe.http.session import USER_AGENT, retry_after_s
from raypipe.redaction import redact

T = TypeVar("T")

TOO_LARGE = int(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
"""Status of a FetchError about content that is larger than asked for."""

_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}

_CHUNK = 1 << 20
_LONGEST_CONNECT_S = 10.0
_LONGEST_BACKOFF_S = 60.0
_LONGEST_RETRY_AFTER_S = 120.0
_MOST_REDIRECTS = 5
_RETRIED = (408, 425, 429)
_REDIRECTED = (301, 302, 303, 307, 308)
_TAGS = re.compile(r"(?is)<!--.*?-->|<(style|script)\b.*?</\1>|<[^>]*(>|$)")
_MESSAGE_CHARACTERS = 200
_DOWN_AFTER = 10
"""Files given up in a row after which a host is asked once, not repeatedly, for each file."""


class TryAgain(Exception):
    """What went wrong with an answer and may go right with the next one."""

    def __init__(self, problem: str, asked_pause_s: float = 0.0) -> None:
        super().__init__(problem)
        self.asked_pause_s = asked_pause_s


@dataclass
class Traffic:
    """What was asked of servers and what came; counted by many threads.

    `connected_s` is the time spent in requests, all connections together; `rmfs` and `rmf_bytes`
    are the part of RMFs in what came.
    """

    requests: int = 0
    retries: int = 0
    bytes_read: int = 0
    connected_s: float = 0.0
    rmfs: int = 0
    rmf_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self,
        *,
        requests: int = 0,
        retries: int = 0,
        bytes_read: int = 0,
        connected_s: float = 0.0,
        rmfs: int = 0,
        rmf_bytes: int = 0,
    ) -> None:
        """Count some more."""
        with self._lock:
            self.requests += requests
            self.retries += retries
            self.bytes_read += bytes_read
            self.connected_s += connected_s
            self.rmfs += rmfs
            self.rmf_bytes += rmf_bytes

    def counts(self) -> dict[str, float]:
        """All counts by name."""
        names = "requests", "retries", "bytes_read", "connected_s", "rmfs", "rmf_bytes"
        with self._lock:
            return {name: getattr(self, name) for name in names}

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Count the time spent inside the block as that of a connection."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(connected_s=time.monotonic() - started)


class Body:
    """The content of an answer as the server sent it, at most `max_bytes` of it."""

    def __init__(
        self, url: str, response: BaseHTTPResponse, max_bytes: int, traffic: Traffic
    ) -> None:
        self.content_type: str = response.headers.get("Content-Type", "no content type")
        self._url = url
        self._response = response
        self._max_bytes = max_bytes
        self._traffic = traffic
        self._size = _content_length(response.headers)
        self._read = 0
        if self._size is not None and self._size > max_bytes:
            raise self._too_large(f"{self._size} bytes")

    def read(self, size: int) -> bytes:
        """Up to `size` more bytes, b"" at the end; TryAgain where the server stopped early."""
        data = self._response.read(size)
        self._read += len(data)
        self._traffic.add(bytes_read=len(data))
        if self._read > self._max_bytes:
            raise self._too_large(f"over {self._max_bytes} bytes")
        if not data and size and self._size is not None and self._read < self._size:
            raise TryAgain(f"the connection ended after {self._read} of {self._size} bytes")
        return data

    def read_all(self) -> bytes:
        """All of it."""
        pieces = []
        while piece := self.read(self._size or _CHUNK):
            pieces.append(piece)
        return b"".join(pieces)

    def _too_large(self, size: str) -> FetchError:
        return FetchError(
            self._url, f"{size}, more than ingest allows", retryable=True, status=TOO_LARGE
        )


class HttpClient:
    """Asks servers for files, with retries; one for a part, connections shared by a process."""

    def __init__(self, config: IngestConfig, traffic: Traffic) -> None:
        self._config = config
        self._traffic = traffic
        self._shared = shared_connections(config.host_concurrency)

    def request(
        self, make_url: Callable[[], str], max_bytes: int, consume: Callable[[Body], T]
    ) -> T:
        """What `consume` makes of the answer to a GET; it may raise TryAgain.

        `make_url` is called for each try. Tries are repeated after 408, 425, 429, 5xx, timeouts
        and broken connections, with exponential backoff and full jitter, and not before a
        server's Retry-After. Raises FetchError, retryable where the tries were used up.
        """
        for attempt in count():
            url = make_url()
            host = self._shared.host(url)
            try:
                with host.turn(), self._traffic.connected():
                    result = self._attempt(url, max_bytes, consume)
                host.given_up = 0
                return result
            except FetchError:
                host.given_up = 0
                raise
            except TryAgain as failure:
                host.hold(failure.asked_pause_s)
                tries = 1 if host.given_up >= _DOWN_AFTER else self._config.retries + 1
                if attempt + 1 >= tries:
                    host.given_up += 1
                    raise FetchError(
                        url, f"{failure} ({_times(attempt + 1)})", retryable=True
                    ) from failure
                self._traffic.add(retries=1)
                time.sleep(self._backoff(attempt))
        raise AssertionError("unreachable")

    def _attempt(self, url: str, max_bytes: int, consume: Callable[[Body], T]) -> T:
        start_clock(self._config.http_deadline_s, self._config.http_timeout_s)
        asked = url
        for _ in range(_MOST_REDIRECTS + 1):
            with _explained(url), self._get(asked) as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTED or target is None:
                    _require_success(url, response)
                    return consume(Body(url, response, max_bytes, self._traffic))
                asked = urljoin(asked, target)
            if urlsplit(asked).scheme not in ("http", "https"):
                raise FetchError(url, f"redirected to {redact(asked)}, not http(s)", retryable=True)
            if leads_inside(url, asked):
                raise FetchError(
                    url, f"redirected to {redact(asked)}, inside the own network", retryable=True
                )
        raise FetchError(url, f"more than {_MOST_REDIRECTS} redirects", retryable=True)

    @contextmanager
    def _get(self, url: str) -> Iterator[BaseHTTPResponse]:
        self._traffic.add(requests=1)
        patience = self._config.http_timeout_s
        response = self._shared.get(url, _HEADERS, min(patience, _LONGEST_CONNECT_S), patience)
        try:
            yield response
        finally:
            response.close()

    def _backoff(self, attempt: int) -> float:
        longest = min(_LONGEST_BACKOFF_S, self._config.backoff_s * 2**attempt)
        return random.uniform(0.0, longest)


def _require_success(url: str, response: BaseHTTPResponse) -> None:
    status = response.status
    if status == http.HTTPStatus.OK:
        return
    problem = f"the server answered {_described(status)}"
    if status in _RETRIED or status >= 500:
        asked_pause = retry_after_s(response.headers.get("Retry-After"))
        raise TryAgain(problem, min(asked_pause, _LONGEST_RETRY_AFTER_S))
    raise FetchError(url, problem, retryable=False, status=status)


def _described(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _content_length(headers: Any) -> int | None:
    if "Transfer-Encoding" in headers:
        return None
    value = headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


def first_line(content: bytes) -> str:
    """The first line of what an error answer (text, HTML, VOTable) says, without its tags."""
    for line in _TAGS.sub("\n", content.decode("utf-8", "replace")).splitlines():
        words = " ".join(line.split())
        if words:
            return "".join(filter(str.isprintable, words))[:_MESSAGE_CHARACTERS]
    return "empty"


def _times(tries: int) -> str:
    return "asked once" if tries == 1 else f"asked {tries} times"


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what the HTTP library raises into TryAgain or FetchError; its texts hold whole URLs."""
    try:
        yield
    except urllib3.exceptions.NewConnectionError as error:
        raise TryAgain(f"the connection failed ({_root_cause(error)})") from error
    except (urllib3.exceptions.TimeoutError, TimeoutError) as error:
        raise TryAgain("no whole answer in time") from error
    except urllib3.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise TryAgain("the encrypted connection broke") from error
        raise FetchError(url, "its certificate is not trusted", retryable=False) from error
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        urllib3.exceptions.LocationValueError,
        UnicodeError,
    ) as error:
        raise FetchError(url, "not a URL that can be asked", retryable=False) from error
    except (urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
        raise TryAgain(f"the connection failed ({_root_cause(error)})") from error


def _root_cause(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
