"""A TAP service on loopback: SQLite behind /sync, /async (UWS) and /capabilities, with faults.

The tables are those of the Chandra Source Catalog that a detection is joined from, and the truth
is kept beside them: which detections a right answer has.
"""

from __future__ import annotations

import io
import random
import socket
import sqlite3
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
from astropy.io.votable.tree import Info, VOTableFile
from astropy.table import MaskedColumn, Table

SCHEMA = "csc21"
TABLES = {
    "master_source": "name ra dec significance var_flag nh_gal powlaw_gamma likelihood_class",
    "master_stack_assoc": "name detect_stack_id region_id match_type",
    "stack_source": "detect_stack_id region_id",
    "stack_observation_assoc": "detect_stack_id region_id obsid obi",
    "observation_source": (
        "obsid obi region_id instrument theta flux_aper90_b sat_src_flag gti_obs conf_code"
    ),
}


class Archive:
    """The catalog's tables, `truth` by (obsid, obi, region_id), and answers to ADQL."""

    def __init__(self, stacks: int = 40, regions: int = 8, sexagesimal: bool = False) -> None:
        self.truth: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute(f"ATTACH ':memory:' AS {SCHEMA}")
        self._db.execute("ATTACH ':memory:' AS TAP_SCHEMA")
        self._db.execute("CREATE TABLE TAP_SCHEMA.columns (table_name, column_name)")
        for table, columns in TABLES.items():
            names = columns.split()
            self._db.execute(f"CREATE TABLE {SCHEMA}.{table} ({', '.join(names)})")
            pairs = [(f"{SCHEMA}.{table}", name) for name in names]
            self._db.executemany("INSERT INTO TAP_SCHEMA.columns VALUES (?, ?)", pairs)
        self._fill(random.Random(7), stacks, regions, sexagesimal)

    def insert(self, table: str, *values: Any) -> None:
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO {SCHEMA}.{table} VALUES ({marks})", values)

    def drop(self, table: str) -> None:
        self._db.execute(f"DROP TABLE {SCHEMA}.{table}")

    def forget_column(self, name: str) -> None:
        self._db.execute("DELETE FROM TAP_SCHEMA.columns WHERE column_name = ?", (name,))

    def _fill(self, draw: random.Random, stacks: int, regions: int, sexagesimal: bool) -> None:
        for number in range(stacks):
            stack = f"acisfJ{number:07d}p000000_001"
            observations = [(100 + 7 * number + k, k % 2) for k in range(draw.randint(1, 3))]
            for region in range(1, draw.randint(2, regions) + 1):
                name = f"2CXO J{number:06d}.{region}+{region:06d}"
                unique = draw.random() < 0.8
                source = {
                    "name": name,
                    "ra": "00 00 09.39" if sexagesimal else draw.uniform(0, 360),
                    "dec": "+13 56 18.58" if sexagesimal else draw.uniform(-90, 90),
                    "significance": draw.uniform(1, 40),
                    "var_flag": draw.random() < 0.3,
                    "nh_gal": draw.uniform(1, 9),
                    "powlaw_gamma": None if draw.random() < 0.7 else draw.gauss(1.7, 0.3),
                    "likelihood_class": draw.choice(["TRUE", "MARGINAL"]),
                }
                self.insert("master_source", *source.values())
                self.insert("master_stack_assoc", name, stack, region, "u" if unique else "a")
                self.insert("stack_source", stack, region)
                for obsid, obi in observations:
                    self.insert("stack_observation_assoc", stack, region, obsid, obi)
                    seen = {
                        "obsid": obsid,
                        "obi": obi,
                        "region_id": region,
                        "instrument": "HRC" if number % 10 == 0 else "ACIS",
                        "theta": draw.uniform(0, 15),
                        "flux_aper90_b": None if draw.random() < 0.2 else draw.expovariate(1e14),
                        "sat_src_flag": draw.random() < 0.1,
                        "gti_obs": "2009-08-15T19:27:22",
                        "conf_code": draw.randint(0, 300),
                    }
                    self.insert("observation_source", *seen.values())
                    if unique:
                        self.truth[obsid, obi, region] = source | seen

    def select(self, adql: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Names and at most `limit` rows; sqlite3.Error for what is no query of these tables."""
        with self._lock:
            cursor = self._db.execute(adql)
            return [item[0] for item in cursor.description], cursor.fetchmany(limit)


def votable(names: list[str], rows: list[tuple[Any, ...]], status: str) -> bytes:
    """A TAP answer: TABLEDATA and QUERY_STATUS."""
    columns = []
    for name, values in zip(
        names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True
    ):
        mask = [value is None for value in values]
        held = [value for value in values if value is not None]
        if name.endswith("_flag"):
            data: Any = np.array([bool(value) for value in values], dtype=bool)
        elif held and isinstance(held[0], str):
            data = np.array([value or "" for value in values], dtype=str)
        elif held and isinstance(held[0], int):
            data = np.array([value or 0 for value in values], dtype=np.int64)
        else:
            data = np.array([np.nan if value is None else value for value in values], dtype=float)
        columns.append(MaskedColumn(data, name=name, mask=mask))
    document = VOTableFile.from_table(Table(columns))
    document.resources[0].type = "results"
    document.resources[0].infos.append(Info(name="QUERY_STATUS", value=status))
    buffer = io.BytesIO()
    document.to_xml(buffer)
    return buffer.getvalue()


def error_document(message: str) -> bytes:
    return (
        '<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        f'<RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">{message}</INFO>'
        "</RESOURCE></VOTABLE>"
    ).encode()


@dataclass
class Faults:
    """What goes wrong. Numbers of requests count down; `dead` refuses every one."""

    busy: int = 0
    busy_status: int = 503
    retry_after: str | None = None
    resets: int = 0
    cut_with_length: int = 0
    cut_without_length: int = 0
    web_pages: int = 0
    drip_s: float = 0.0
    dead: bool = False
    dies_after_pages: int | None = None
    silent_limit: int | None = None
    error_status: int = 400
    lost_start: int = 0
    stuck_jobs: bool = False
    failing_jobs: str | None = None

    def take(self, name: str) -> bool:
        left = getattr(self, name)
        if left:
            setattr(self, name, left - 1)
        return bool(left)


@dataclass
class Job:
    query: str
    maxrec: int
    phase: str = "PENDING"
    looks: int = 0


@dataclass
class TapServer:
    """The service; `pages` are the queries for rows that were answered, `requests` all."""

    archive: Archive
    limit: int = 100_000
    faults: Faults = field(default_factory=Faults)
    pages: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    jobs: dict[str, Job] = field(default_factory=dict)
    jobs_made: int = 0
    page_pause_s: float = 0.0
    fault_every: int | None = None

    def __enter__(self) -> TapServer:
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/tap"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, adql: str, maxrec: int) -> bytes:
        """A VOTable; sqlite3.Error for what is no query."""
        about_schema = "TAP_SCHEMA" in adql
        allowed = maxrec if about_schema else min(maxrec, self.limit)
        names, rows = self.archive.select(adql, allowed + 1)
        overflow = len(rows) > allowed
        rows = rows[:allowed]
        if self.faults.silent_limit and not about_schema:
            rows = rows[: self.faults.silent_limit]
        if "COUNT(" not in adql and not about_schema:
            time.sleep(self.page_pause_s)
            self.pages.append(adql)
        return votable(names, rows, "OVERFLOW" if overflow else "OK")


class _Handler(BaseHTTPRequestHandler):
    service: ClassVar[TapServer]
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        service, faults = self.service, self.service.faults
        length = int(self.headers.get("Content-Length") or 0)
        form = {k.upper(): v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
        path = urlsplit(self.path).path.removeprefix("/tap")
        service.requests.append((method, path))
        service.agents.add(self.headers.get("User-Agent", ""))
        dies = faults.dies_after_pages
        dead = faults.dead or (dies is not None and len(service.pages) >= dies)
        every = service.fault_every
        number, off = divmod(len(service.requests), every or 1)
        kind = ("reset", "busy", "web page")[number % 3] if every and not off else None
        if dead or kind == "reset" or faults.take("resets"):
            self._reset()
        elif kind == "busy":
            self._send(503, b"busy", "text/plain")
        elif kind == "web page" or faults.take("web_pages"):
            self._send(200, b"<html><body>Maintenance</body></html>", "text/html")
        elif faults.take("busy"):
            extra = {"Retry-After": faults.retry_after} if faults.retry_after else {}
            self._send(faults.busy_status, b"busy", "text/plain", extra)
        elif path == "/sync":
            self._answer(form.get("QUERY", ""), int(form.get("MAXREC", "2000")))
        elif path == "/capabilities":
            self._send(200, self._capabilities())
        elif path.startswith("/async"):
            self._job(method, path.split("/")[2:], form)
        else:
            self._send(404, b"no such thing", "text/plain")

    def _answer(self, adql: str, maxrec: int) -> None:
        try:
            body = self.service.answer(adql, maxrec)
        except sqlite3.Error as error:
            self._send(self.service.faults.error_status, error_document(f"ADQL: {error}"))
            return
        faults = self.service.faults
        if faults.take("cut_without_length"):
            self._send(200, body[: len(body) // 2], length=None)
        elif faults.take("cut_with_length"):
            self._send(200, body[: len(body) // 2], length=len(body))
        elif faults.drip_s:
            self._drip(body)
        else:
            self._send(200, body)

    def _job(self, method: str, parts: list[str], form: dict[str, str]) -> None:
        service = self.service
        if not parts:
            service.jobs_made += 1
            key = f"job{service.jobs_made}"
            service.jobs[key] = Job(form["QUERY"], int(form.get("MAXREC", "2000")))
            self._send(303, b"", extra={"Location": f"/tap/async/{key}"})
            return
        job = service.jobs.get(parts[0])
        if job is None:
            self._send(404, b"no such job", "text/plain")
        elif method == "DELETE":
            del service.jobs[parts[0]]
            self._send(200, b"", "text/plain")
        elif parts[1:] == ["phase"]:
            if job.phase != "PENDING":
                self._send(400, b"the job has been started", "text/plain")
                return
            job.phase = "QUEUED"
            if service.faults.take("lost_start"):
                self._reset()
                return
            self._send(303, b"", extra={"Location": f"/tap/async/{parts[0]}"})
        elif parts[1:] == ["results", "result"]:
            self._answer(job.query, job.maxrec)
        else:
            self._advance(job)
            self._send(200, self._job_document(parts[0], job))

    def _advance(self, job: Job) -> None:
        if job.phase in {"QUEUED", "EXECUTING"}:
            job.looks += 1
            done = "ERROR" if self.service.faults.failing_jobs else "COMPLETED"
            ready = job.looks > 2 and not self.service.faults.stuck_jobs
            job.phase = done if ready else "EXECUTING"

    def _job_document(self, key: str, job: Job) -> bytes:
        result = (
            f'<uws:result id="result" xlink:href="{self.service.url}/async/{key}/results/result"/>'
        )
        message = self.service.faults.failing_jobs
        error = (
            f'<uws:errorSummary type="fatal" hasDetail="true"><uws:message>{message}</uws:message>'
            "</uws:errorSummary>"
        )
        return (
            '<?xml version="1.0"?><uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" '
            'xmlns:xlink="http://www.w3.org/1999/xlink">'
            f"<uws:jobId>{key}</uws:jobId><uws:phase>{job.phase}</uws:phase>"
            f"<uws:results>{result if job.phase == 'COMPLETED' else ''}</uws:results>"
            f"{error if job.phase == 'ERROR' else ''}</uws:job>"
        ).encode()

    def _capabilities(self) -> bytes:
        return (
            '<?xml version="1.0"?><vosi:capabilities '
            'xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0" '
            'xmlns:tr="http://www.ivoa.net/xml/TAPRegExt/v1.0" '
            'xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
            '<capability standardID="ivo://ivoa.net/std/TAP" xsi:type="tr:TableAccess">'
            '<interface xsi:type="vs:ParamHTTP">'
            f'<accessURL use="base">{self.service.url}</accessURL>'
            "</interface><language><name>ADQL</name><version>2.0</version></language>"
            f'<outputLimit><hard unit="row">{self.service.limit}</hard></outputLimit>'
            "</capability></vosi:capabilities>"
        ).encode()

    def _send(
        self,
        status: int,
        body: bytes,
        kind: str = "application/x-votable+xml",
        extra: dict[str, str] | None = None,
        length: int | None = -1,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        if length is None:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = length != -1

    def _drip(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-votable+xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            for i in range(len(body)):
                self.wfile.write(body[i : i + 1])
                self.wfile.flush()
                time.sleep(self.service.faults.drip_s)
        except OSError:
            self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.wfile = io.BytesIO()
