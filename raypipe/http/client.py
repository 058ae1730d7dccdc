"""Fetch the files of a release over HTTP, with many threads and bounded sizes."""

from __future__ import annotations

import http
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from urllib3 import BaseHTTPResponse

from raypipe.config import IngestConfig
from raypipe.http.connections import shared_connections
from raypipe.http.errors import FetchError, TryAgain, network_errors_explained
from raypipe.http.policy import (
    USER_AGENT,
    Patience,
    ask_until_answered,
    content_length,
    describe_status,
    raise_if_busy,
    too_large,
)
from raypipe.http.redirects import (
    MOST_REDIRECTS,
    REDIRECT_STATUSES,
    require_allowed,
    resolve,
    too_many_redirects,
)

T = TypeVar("T")

_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}

_CHUNK = 1 << 20
_TAGS = re.compile(r"(?is)<!--.*?-->|<(style|script)\b.*?</\1>|<[^>]*(>|$)")
_MESSAGE_CHARACTERS = 200


@dataclass
class Traffic:
    """Count requests and the bytes that arrived; several threads may count at once.

    `connected_s` is the time spent in requests, summed over all connections, in s. `rmfs` and
    `rmf_bytes` are the RMFs among the files and their share of the bytes.
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
        """Add to the counts."""
        with self._lock:
            self.requests += requests
            self.retries += retries
            self.bytes_read += bytes_read
            self.connected_s += connected_s
            self.rmfs += rmfs
            self.rmf_bytes += rmf_bytes

    def counts(self) -> dict[str, float]:
        """Return all counts by name."""
        names = "requests", "retries", "bytes_read", "connected_s", "rmfs", "rmf_bytes"
        with self._lock:
            return {name: getattr(self, name) for name in names}

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Add the time spent inside the block to `connected_s`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(connected_s=time.monotonic() - started)


class Body:
    """Read the content of an answer as the server sends it, at most `max_bytes` of it.

    A larger one raises FetchError with status TOO_LARGE, before it is read if the server announces
    its length.
    """

    def __init__(
        self, url: str, response: BaseHTTPResponse, max_bytes: int, traffic: Traffic
    ) -> None:
        self.content_type: str = response.headers.get("Content-Type", "no content type")
        self._url = url
        self._response = response
        self._max_bytes = max_bytes
        self._traffic = traffic
        self._size = content_length(response.headers)
        self._read = 0
        if self._size is not None and self._size > max_bytes:
            raise too_large(url, max_bytes, retryable=True)

    def read(self, size: int) -> bytes:
        """Return up to `size` more bytes, b"" at the end.

        Raises TryAgain if the server sent less than it announced.
        """
        data = self._response.read(size)
        self._read += len(data)
        self._traffic.add(bytes_read=len(data))
        if self._read > self._max_bytes:
            raise too_large(self._url, self._max_bytes, retryable=True)
        if not data and size and self._size is not None and self._read < self._size:
            raise TryAgain(f"the connection ended after {self._read} of {self._size} bytes")
        return data

    def read_all(self) -> bytes:
        """Return all remaining bytes."""
        pieces = []
        while piece := self.read(self._size or _CHUNK):
            pieces.append(piece)
        return b"".join(pieces)


class HttpClient:
    """Fetch files with retries. One client serves a part; the process shares the connections."""

    def __init__(self, config: IngestConfig, traffic: Traffic) -> None:
        self._patience = Patience.from_settings(config)
        self._traffic = traffic
        self._connections = shared_connections(config.host_concurrency)

    def request(
        self, make_url: Callable[[], str], max_bytes: int, consume: Callable[[Body], T]
    ) -> T:
        """Return what `consume` makes of the answer to a GET.

        `make_url` is called for each attempt, and `consume` may raise TryAgain to cause another
        one. `raypipe.http.policy` decides what else is retried. Raises FetchError, retryable after
        the last attempt.
        """
        url = make_url()
        return ask_until_answered(
            url,
            self._connections.hosts.of(url),
            self._patience,
            lambda: self._attempt(make_url(), max_bytes, consume),
            lambda failure: self._traffic.add(retries=1),
        )

    def _attempt(self, url: str, max_bytes: int, consume: Callable[[Body], T]) -> T:
        with self._traffic.connected():
            hop = url
            for _ in range(MOST_REDIRECTS + 1):
                self._traffic.add(requests=1)
                with network_errors_explained(url), self._get(hop) as response:
                    location = response.headers.get("Location")
                    if response.status not in REDIRECT_STATUSES or location is None:
                        _require_success(url, response)
                        return consume(Body(url, response, max_bytes, self._traffic))
                target = resolve(hop, location)
                require_allowed(hop, target)
                hop = target
        raise too_many_redirects(url)

    def _get(self, url: str) -> closing[BaseHTTPResponse]:
        return closing(self._connections.get(url, _HEADERS, self._patience))


def _require_success(url: str, response: BaseHTTPResponse) -> None:
    if response.status == http.HTTPStatus.OK:
        return
    raise_if_busy(response.status, response.headers)
    problem = f"the server answered {describe_status(response.status)}"
    raise FetchError(url, problem, retryable=False, status=response.status)


def first_line(content: bytes) -> str:
    """Return the first line of text in an error answer (text, HTML or VOTable), without tags."""
    for line in _TAGS.sub("\n", content.decode("utf-8", "replace")).splitlines():
        words = " ".join(line.split())
        if words:
            return "".join(filter(str.isprintable, words))[:_MESSAGE_CHARACTERS]
    return "empty"
