"""Send the requests of pyvo, and fetch single tables, with the retry policy of all requests."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import requests
from urllib3 import HTTPResponse

from raypipe.errors import ServiceError
from raypipe.http.connections import TimedAdapter, start_clock
from raypipe.http.errors import FetchError, TryAgain, network_errors_explained
from raypipe.http.policy import (
    USER_AGENT,
    Hosts,
    Patience,
    ask_until_answered,
    content_length,
    raise_if_busy,
    too_large,
)
from raypipe.http.redirects import MOST_REDIRECTS, require_allowed, resolve, too_many_redirects
from raypipe.redaction import redact

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_ANSWER_BYTES = 512 << 20


class PoliteSession(requests.Session):
    """Retry requests by `raypipe.http.policy`, and read answers completely, within limits.

    A redirect is a separate request, with its own attempts: a POST is not repeated because the
    page that it leads to is busy. An answer of more than `answer_bytes`, decompressed, is
    abandoned. `is_answer` may accept answers whose status would be retried otherwise.
    `requests_sent` counts attempts and redirects. Failures are ServiceErrors.
    """

    def __init__(
        self,
        patience: Patience,
        *,
        answer_bytes: int = _ANSWER_BYTES,
        is_answer: Callable[[requests.Response], bool] = lambda response: False,
    ) -> None:
        super().__init__()
        self.requests_sent = 0
        self.headers["User-Agent"] = USER_AGENT
        for scheme in "http://", "https://":
            self.mount(scheme, TimedAdapter())
        self._patience = patience
        self._answer_bytes = answer_bytes
        self._is_answer = is_answer
        self._hosts = Hosts(concurrency=1)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request and follow its redirects. Raises ServiceError if there is no answer."""
        follows = options.pop("allow_redirects", True)
        options["stream"] = True
        options["timeout"] = (self._patience.connect_s, self._patience.silence_s)
        passed: list[requests.Response] = []
        try:
            response = self._answer(request, options)
            while follows and response.next is not None:
                if len(passed) == MOST_REDIRECTS:
                    raise too_many_redirects(str(request.url))
                passed.append(response)
                request = response.next
                require_allowed(response.url, str(request.url))
                options["proxies"] = self.rebuild_proxies(request, options.get("proxies"))
                response = self._answer(request, options)
        except FetchError as failure:
            advice = "; run the same command again later" if failure.retryable else ""
            raise ServiceError(f"{request.method} {failure}{advice}") from failure
        response.history = passed
        return response

    def pause(self, attempt: int) -> None:
        """Wait after failed attempt number `attempt`, counted from 1, before another one."""
        time.sleep(self._patience.pause_s(attempt))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where an answer redirects to; its content, which may never end, is dropped."""
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()
            resp.raw = _KeptBody(b"")
            resolve(resp.url, target)
        return target

    def _answer(
        self, request: requests.PreparedRequest, options: dict[str, Any]
    ) -> requests.Response:
        """Send one request until it is answered, without following a redirect."""
        url = str(request.url)
        send = super().send

        def attempt() -> requests.Response:
            self.requests_sent += 1
            start_clock(self._patience)
            with network_errors_explained(url):
                response = send(request, allow_redirects=False, **options)
                if response.next is None:
                    self._read_whole(response)
            if not self._is_answer(response):
                raise_if_busy(response.status_code, response.headers)
            return response

        def retrying(failure: TryAgain) -> None:
            asked = failure.asked_pause_s
            when = f" in {asked:.0f} s, as the server asks" if asked else ""
            log.info("%s %s: %s; retrying%s", request.method, redact(url), failure, when)

        return ask_until_answered(url, self._hosts.of(url), self._patience, attempt, retrying)

    def _read_whole(self, response: requests.Response) -> None:
        """Read the content at once: if the connection breaks, the attempt has failed."""
        with closing(response):
            body = b"".join(self._pieces(response))
        response.raw = _KeptBody(body)
        _ = response.content  # requests takes the content over from `raw`, and keeps it.
        response.raw = _KeptBody(body)

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        if (content_length(response.headers) or 0) > self._answer_bytes:
            raise too_large(response.url, self._answer_bytes, retryable=False)
        size = 0
        while piece := response.raw.read1(_CHUNK, decode_content=True):
            size += len(piece)
            if size > self._answer_bytes:
                raise too_large(response.url, self._answer_bytes, retryable=False)
            yield piece


class _KeptBody(HTTPResponse):
    """Serve content that was read already to readers of `Response.raw`, without copying it."""

    def __init__(self, body: bytes) -> None:
        super().__init__(io.BytesIO(body), preload_content=False)

    def stream(
        self, amt: int | None = None, decode_content: bool | None = None
    ) -> Generator[bytes, None, None]:
        """Yield everything at once."""
        yield self.read()
