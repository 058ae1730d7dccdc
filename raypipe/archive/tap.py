"""Query a TAP service, synchronously or by UWS jobs; returns Arrow tables and an overflow flag."""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa
import pyvo
import requests
from astropy.io.votable import parse as parse_votable
from astropy.io.votable.exceptions import VOTableSpecError
from astropy.table import Column as AstropyColumn
from pyvo.dal import AsyncTAPJob, DALFormatError, DALQueryError, DALServiceError
from pyvo.dal.exceptions import DALAccessError
from pyvo.dal.tap import TAPQuery, TAPResults

from raypipe.config import DiscoverConfig
from raypipe.errors import RaypipeError, ServiceError
from raypipe.http.policy import Patience
from raypipe.http.session import PoliteSession
from raypipe.redaction import redact

T = TypeVar("T")

log = logging.getLogger(__name__)

_UNREADABLE = (DALFormatError, ExpatError, VOTableSpecError, ValueError, OSError)
_ENDED = {"COMPLETED", "ERROR", "ABORTED", "ARCHIVED"}
_PHASES = _ENDED | {"PENDING", "QUEUED", "EXECUTING", "HELD", "SUSPENDED", "UNKNOWN"}
_LONGEST_POLL_S = 30.0
_POLL_GROWTH = 1.5


class QueryRefused(RaypipeError):
    """Report that the service refuses a query; the text is the service's error document."""


@dataclass(frozen=True)
class Answer:
    """Hold the rows of a query, columns in lower case, and whether the service cut some off."""

    table: pa.Table
    overflow: bool


class TapService:
    """Query a TAP service with retries; `session.requests_sent` counts the requests to it."""

    def __init__(self, url: str, settings: DiscoverConfig) -> None:
        self.url = url.rstrip("/")
        self.name = redact(self.url)
        self.settings = settings
        patience = Patience.from_settings(settings)
        self.session = PoliteSession(patience, is_answer=_is_error_document)
        self._service = pyvo.dal.TAPService(self.url, session=self.session)

    def row_limit(self) -> int | None:
        """Return the service's row limit from its capabilities; None if it does not state one."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return int(self._service.hardlimit)
        except (DALAccessError, ServiceError, *_UNREADABLE) as error:
            log.info("%s: row limit unknown (%s)", self.name, str(error).partition("\n")[0])
            return None

    def search(self, adql: str, rows: int) -> Answer:
        """Return the rows of a query, of which at most `rows` are expected.

        Up to `sync_rows` rows are queried synchronously, more with a job, which is deleted
        afterwards. Raises QueryRefused with the service's error document, ServiceError if no
        complete answer arrives.
        """
        try:
            if rows > self.settings.sync_rows:
                return self._run_job(adql, rows + 1)
            query = TAPQuery(self.url, adql, maxrec=rows + 1, session=self.session)
            return self._until_readable(lambda: _read_votable(query.submit()))
        except DALQueryError as error:
            raise QueryRefused(f"{self.name}: {str(error).strip()}") from error
        except DALServiceError as error:
            raise ServiceError(f"{self.name}: {str(error).strip()}") from error

    def _run_job(self, adql: str, maxrec: int) -> Answer:
        query = TAPQuery(self.url, adql, mode="async", maxrec=maxrec, session=self.session)
        url = self._until_readable(lambda: _read_job_url(query.submit()))
        log.debug("%s: created", redact(url))
        try:
            job = self._until_readable(lambda: AsyncTAPJob(url, session=self.session))
            self._start(job)
            self._wait(job)
            return self._until_readable(lambda: _read_votable(self.session.get(job.result_uri)))
        finally:
            self._delete(url)

    def _delete(self, job_url: str) -> None:
        """Delete a job with few, short attempts: this may delay the exit after an interrupt."""
        hasty = PoliteSession(Patience(attempts=3, backoff_s=0.2, silence_s=3.0, answer_s=3.0))
        try:
            hasty.delete(job_url, allow_redirects=False).raise_for_status()
        except (requests.RequestException, ServiceError) as error:
            log.warning("%s: the job could not be deleted (%s)", redact(job_url), error)
        self.session.requests_sent += hasty.requests_sent

    def _start(self, job: AsyncTAPJob) -> None:
        """Start a job; its phase shows whether it runs, whatever the answer to the request."""
        problem = "its phase stays PENDING"
        for attempt in range(1, self.settings.attempts + 1):
            try:
                job.run()
            except DALServiceError as error:
                problem = str(error).strip()
            if self._phase(job) != "PENDING":
                return
            self.session.pause(attempt)
        raise ServiceError(f"{redact(job.url)}: the job does not start ({problem})")

    def _wait(self, job: AsyncTAPJob) -> None:
        end = time.monotonic() + self.settings.job_s
        pause = self.settings.poll_s
        while (phase := self._phase(job)) not in _ENDED:
            if time.monotonic() > end:
                raise ServiceError(
                    f"{redact(job.url)}: still {phase} after {self.settings.job_s:.0f} s; run "
                    "the same command again, with a smaller discover.page_rows or a larger "
                    "discover.job_s"
                )
            time.sleep(pause)
            pause = min(pause * _POLL_GROWTH, _LONGEST_POLL_S)
        job.raise_if_error()
        if job.result_uri is None:
            raise ServiceError(f"{redact(job.url)}: the job is {phase} but has no result")

    def _phase(self, job: AsyncTAPJob) -> str:
        def look() -> str:
            phase = job.phase
            if phase not in _PHASES:
                raise ValueError(f"no description of a job at {redact(job.url)}")
            return str(phase)

        return self._until_readable(look)

    def _until_readable(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns; repeat it while its answer is unreadable."""
        for attempt in range(1, self.settings.attempts + 1):
            try:
                return ask()
            except _UNREADABLE as error:
                problem = f"an unreadable answer ({' '.join(str(error).split())})"
            log.info("%s: %s; retrying", self.name, problem)
            if attempt < self.settings.attempts:
                self.session.pause(attempt)
        raise ServiceError(
            f"{self.name}: {problem}, after {self.settings.attempts} attempts; "
            "run the same command again later"
        )


