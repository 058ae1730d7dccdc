"""A server of a survey's files on loopback: plain files, packages as the archive makes them, and
faults that happen as often as a test wants."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd
import pyarrow as pa

from raypipe.archive.products import PRODUCTS, product_uri
from raypipe.discovery.columns import manifest_rows
from raypipe.discovery.listing import CscFiles
from raypipe.discovery.manifest import write_manifest
from raypipe.identity import parse_csc_name
from raypipe.store.workspace import Workspace

Members = list[tuple[tarfile.TarInfo, bytes]]


class Exchange(BaseHTTPRequestHandler):
    """One connection; `give` answers with what a fault or the folder provides."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FileServer

    def do_GET(self) -> None:
        self.server.answer(self)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.answer(self)

    def give(
        self,
        content: bytes,
        status: int = 200,
        kind: str = "application/octet-stream",
        **headers: str,
    ) -> None:
        self.begin(status, **{"Content-Type": kind, "Content-Length": str(len(content)), **headers})
        self.wfile.write(content)

    def begin(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


Fault = Callable[[Exchange, bytes], None]
"""Answers a request in place of the server, which would have answered with these bytes."""


class FileServer(ThreadingHTTPServer):
    """Serves /files/NAME and /package?packageset=..., logs each request, plays `faults`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, latency_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.folder = folder
        self.latency_s = latency_s
        self.log: list[str] = []
        self.moments: list[float] = []
        self.connections = 0
        self.at_once = 0
        self.most_at_once = 0
        self.faults: list[Plan] = []
        self.change_members: Callable[[Members], Members] = lambda members: members
        self._lock = threading.Lock()
        self._by_key = {
            (name.obsid, name.obi, name.region_id, name.product): path
            for path in folder.iterdir()
            if (name := parse_csc_name(path.name))
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def package_url(self) -> str:
        return f"{self.url}/package"

    def fail(self, fault: Fault, part: str = "", times: int = 1 << 30) -> None:
        """Answer so many requests to each path, whose URL has `part`, with a fault."""
        self.faults.append(Plan(fault, part, times))

    def count(self, part: str) -> int:
        return sum(part in path for path in self.log)

    def get_request(self):  # type: ignore[no-untyped-def]
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def answer(self, exchange: Exchange) -> None:
        path = unquote(exchange.path)
        with self._lock:
            self.log.append(path)
            self.moments.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.latency_s)
            content = self._content(path)
            with self._lock:
                plan = next((plan for plan in self.faults if plan.applies(path)), None)
            if plan is not None:
                plan.fault(exchange, content or b"")
            elif content is None:
                exchange.give(b"no such file", 404)
            else:
                exchange.give(content)
        finally:
            with self._lock:
                self.at_once -= 1

    def _content(self, path: str) -> bytes | None:
        parts = urlsplit(path)
        if parts.path == "/package":
            return self._package(parse_qs(parts.query)["packageset"][0])
        file = self.folder / parts.path.removeprefix("/files/")
        return file.read_bytes() if file.is_file() else None

    def _package(self, packageset: str) -> bytes:
        ours = {theirs: product for product, theirs in PRODUCTS.items()}
        members: Members = []
        for entry in packageset.split(","):
            detection, product, _ = entry.split("/")
            obsid, obi, region = (int(number) for number in detection.split("."))
            file = self._by_key.get((obsid, obi, region, ours[product]))
            if file is not None:
                members.append(member(f"package/{file.name}", file.read_bytes()))
        return pack(self.change_members(members))


@dataclass
class Plan:
    fault: Fault
    part: str
    times: int
    done: Counter[str] = field(default_factory=Counter)

    def applies(self, path: str) -> bool:
        resource = urlsplit(path).path
        if self.part not in path or self.done[resource] >= self.times:
            return False
        self.done[resource] += 1
        return True


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    return info, content


def pack(members: Members) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


@contextmanager
def serve(folder: Path, latency_s: float = 0.0) -> Iterator[FileServer]:
    """A running server of a folder."""
    server = FileServer(folder, latency_s)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, **headers: str) -> Fault:
    return lambda exchange, content: exchange.give(b"busy", code, "text/plain", **headers)


def cut_connection(share: float) -> Fault:
    """The whole length announced, a share of it sent."""

    def fault(exchange: Exchange, content: bytes) -> None:
        exchange.begin(200, Content_Length=str(len(content)))
        exchange.wfile.write(content[: int(share * len(content))])
        exchange.hang_up()

    return fault


def cut_without_length(share: float) -> Fault:
    """A share of the content, no length announced: nothing in HTTP tells that it is not all."""

    def fault(exchange: Exchange, content: bytes) -> None:
        exchange.begin(200, Connection="close")
        exchange.wfile.write(content[: int(share * len(content))])
        exchange.hang_up()

    return fault


def damage_second_header(content: bytes) -> bytes:
    """Return a tar with a wrong checksum in the header of its second member."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        start = tar.getmembers()[1].offset
    return content[: start + 10] + b"#" + content[start + 11 :]


def drip_body(exchange: Exchange, content: bytes) -> None:
    exchange.begin(200, Content_Length=str(len(content)))
    for byte in content:
        exchange.wfile.write(bytes([byte]))
        exchange.wfile.flush()
        time.sleep(0.05)


def drip_headers(exchange: Exchange, content: bytes) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Padding: " + b"a" * 1000:
        exchange.wfile.write(bytes([byte]))
        exchange.wfile.flush()
        time.sleep(0.05)


def say_nothing(exchange: Exchange, content: bytes) -> None:
    time.sleep(3)
    exchange.hang_up()


def page(text: str, kind: str = "text/html") -> Fault:
    return lambda exchange, content: exchange.give(text.encode(), 200, kind)


def other_content(change: Callable[[bytes], bytes]) -> Fault:
    return lambda exchange, content: exchange.give(change(content))


def redirect(location: str) -> Fault:
    return lambda exchange, content: exchange.give(b"", 302, Location=location)


def huge_length(exchange: Exchange, content: bytes) -> None:
    exchange.begin(200, Content_Length=str(1 << 45))
    exchange.wfile.write(content)
    exchange.hang_up()


def endless(exchange: Exchange, content: bytes) -> None:
    exchange.begin(200, Connection="close")
    for _ in range(200):
        exchange.wfile.write(b"\x1f\x8b" + bytes(1 << 20))
    exchange.hang_up()


class HasUrl(Protocol):
    """A server of which the address is known."""

    @property
    def url(self) -> str: ...


def write_remote_manifest(
    workspace: Workspace,
    folder: Path,
    server: HasUrl,
    *,
    packages: bool = False,
    limit: int | None = None,
    part_rows: int = 1000,
) -> pd.DataFrame:
    """A manifest of release csc2.1 of a folder's detections, to be had from the server."""
    files = CscFiles(folder)
    for path in folder.iterdir():
        files.add(path.name)
    found = pa.concat_tables(files.detections("csc2.1", f"{server.url}/files/"))
    rows = manifest_rows(found).sort_by("obsid").to_pandas()[:limit].assign(ra=0.0, dec=0.0)
    if packages:
        for product in PRODUCTS:
            rows[f"{product[:3]}_uri"] = [
                product_uri("csc2.1", obsid, obi, region_id, product)
                for obsid, obi, region_id in zip(rows.obsid, rows.obi, rows.region_id, strict=True)
            ]
    table = pa.Table.from_pandas(rows, manifest_rows(found).schema)
    write_manifest(workspace, "csc2.1", [table], part_rows, server.url)
    return rows
