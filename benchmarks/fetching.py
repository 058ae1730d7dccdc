"""Detections a second of one ingest task from a server with latency, against what that allows.

Usage: python -m benchmarks.fetching [--detections 500] [--latency-ms 50] [--concurrency 8]

A process of its own serves a simulated survey on loopback, each answer after the latency. The
bound is requests at once over latency; what as many bare http.client threads get of the same
files says how much of it the server and the machine reach. The fastest of the rounds counts.
Run from the root of the checkout: the server is the tests' own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

from raypipe.config import IngestConfig
from raypipe.ingestion.part import ingest_part
from raypipe.simulation.simulate import simulate
from raypipe.workspace import Workspace
from tests.pipeline.file_server import FileServer, serve, write_remote_manifest

FILES_A_DETECTION = 3
ROUNDS = 3


def _serve(folder: Path, latency_s: float, link: Connection) -> None:
    with serve(folder, latency_s) as server:
        link.send(server.url)
        link.recv()


class _Elsewhere:
    """Stands for a server in another process where only its address matters."""

    def __init__(self, url: str) -> None:
        self.url = url


def _bare(folder: Path, url: str, concurrency: int) -> float:
    """Files a second by http.client alone."""
    names = [path.name for path in folder.glob("*.gz")]
    mine = threading.local()

    def get(name: str) -> None:
        if not hasattr(mine, "connection"):
            mine.connection = HTTPConnection(urlsplit(url).netloc)
        mine.connection.request("GET", f"/files/{name}")
        mine.connection.getresponse().read()

    fastest = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(get, names))
        fastest = min(fastest, time.perf_counter() - started)
    return len(names) / fastest


def _measure(folder: Path, url: str, config: IngestConfig, packages: bool) -> tuple[float, float]:
    fastest, processor = float("inf"), 0.0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as place:
            workspace = Workspace(place)
            server: FileServer = _Elsewhere(url)  # type: ignore[assignment]
            write_remote_manifest(workspace, folder, server, packages=packages, part_rows=10**6)
            started, busy = time.perf_counter(), time.process_time()
            outcome = ingest_part(workspace, "csc2.1", 0, config)
            seconds = time.perf_counter() - started
            assert outcome.rejects == 0
            if seconds < fastest:
                fastest, processor = seconds, time.process_time() - busy
    return fastest, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--detections", type=int, default=500)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--concurrency", type=int, default=IngestConfig().host_concurrency)
    options = parser.parse_args()
    latency = options.latency_ms / 1000
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        simulate(folder, detections=options.detections, seed=1)
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(folder, latency, theirs), daemon=True
        )
        process.start()
        url = ours.recv()
        config = IngestConfig(
            host_concurrency=options.concurrency,
            fetch_threads=2 * options.concurrency,
            package_url=f"{url}/package",
        )
        bound = options.concurrency / latency
        bare = _bare(folder, url, options.concurrency)
        seconds, processor = _measure(folder, url, config, packages=False)
        files = FILES_A_DETECTION * options.detections / seconds
        print(
            f"plain files: {options.detections / seconds:.1f} detections/s, {files:.1f} files/s: "
            f"{files / bound:.0%} of the {bound:.1f} that {options.concurrency} requests at once "
            f"allow, {files / bare:.0%} of the {bare:.1f} of http.client alone; "
            f"{processor / seconds:.0%} of a core"
        )
        seconds, processor = _measure(folder, url, config, packages=True)
        speed = options.detections / seconds
        print(f"packages of 50: {speed:.1f} detections/s; {processor / seconds:.0%} of a core")
        ours.send("done")
        process.join()


if __name__ == "__main__":
    main()
