"""Measure how time and memory of `ingest` and `embed` grow with detections, and Ray's overhead.

Usage: python -m benchmarks.scale [--detections 10000 100000 1000000] [--cores 1 2]
                                  [--driver 2600 32768] [--overhead 12000] [--model BUNDLE]

Detections, whose files are hard links to those of 400 simulated ones, are ingested and embedded
(without errors, which is the fastest mode) on a local Ray that is restricted to a number of cores.
The memory of the driver, of Ray's own processes and of the workers (PSS: a shared page counts once)
and the content of the object store are sampled every half second. The last column is the time per
additional detection, relative to the row with fewer detections, without start-up.

--driver runs empty parts and measures the cost per part for Ray and the driver, with one part per
task, as on a cluster that was joined, and with many parts per task, as on a local Ray.

--overhead runs `ingest` with parts of various sizes, and `embed` with batches of various sizes,
beside two bare processes that do the same parts without Ray.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import ray

from benchmarks import embed as embedding
from benchmarks import throughput
from benchmarks.surveys import make_survey
from raypipe.config import Config, EmbedConfig, RayConfig
from raypipe.config_toml import load_config
from raypipe.discovery.discover import discover
from raypipe.embedding.embed import embed
from raypipe.ingestion.ingest import ingest
from raypipe.planning.processes import tree_use
from raypipe.private_apis import object_store_bytes
from raypipe.ray_session import TASKS_A_SLOT, map_parts, ray_session
from raypipe.store.manifest import choose_release
from raypipe.store.workspace import Workspace

MODEL = Path(__file__).resolve().parents[1] / "tests" / "data" / "bundle-format-2"
LOOK_S = 0.5
DRIVER, RAYS_OWN, WORKERS, STORE = "driver", "Ray's own", "workers", "object store"
LINEAR, FLAT = 1.15, 1.3
PART_ROWS = (100, 250, 500, 1000, 2000)
BATCHES = (32, 64, 128, 256, 512, 1024)
ROUNDS = 3


@dataclass
class Cost:
    """Time of a verb, s, with Ray already running, and peak memory by kind of process, bytes."""

    seconds: float = 0.0
    peak_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Sum over all kinds of processes, whose peaks need not coincide."""
        return sum(self.peak_bytes[kind] for kind in (DRIVER, RAYS_OWN, WORKERS))


@contextmanager
def looked_at() -> Iterator[Cost]:
    """Measure the cost of the block while it runs."""
    cost, over = Cost(), threading.Event()
    looking = threading.Thread(target=look_at, args=(cost, over))
    looking.start()
    begin = time.perf_counter()
    try:
        yield cost
        cost.seconds = time.perf_counter() - begin
    finally:
        over.set()
        looking.join()


def look_at(cost: Cost, over: threading.Event) -> None:
    """Record the peak memory of each kind until the end."""
    (first,) = ray.nodes()
    node = first["NodeManagerAddress"], first["NodeManagerPort"]
    while not over.wait(LOOK_S):
        now = dict.fromkeys((DRIVER, RAYS_OWN, WORKERS, STORE), 0)
        for pid, use in tree_use(psutil.Process()).items():
            now[_kind(pid)] += use.memory_bytes
        now[STORE] = object_store_bytes(*node)
        for kind, size in now.items():
            cost.peak_bytes[kind] = max(size, cost.peak_bytes.get(kind, 0))


def _kind(pid: int) -> str:
    if pid == os.getpid():
        return DRIVER
    try:
        return WORKERS if psutil.Process(pid).cmdline()[0].startswith("ray::") else RAYS_OWN
    except (psutil.Error, IndexError):
        return RAYS_OWN


