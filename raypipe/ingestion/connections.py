"""Connections to servers: so many at once to each, and none that holds a thread for long."""

from __future__ import annotations

import io
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPResponse
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from raypipe.ingestion.fetch_error import FetchError

_BUFFER = 1 << 16

_clock = threading.local()
"""`deadline` (monotonic) and `patience` (seconds) of the request this thread waits for."""


def start_clock(deadline_s: float, patience_s: float) -> None:
    """From now this thread reads answers for `deadline_s` at most, each read `patience_s`."""
    _clock.deadline = time.monotonic() + deadline_s
    _clock.patience = patience_s


class Host:
    """A server: so many requests at once, none before it wants to be asked again."""

    def __init__(self, concurrency: int) -> None:
        self.given_up = 0
        """Files in a row that the host did not hand out."""
        self._slots = threading.BoundedSemaphore(concurrency)
        self._not_before = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the host's Retry-After and for a free slot."""
        while True:
            while (wait := self._not_before - time.monotonic()) > 0:
                time.sleep(wait)
            with self._slots:
                if self._not_before <= time.monotonic():
                    yield
                    return

    def hold(self, seconds: float) -> None:
        """Leave the host alone for so long."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)


class Connections:
    """Hosts and idle sessions of this process; a session serves one thread at a time."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._hosts: dict[str, Host] = {}
        self._idle: queue.LifoQueue[requests.Session] = queue.LifoQueue()
        self._lock = threading.Lock()

    def host(self, url: str) -> Host:
        """The server a URL names; FetchError where it is no URL."""
        try:
            name = urlsplit(url).netloc.rpartition("@")[2].lower()
        except ValueError as error:
            raise FetchError(url, "not a URL", retryable=False) from error
        with self._lock:
            return self._hosts.setdefault(name, Host(self._concurrency))

    @contextmanager
    def session(self) -> Iterator[requests.Session]:
        """A session of this thread alone."""
        try:
            session = self._idle.get_nowait()
        except queue.Empty:
            session = _new_session()
        try:
            yield session
        finally:
            self._idle.put(session)


@lru_cache(maxsize=4)
def shared_connections(concurrency: int) -> Connections:
    """The connections of this process that ask a host so many files at once."""
    return Connections(concurrency)


class _Session(requests.Session):
    """Looks up proxies and certificates of the environment once for a host, not for each file."""

    def __init__(self) -> None:
        super().__init__()
        self._environment: dict[tuple[str, str], Any] = {}

    def merge_environment_settings(self, url: Any, *args: Any, **keywords: Any) -> Any:
        parts = urlsplit(url)
        host = parts.scheme, parts.netloc
        if host not in self._environment:
            settings = super().merge_environment_settings(url, *args, **keywords)
            self._environment[host] = settings
        return self._environment[host]


def _new_session() -> requests.Session:
    session = _Session()
    for scheme in "http://", "https://":
        session.mount(scheme, _TimedAdapter())
    return session


class _TimedReader(io.RawIOBase):
    """Reads a socket, never beyond the deadline of the request.

    A read timeout alone starts anew with every byte: a server that drips would hold a thread
    forever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = _clock.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("deadline")
        self._sock.settimeout(min(left, _clock.patience))
        return cast(io.RawIOBase, self._raw).readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _TimedSocket:
    """What http.client needs of a socket to read an answer from it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock), _BUFFER)


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **keywords: Any) -> None:
        super().__init__(cast(socket.socket, _TimedSocket(sock)), *args, **keywords)


class _TimedHTTPConnection(HTTPConnection):
    response_class = _TimedResponse


class _TimedHTTPSConnection(HTTPSConnection):
    response_class = _TimedResponse


class _TimedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _TimedHTTPConnection


class _TimedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _TimedHTTPSConnection


class _TimedAdapter(HTTPAdapter):
    """Makes connections, direct and through proxies, whose answers are read against the clock."""

    _pools = {"http": _TimedHTTPPool, "https": _TimedHTTPSPool}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **keywords: Any) -> None:
        super().init_poolmanager(*args, **keywords)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **keywords: Any) -> Any:
        manager = super().proxy_manager_for(*args, **keywords)
        manager.pool_classes_by_scheme = self._pools
        return manager
