"""Make connections whose answers are read against a deadline, and keep them open for reuse.

docs/decisions.md says what requests and urllib3 lack here.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Mapping
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

from raypipe.http.errors import OutOfTimeError
from raypipe.http.policy import Hosts, Patience

_BUFFER = 1 << 16
_MOST_HOSTS = 1000

_clock = threading.local()
"""`patience` of the request that this thread waits for, and its `deadline` (monotonic)."""


def start_clock(patience: Patience) -> None:
    """Start the time of a request: from now on its answer, read in this thread, has a deadline."""
    _clock.patience = patience
    _clock.deadline = time.monotonic() + patience.answer_s


class Connections:
    """Hold this process's connections to all servers, and let requests to a server take turns.

    requests' Session looks up proxies, certificates and .netrc for each request, and may be used
    by one thread only; here they are looked up once per server, and all threads share the pools.
    """

    def __init__(self, concurrency: int) -> None:
        self.hosts = Hosts(concurrency)
        self._routes: dict[tuple[str, str], _Route] = {}
        self._adapter = TimedAdapter(pool_connections=_MOST_HOSTS, pool_maxsize=concurrency)
        self._lock = threading.Lock()

    def get(self, url: str, headers: Mapping[str, str], patience: Patience) -> BaseHTTPResponse:
        """Send a GET; return the answer unread, without following redirects.

        The deadline of the answer counts from here. Raises errors of requests for the URL, and of
        urllib3 for the rest.
        """
        start_clock(patience)
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
            timeout=Timeout(connect=patience.connect_s, read=patience.silence_s),
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
    """Return the connections of this process with this many simultaneous requests per server."""
    return Connections(concurrency)


class _Route(NamedTuple):
    """Describe how to reach a server, by the environment's proxies and certificates and .netrc."""

    pool: HTTPConnectionPool
    by_proxy: bool
    headers: dict[str, str]


class _TimedReader(io.RawIOBase):
    """Read a socket until the deadline of the request.

    A read timeout starts again with every byte, so a server that sends a byte from time to time,
    in the headers or in the body, would occupy a thread forever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        patience: Patience = _clock.patience
        left = _clock.deadline - time.monotonic()
        if left <= 0:
            raise _late(patience)
        limit = min(left, patience.silence_s)
        if self._sock.gettimeout() != limit:
            self._sock.settimeout(limit)
        try:
            return self._sock.recv_into(buffer)
        except TimeoutError as error:
            if limit < patience.silence_s:
                raise _late(patience) from error
            raise OutOfTimeError(f"nothing arrived for {patience.silence_s:g} s") from error

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _late(patience: Patience) -> OutOfTimeError:
    return OutOfTimeError(f"the answer was incomplete after {patience.answer_s:g} s")


class _TimedSocket:
    """Offer the part of a socket that http.client uses to read an answer."""

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


class TimedAdapter(HTTPAdapter):
    """Make connections, direct and through proxies, whose answers are read until a deadline.

    Call `start_clock` before each request.
    """

    _pools = {"http": _TimedHTTPPool, "https": _TimedHTTPSPool}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **keywords: Any) -> None:
        """Prepare direct connections, as requests asks its adapters to."""
        super().init_poolmanager(*args, **keywords)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **keywords: Any) -> Any:
        """Prepare connections through a proxy, as requests asks its adapters to."""
        manager = super().proxy_manager_for(*args, **keywords)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def route(self, request: requests.PreparedRequest) -> _Route:
        """Return how to reach the server of a request."""
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