def _is_error_document(response: requests.Response) -> bool:
    """Tell whether status 500 comes with a VOTable, which is an error document about the query."""
    return response.status_code == 500 and b"<VOTABLE" in response.content[:4096].upper()


def _read_votable(response: requests.Response) -> Answer:
    """Read a table; DALQueryError for an error document, ValueError for an incomplete VOTable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = TAPResults(parse_votable(io.BytesIO(response.content)), url=response.url)
            table = results.to_table()
    except _UNREADABLE as error:
        if not response.ok:
            status = f"HTTP {response.status_code} {response.reason}"
            raise ServiceError(f"{redact(response.url)}: {status}: {_opening(response)}") from error
        raise ValueError(f"not a complete VOTable: {error}: {_opening(response)}") from error
    columns = {name.lower(): _to_arrow(table[name]) for name in table.colnames}
    return Answer(pa.table(columns), overflow=(results.query_status or "").upper() == "OVERFLOW")


def _read_job_url(response: requests.Response) -> str:
    """Return the URL of a new job, to which the service redirects."""
    if response.history and response.ok:
        return str(response.url)
    _read_votable(response)
    raise ValueError("the service returned a table instead of creating a job")


def _to_arrow(column: AstropyColumn) -> pa.Array:
    """Convert a column to bool, int64, float64 or text; masked values and NaN become null."""
    values = np.ma.getdata(column)
    mask = np.ma.getmaskarray(np.ma.asarray(column))
    kinds = {"b": pa.bool_(), "i": pa.int64(), "u": pa.int64(), "f": pa.float64()}
    kind = kinds.get(values.dtype.kind)
    if kind is not None:
        return pa.array(np.asarray(values), type=kind, mask=mask, from_pandas=True)
    texts = (
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in values.tolist()
    )
    cleaned = [None if masked else text.strip() for text, masked in zip(texts, mask, strict=True)]
    return pa.array([text or None for text in cleaned], type=pa.string())


def _opening(response: requests.Response) -> str:
    text = " ".join(response.content[:300].decode("utf-8", "replace").split())
    return f"{response.headers.get('Content-Type', 'unknown type')}, {text[:160]!r}"
