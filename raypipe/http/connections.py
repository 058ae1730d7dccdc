"""Connections to servers: so many at once to each, and none that holds a thread for long."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPResponse
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url, get_netrc_auth, urldefragauth
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import make_headers

from raypipe.http.errors import FetchError

_BUFFER = 1 << 16
_MOST_HOSTS = 1000

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
    """Hosts of this process, and the connections to them that are kept open."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._hosts: dict[str, Host] = {}
        self._routes: dict[tuple[str, str], _Route] = {}
        self._adapter = _TimedAdapter(pool_connections=_MOST_HOSTS, pool_maxsize=concurrency)
        self._lock = threading.Lock()

    def host(self, url: str) -> Host:
        """The server a URL names; FetchError where it is no URL."""
        try:
            name = urlsplit(url).netloc.rpartition("@")[2].lower()
        except ValueError as error:
            raise FetchError(url, "not a URL", retryable=False) from error
        with self._lock:
            return self._hosts.setdefault(name, Host(self._concurrency))

    def get(
        self, url: str, headers: Mapping[str, str], connect_s: float, patience_s: float
    ) -> BaseHTTPResponse:
        """The answer to a GET, not read yet, redirects not followed.

        Raises what requests says of URLs, and urllib3 of connections.
        """
        request = requests.PreparedRequest()
        request.prepare_url(url, None)
        whole_url = str(request.url)
        route = self._route(request)
        user, password = get_auth_from_url(whole_url)
        own = make_headers(basic_auth=f"{user}:{password}") if user or password else route.headers
        return route.pool.urlopen(
            "GET",
            urldefragauth(whole_url) if route.by_proxy else request.path_url,
            headers={**headers, **own},
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
            timeout=Timeout(connect=connect_s, read=patience_s),
        )

    def _route(self, request: requests.PreparedRequest) -> _Route:
        parts = urlsplit(str(request.url))
        server = parts.scheme, parts.netloc
        with self._lock:
            if server not in self._routes:
                self._routes[server] = self._adapter.route(request)
            return self._routes[server]


@lru_cache(maxsize=4)
def shared_connections(concurrency: int) -> Connections:
    """The connections of this process that ask a host so many files at once."""
    return Connections(concurrency)


class _Route(NamedTuple):
    """How a server is reached: what the environment says of proxies, certificates and .netrc."""

    pool: HTTPConnectionPool
    by_proxy: bool
    headers: dict[str, str]


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

    def readinto(self, buffer: Any) -> int:
        left = _clock.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("deadline")
        patience = min(left, _clock.patience)
        if self._sock.gettimeout() != patience:
            self._sock.settimeout(patience)
        return self._sock.recv_into(buffer)

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

    def route(self, request: requests.PreparedRequest) -> _Route:
        """How to reach the server of a request."""
        url = str(request.url)
        with requests.Session() as session:
            settings = session.merge_environment_settings(url, {}, None, None, None)
        proxies = settings["proxies"]
        pool = self.get_connection_with_tls_context(
            request, settings["verify"], proxies, settings["cert"]
        )
        by_proxy = self.request_url(request, proxies) != request.path_url
        login = get_netrc_auth(url)
        headers = make_headers(basic_auth=":".join(login)) if login else {}
        return _Route(pool, by_proxy, headers)
