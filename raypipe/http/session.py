"""Send HTTP requests that identify raypipe, are retried where it helps, and never wait forever."""

from __future__ import annotations

import io
import logging
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any

import requests
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from raypipe._version import __version__
from raypipe.errors import ServiceError
from raypipe.redaction import redact

log = logging.getLogger(__name__)

USER_AGENT = f"raypipe/{__version__} python-requests/{version('requests')}"
_TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    HTTPError,
)
_BUSY = {429, 502, 503, 504}
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Patience:
    """Limits on attempts, waits and sizes of requests.

    A request gets `attempts`. An attempt fails after `silence_s` without a byte, or `answer_s`
    without a complete answer. The pause between attempts starts at `backoff_s` and doubles, is
    randomized between half and all of that, and never exceeds `longest_pause_s`, even if a
    Retry-After asks for more. An answer that exceeds `answer_bytes`, decompressed, is abandoned.
    """

    attempts: int = 6
    silence_s: float = 120.0
    answer_s: float = 1800.0
    backoff_s: float = 1.0
    longest_pause_s: float = 300.0
    answer_bytes: int = 512 << 20


class PoliteSession(requests.Session):
    """A session that reads answers completely, within time limits, and retries failed requests.

    It retries on status 429, 502, 503, 504, on 500 unless the answer is a VOTable, on failed or
    broken connections, and on stalled answers; it obeys Retry-After. After the last attempt it
    raises ServiceError. `requests_sent` counts attempts and redirects.
    """

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self.patience = patience
        self.requests_sent = 0
        self.headers["User-Agent"] = USER_AGENT

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request until it is answered; redirects are followed as separate requests.

        Raises ServiceError if there is no answer.
        """
        options["stream"] = True
        options["timeout"] = (min(30.0, self.patience.silence_s), self.patience.silence_s)
        where = f"{request.method} {redact(request.url or '')}"
        for attempt in range(1, self.patience.attempts + 1):
            asked_pause = 0.0
            self.requests_sent += 1
            try:
                response = super().send(request, **options)
                if not response._content_consumed:
                    self._read_whole(response)
                if not _worth_retrying(response):
                    return response
                problem = f"HTTP {response.status_code} {response.reason}"
                asked_pause = retry_after_s(response.headers.get("Retry-After"))
            except _TRANSIENT as error:
                problem = _root_cause(error)
            if asked_pause > self.patience.longest_pause_s:
                raise ServiceError(
                    f"{where}: {problem}; the server asks to come back in {asked_pause:.0f} s; "
                    "run the same command again then"
                )
            if attempt < self.patience.attempts:
                log.info("%s: %s; retrying", where, problem)
                self.pause(attempt, asked_pause)
        raise ServiceError(
            f"{where}: {problem}, after {self.patience.attempts} attempts; "
            "run the same command again later"
        )

    def pause(self, attempt: int, at_least_s: float = 0.0) -> None:
        """Wait after failed attempt number `attempt`, counted from 1."""
        pause = min(self.patience.backoff_s * 2 ** (attempt - 1), self.patience.longest_pause_s)
        time.sleep(max(at_least_s, pause * random.uniform(0.5, 1.0)))

    def _read_whole(self, response: requests.Response) -> None:
        """Read the body at once, so that a break in it counts as a failed attempt."""
        end = time.monotonic() + self.patience.answer_s
        body = bytearray()
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            body += chunk
            if len(body) > self.patience.answer_bytes:
                response.close()
                raise ServiceError(
                    f"{redact(response.url)}: the answer is larger than "
                    f"{self.patience.answer_bytes / 2**20:g} MiB"
                )
            if time.monotonic() > end:
                response.close()
                raise requests.Timeout(f"answer incomplete after {self.patience.answer_s:.0f} s")
        response.close()
        response._content = bytes(body)
        response._content_consumed = True
        response.raw = HTTPResponse(
            io.BytesIO(body), status=response.status_code, preload_content=False
        )


def retry_after_s(value: str | None) -> float:
    """Parse a Retry-After header to seconds; 0 if it is absent or unreadable."""
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _worth_retrying(response: requests.Response) -> bool:
    """Whether to retry: not after a TAP service's error document, even with status 500."""
    if response.status_code == 500:
        return b"<VOTABLE" not in response.content[:4096].upper()
    return response.status_code in _BUSY


def _root_cause(error: BaseException) -> str:
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, BaseException) else error)