def run_verbs(uri: str, model: str, cores: int, link: Connection) -> None:
    """Ingest and embed in a separate process on a number of cores; sends the cost of each."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    config = _settings(cores, {})
    verbs: dict[str, Callable[[], object]] = {
        "ingest": lambda: ingest(uri, config=config),
        "embed": lambda: embed(uri, model=model, config=config),
    }
    costs = {}
    for name, verb in verbs.items():
        with ray_session(config.ray), looked_at() as cost:
            verb()
        costs[name] = cost
    link.send(costs)


def _settings(cores: int, embed_settings: dict[str, object]) -> Config:
    config = load_config(settings={"embed": {"errors": False, **embed_settings}})
    return config.model_copy(update={"ray": RayConfig(address="local", num_cpus=cores)})


def measure_growth(numbers: list[int], cores: list[int], model: str) -> None:
    """Print the cost of each number of detections on a number of cores, and how it grows."""
    spawn = multiprocessing.get_context("spawn")
    before: dict[tuple[int, str], tuple[int, Cost]] = {}
    print(
        f"{'':8}{'cores':>6}{'detections':>12}{'s':>8}{'per s':>10}"
        f"{'driver':>8}{'Ray':>7}{'workers':>9}{'store':>7} MB   growth of time, memory"
    )
    for detections in numbers:
        with tempfile.TemporaryDirectory() as place:
            workspace = make_survey(Path(place), detections)
            for count in cores:
                _clear(workspace)
                ours, theirs = spawn.Pipe()
                arguments = workspace.absolute_uri(), model, count, theirs
                process = spawn.Process(target=run_verbs, args=arguments)
                process.start()
                theirs.close()
                costs: dict[str, Cost] = ours.recv()
                process.join()
                for verb, cost in costs.items():
                    _print_cost(verb, count, detections, cost, before.get((count, verb)))
                    before[count, verb] = detections, cost
    print(f"target: time within {LINEAR}, memory within {FLAT}; load averages {os.getloadavg()}")


def _print_cost(
    verb: str, cores: int, detections: int, cost: Cost, fewer: tuple[int, Cost] | None
) -> None:
    sizes = [cost.peak_bytes[kind] / 1e6 for kind in (DRIVER, RAYS_OWN, WORKERS, STORE)]
    growth = ""
    if fewer:
        number, earlier = fewer
        a_detection = (cost.seconds - earlier.seconds) / (detections - number)
        growth = (
            f"{1e3 * a_detection:8.3f} ms a detection more; "
            f"{cost.seconds / earlier.seconds * number / detections:.2f}, "
            f"{cost.memory_bytes / earlier.memory_bytes:.2f}"
        )
    print(
        f"{verb:8}{cores:6}{detections:12}{cost.seconds:8.1f}{detections / cost.seconds:10.0f}"
        f"{sizes[0]:8.0f}{sizes[1]:7.0f}{sizes[2]:9.0f}{sizes[3]:7.1f}{growth}",
        flush=True,
    )


def _clear(workspace: Workspace) -> None:
    for folder in "spectra", "rejects", "responses", "catalog", "sources":
        shutil.rmtree(workspace.path(folder), ignore_errors=True)


def measure_driver(numbers: list[int]) -> None:
    """Print the cost of empty parts for the driver."""
    spawn = multiprocessing.get_context("spawn")
    for parts in numbers:
        for tasks in parts, min(parts, TASKS_A_SLOT * throughput.PROCESSES):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=run_empty_parts, args=(parts, tasks, theirs))
            process.start()
            theirs.close()
            cost: Cost = ours.recv()
            process.join()
            print(
                f"{parts:9} parts in {tasks:9} tasks: {cost.seconds:8.1f} s, "
                f"{1e3 * cost.seconds / parts:8.3f} ms per part; driver "
                f"{cost.peak_bytes[DRIVER] / 1e6:.0f} MB, Ray's own "
                f"{cost.peak_bytes[RAYS_OWN] / 1e6:.0f} MB, object store "
                f"{cost.peak_bytes[STORE] / 1e6:.1f} MB",
                flush=True,
            )


def run_empty_parts(parts: int, tasks: int, link: Connection) -> None:
    """Run parts that do nothing in a separate process; sends their cost."""
    with ray_session(_settings(throughput.PROCESSES, {}).ray):
        for _ in map_parts("nothing", range(100), lambda part: {}, 16, num_cpus=1):
            pass
        with looked_at() as cost:
            for _ in map_parts("nothing", range(parts), lambda part: {}, tasks, num_cpus=1):
                pass
    link.send(cost)


def measure_overhead(place: Path, detections: int, model: str) -> None:
    """Print the share of the bare loops' speed that `ingest` and `embed` reach, by size."""
    workspace = make_survey(place, detections)
    release = choose_release(workspace, None)
    with ray_session(_settings(throughput.PROCESSES, {}).ray):
        for rows in PART_ROWS:
            config = {"discover": {"part_rows": rows}}
            other = Workspace(place / f"parts-{rows}")
            discover(other, source=str(place / "files"), config=config)
            print(f"ingest, parts of {rows:5}: {_ingest_share(other, release):.0%}", flush=True)
        ingest(workspace, config=_settings(throughput.PROCESSES, {}))
        for size in BATCHES:
            share, speed = _embed_share(workspace, release, model, size, detections)
            print(f"embed, batches of {size:5}: {share:.0%}, {speed:.0f}/s", flush=True)


def _ingest_share(workspace: Workspace, release: str) -> float:
    """Time of two bare processes that make and write the parts, divided by that of `ingest`."""
    settings = _settings(throughput.PROCESSES, {})
    ingest(workspace, config=settings)
    links = throughput.start_bare(workspace, release)
    throughput.run_bare(links, "parts", workspace, release)
    shares = []
    for _ in range(ROUNDS):
        bare, _ = throughput.run_bare(links, "parts", workspace, release)
        seconds, _ = throughput.run_ingest(workspace, release, settings)
        shares.append(bare / seconds)
    for link in links:
        link.send(None)
    return statistics.median(shares)


def _embed_share(
    workspace: Workspace, release: str, model: str, size: int, detections: int
) -> tuple[float, float]:
    """The same ratio for `embed` with batches of a size; also spectra per second, with start-up."""
    settings = _settings(throughput.PROCESSES, {"batch_size": size})
    links = embedding.start_loops(
        workspace, release, model, EmbedConfig(errors=False, batch_size=size)
    )
    embedding.run_loops(links, embedding.NO_RAY)
    shares, speeds = [], []
    for _ in range(ROUNDS):
        embedding.clear(workspace, model)
        bare = embedding.run_loops(links, embedding.NO_RAY)
        embedding.clear(workspace, model)
        begin = time.perf_counter()
        embed(workspace, model=model, config=settings)
        seconds = time.perf_counter() - begin
        shares.append(bare / seconds)
        speeds.append(detections / seconds)
    for link in links:
        link.send(None)
    return statistics.median(shares), statistics.median(speeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detections", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--driver", type=int, nargs="+", default=[], metavar="PARTS")
    parser.add_argument("--overhead", type=int, default=0, metavar="DETECTIONS")
    parser.add_argument("--model", default=str(MODEL), help="bundle to encode with")
    options = parser.parse_args()
    print(f"load averages {os.getloadavg()} on {os.cpu_count()} CPUs")
    if options.detections:
        measure_growth(options.detections, options.cores, options.model)
    if options.driver:
        measure_driver(options.driver)
    if options.overhead:
        with tempfile.TemporaryDirectory() as place:
            measure_overhead(Path(place), options.overhead, options.model)


if __name__ == "__main__":
    main()
