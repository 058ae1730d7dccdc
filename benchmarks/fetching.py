"""Measure how fast one ingest task fetches detections from a server with latency.

Usage: python -m benchmarks.fetching [--detections 600] [--latency-ms 50] [--concurrency 8]

A separate process serves a simulated survey on loopback and delays each answer by the latency. The
task fetches it file by file, and in packages like those of the archive. For single files the upper
bound is the number of simultaneous requests divided by the latency; the same number of threads of
bare http.client shows how much of this the server and the machine reach. The same task with local
files shows what its core allows. They take turns, and the medians count. Run it from the root of
the checkout, since the server is that of the tests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.surveys import Elsewhere, served
from raypipe.archive.products import find_release, package_url, parse_product_uri
from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.ingestion.chip_rmfs import choose_chip_rmfs
from raypipe.ingestion.part import ingest_part
from raypipe.simulation.simulate import simulate
from raypipe.store.workspace import Workspace
from tests.pipeline.file_server import write_remote_manifest

RELEASE = "csc2.1"
OWN = ("pha_uri", "arf_uri")
ONE_PART = {"discover": {"part_rows": 10**6}}
ROUNDS = 3


@contextmanager
def _clean_workspace(folder: Path, server: Elsewhere, kind: str) -> Iterator[Workspace]:
    """Make a workspace with a manifest of one part.

    `kind` is "files" or "packages" of a server, or "local".
    """
    with tempfile.TemporaryDirectory() as place:
        workspace = Workspace(place)
        if kind == "local":
            discover(workspace, source=f"{folder}", release=RELEASE, config=ONE_PART)
        else:
            packages = kind == "packages"
            write_remote_manifest(workspace, folder, server, packages=packages, part_rows=10**6)
        yield workspace


def _urls(folder: Path, server: Elsewhere, config: IngestConfig, kind: str) -> list[str]:
    """List the URLs of all PHA and ARF files."""
    with _clean_workspace(folder, server, kind) as workspace:
        rows = workspace.read_table(f"manifest/{RELEASE}/part-00000.parquet").to_pylist()
    if kind == "files":
        return [row[key] for row in rows for key in OWN]
    keys = [[parse_product_uri(row[key]) for key in OWN] for row in rows]
    starts = range(0, len(keys), config.package_batch)
    batches = [chain.from_iterable(keys[start : start + config.package_batch]) for start in starts]
    version = find_release(RELEASE).package_version
    return [package_url(str(config.package_url), version, batch) for batch in batches]


def _bare_s(urls: list[str], concurrency: int) -> float:
    """Return the time, s, that threads of http.client take."""
    mine = threading.local()

    def get(url: str) -> None:
        parts = urlsplit(url)
        if not hasattr(mine, "connection"):
            mine.connection = HTTPConnection(parts.netloc)
        mine.connection.request("GET", url.removeprefix(f"{parts.scheme}://{parts.netloc}"))
        mine.connection.getresponse().read()

    begin = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(get, urls))
    return time.perf_counter() - begin


def _ingest_s(folder: Path, server: Elsewhere, config: IngestConfig, kind: str) -> float:
    """Return the time, s, to ingest the part after the RMFs for zones of chips are chosen."""
    with _clean_workspace(folder, server, kind) as workspace:
        choose_chip_rmfs(workspace, RELEASE, config)
        begin = time.perf_counter()
        outcome = ingest_part(workspace, RELEASE, 0, config)
        seconds = time.perf_counter() - begin
    assert outcome.rejects == 0
    return seconds


def measure(detections: int, latency_s: float, concurrency: int) -> None:
    """Print how fast a part is fetched, file by file and in packages."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        simulate(folder, detections=detections, seed=1)
        with served(folder, latency_s) as server:
            packages = f"{server.url}/package"
            config = IngestConfig(host_concurrency=concurrency, package_url=packages)
            ways: dict[str, Callable[[], float]] = {
                kind: partial(_ingest_s, folder, server, config, kind)
                for kind in ("local", "files", "packages")
            }
            for kind in "files", "packages":
                urls = _urls(folder, server, config, kind)
                ways[f"bare {kind}"] = partial(_bare_s, urls, concurrency)
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, way in ways.items():
                    times[name].append(way())
    speeds = {name: detections / statistics.median(each) for name, each in times.items()}
    bound = concurrency / latency_s / len(OWN)
    print(f"detections/s: {', '.join(f'{name} {speed:.1f}' for name, speed in speeds.items())}")
    print(
        f"files: {speeds['files'] / bound:.0%} of the {bound:.0f} that {concurrency} simultaneous "
        f"requests allow; http.client alone {speeds['bare files'] / bound:.0%}"
    )
    allowed = min(speeds["local"], speeds["bare packages"])
    print(f"packages: {speeds['packages'] / allowed:.0%} of what the core and the server allow")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--detections", type=int, default=600)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--concurrency", type=int, default=IngestConfig().host_concurrency)
    options = parser.parse_args()
    measure(options.detections, options.latency_ms / 1000, options.concurrency)


if __name__ == "__main__":
    main()
