"""Compare the throughput of `ingest` through Ray with bare processes that loop over the readers.

Usage: python -m benchmarks.throughput [--detections 20000] [--rounds 3] [--products FOLDER]

Two processes without Ray, each with half of the parts, (1) read PHA and ARF of their detections,
(2) make rows of spectra from them, (3) write these as parts. Then `raypipe.ingest` does all of this
on a local Ray of two CPUs, which runs from the beginning. They take turns, and the medians count.
The cost of starting is printed separately: Ray itself, and the first parts of each worker, which
imports its modules.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.processes import cpu_s_of
from benchmarks.surveys import make_survey
from raypipe.config import Config, IngestConfig, RayConfig
from raypipe.ingestion.chip_rmfs import load_chip_rmfs
from raypipe.ingestion.ingest import ingest
from raypipe.ingestion.part import ingest_part
from raypipe.ingestion.reader import Reader
from raypipe.ogip import read_arf, read_pha
from raypipe.ray_session import ray_session
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.manifest import choose_release
from raypipe.store.parts import count_parts
from raypipe.store.workspace import Workspace

PROCESSES = 2


class Bare:
    """The work of a bare process on a part, without Ray."""

    def __init__(self, uri: str, release: str) -> None:
        self.workspace = Workspace(uri)
        self.release = release
        self.config = IngestConfig()

    def files(self, part: int) -> None:
        for row in self._rows(part):
            read_pha(row["pha_uri"])
            read_arf(row["arf_uri"])

    def rows(self, part: int) -> None:
        chips = load_chip_rmfs(self.workspace, self.release)
        reader = Reader(ResponseLibrary(self.workspace), chips, self.config)
        for _ in reader.read_all(list(enumerate(self._rows(part)))):
            pass

    def parts(self, part: int) -> None:
        ingest_part(self.workspace, self.release, part, self.config)

    def _rows(self, part: int) -> list[dict[str, str]]:
        name = part_name(manifest_folder(self.release), part)
        rows: list[dict[str, str]] = self.workspace.read_table(name).to_pylist()
        return rows


WAYS = {
    "files": "read PHA and ARF",
    "rows": "make rows of spectra",
    "parts": "write them, too",
}


def _loop(uri: str, release: str, parts: list[int], link: Connection) -> None:
    """Process parts in the way that the link names, and answer with the CPU time, s."""
    bare = Bare(uri, release)
    while (way := link.recv()) is not None:
        work: Callable[[int], None] = getattr(bare, way)
        begin = time.process_time()
        for part in parts:
            work(part)
        link.send(time.process_time() - begin)


def measure(place: Path, detections: int, rounds: int, products: Path | None) -> None:
    """Print the throughput of each way, and how `ingest` compares."""
    workspace = make_survey(place, detections, products)
    release = choose_release(workspace, None)
    settings = Config(ray=RayConfig(address="local", num_cpus=PROCESSES))
    begin = time.perf_counter()
    with ray_session(settings.ray):
        print(f"Ray starts in {time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        ingest(workspace, config=settings)
        first = time.perf_counter() - begin
        links = start_bare(workspace, release)
        seconds: dict[str, list[float]] = {name: [] for name in (*WAYS, "ingest")}
        busy: dict[str, list[float]] = {name: [] for name in seconds}
        for way in WAYS:
            run_bare(links, way, workspace, release)
        for _ in range(rounds):
            for way in WAYS:
                took, cpu = run_bare(links, way, workspace, release)
                seconds[way].append(took)
                busy[way].append(cpu)
            took, cpu = run_ingest(workspace, release, settings)
            seconds["ingest"].append(took)
            busy["ingest"].append(cpu)
        for link in links:
            link.send(None)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    cpus = {name: statistics.median(each) for name, each in busy.items()}
    print(f"the first ingest takes {first - medians['ingest']:.1f} s more than later ones")
    for name, label in (WAYS | {"ingest": "ingest through Ray"}).items():
        who = "" if name == "ingest" else f"{PROCESSES} bare processes "
        print(
            f"{who + label:42}{detections / medians[name]:8.0f} detections/s, "
            f"{1e3 * cpus[name] / detections:.3f} ms of CPU time each; ingest reaches "
            f"{medians[name] / medians['ingest']:.0%} ({cpus[name] / cpus['ingest']:.0%} by "
            "CPU time)"
        )


def start_bare(workspace: Workspace, release: str) -> list[Connection]:
    spawn = multiprocessing.get_context("spawn")
    links = []
    for number in range(PROCESSES):
        parts = list(range(number, count_parts(workspace, release), PROCESSES))
        ours, theirs = spawn.Pipe()
        arguments = workspace.absolute_uri(), release, parts, theirs
        spawn.Process(target=_loop, args=arguments, daemon=True).start()
        links.append(ours)
    return links


def run_bare(
    links: list[Connection], way: str, workspace: Workspace, release: str
) -> tuple[float, float]:
    """Return wall time and CPU time, s."""
    _clear(workspace, release)
    begin = time.perf_counter()
    for link in links:
        link.send(way)
    cpu = sum(link.recv() for link in links)
    return time.perf_counter() - begin, cpu


def run_ingest(workspace: Workspace, release: str, settings: Config) -> tuple[float, float]:
    """Return wall time and CPU time, s; workers stay alive between runs."""
    _clear(workspace, release)
    begin, cpu = time.perf_counter(), cpu_s_of(os.getpid())
    totals = ingest(workspace, config=settings)
    seconds = time.perf_counter() - begin
    assert totals["spectra"] == totals["manifest"], totals
    return seconds, cpu_s_of(os.getpid()) - cpu


def _clear(workspace: Workspace, release: str) -> None:
    for folder in spectra_folder(release), rejects_folder(release):
        shutil.rmtree(workspace.path(folder), ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detections", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--products", type=Path, help="folder of CSC products to copy")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), options.detections, options.rounds, options.products)


if __name__ == "__main__":
    main()
