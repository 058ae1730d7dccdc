"""HTTP as a polite guest: named, patient, retried where it helps, with an end to every wait."""

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
    """How long and how often to try.

    `attempts` a request gets; `silence_s` without a byte and `answer_s` for a whole answer before
    an attempt is given up; pauses between attempts start at `backoff_s`, double, are drawn from
    half to all of that, and never exceed `longest_pause_s`, not for a Retry-After either. An
    answer of more than `answer_bytes`, unpacked, is not read to its end.
    """

    attempts: int = 6
    silence_s: float = 120.0
    answer_s: float = 1800.0
    backoff_s: float = 1.0
    longest_pause_s: float = 300.0
    answer_bytes: int = 512 << 20


class PoliteSession(requests.Session):
    """A session whose answers are whole: read to the end, within time, retried on failure.

    Retried are answers of 429, 502, 503, 504 and of 500 without a VOTable in it, connections that
    fail or break, and answers that stall; Retry-After is obeyed. After the last attempt
    ServiceError is raised. `requests_sent` counts every attempt and redirect.
    """

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self.patience = patience
        self.requests_sent = 0
        self.headers["User-Agent"] = USER_AGENT

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send one request until it is answered; redirects are followed as requests of their own.

        Raises ServiceError where it is not answered.
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
                    f"{where}: {problem}, and asks to come back in {asked_pause:.0f} s; "
                    "run the same command again then"
                )
            if attempt < self.patience.attempts:
                log.info("%s: %s; asking again", where, problem)
                self.pause(attempt, asked_pause)
        raise ServiceError(
            f"{where}: {problem} at the last of {self.patience.attempts} attempts; "
            "run the same command again later"
        )

    def pause(self, attempt: int, at_least_s: float = 0.0) -> None:
        """Wait after failed attempt number `attempt`, counted from 1."""
        pause = min(self.patience.backoff_s * 2 ** (attempt - 1), self.patience.longest_pause_s)
        time.sleep(max(at_least_s, pause * random.uniform(0.5, 1.0)))

    def _read_whole(self, response: requests.Response) -> None:
        """Read the body now, so that a break in it counts as a failed attempt."""
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
                raise requests.Timeout(f"answer not whole after {self.patience.answer_s:.0f} s")
        response.close()
        response._content = bytes(body)
        response._content_consumed = True
        response.raw = HTTPResponse(
            io.BytesIO(body), status=response.status_code, preload_content=False
        )


def retry_after_s(value: str | None) -> float:
    """Seconds that a Retry-After header asks to wait; 0 without one or with an unreadable one."""
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
    """A TAP service may send its error document, which no retry mends, with a status of 500."""
    if response.status_code == 500:
        return b"<VOTABLE" not in response.content[:4096].upper()
    return response.status_code in _BUSY


def _root_cause(error: BaseException) -> str:
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, BaseException) else error)
