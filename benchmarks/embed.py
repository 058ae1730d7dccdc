"""Compare the throughput of `embed` through Ray with bare processes that loop over PyTorch.

Usage: python -m benchmarks.embed [--detections 24000] [--rounds 3] [--model BUNDLE] [--large N ...]

Two processes without Ray, each with half of the parts, (1) read spectra, encode and decode them in
batches of the same size and compute the Cash statistic, without errors, refinement, classes and
writing; (2) make and write the parts of the catalog as `embed` does, without errors and by default.
Then `raypipe.embed` makes the catalog on a local Ray of two CPUs, which runs from the beginning:
without errors, with errors but without refinement, and with its default settings. They take turns,
and the medians count.

`embed` makes catalogs of all detections and of a sixth of them: the difference is the time per
spectrum, the rest the time to start. The spectra are copies of simulated ones. By default the model
is first trained for two epochs, because refinement takes longer from the poor latents of an
untrained encoder.

`--large` makes one catalog for each given number of detections, for instance 100000 and 1000000,
and prints its wall time, its rows, and the peak memory of all processes together, including Ray's.

`--pair N` compares `embed` by default with bare processes that write the same parts, once each for
N detections, and prints the ratio of their speeds, the start of the encoders included.
`--originals W` takes the spectra of workspace W in place of a simulated survey.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers have a niceness of 15 by default: beside other work they would get less of the
# machine than the bare processes.
os.environ.setdefault("RAY_worker_niceness", "0")

import torch

from benchmarks.processes import watch
from benchmarks.surveys import replicate
from raypipe.config import Config, EmbedConfig, RayConfig
from raypipe.config_toml import load_config
from raypipe.discovery.discover import discover
from raypipe.embedding.embed import embed
from raypipe.embedding.part import PartEncoder
from raypipe.ingestion.ingest import ingest
from raypipe.model.bundle import Model, load_model
from raypipe.model.features import prepare
from raypipe.model.statistics import cash
from raypipe.ray_session import ray_session
from raypipe.simulation.simulate import simulate
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import (
    catalog_folder,
    model_folder,
    part_name,
    sources_folder,
    spectra_folder,
)
from raypipe.store.manifest import choose_release, read_manifest_summary
from raypipe.store.parts import count_parts
from raypipe.store.publication import require_publication
from raypipe.store.workspace import Workspace
from raypipe.training.train import train

PROCESSES = 2
ORIGINALS, EPOCHS = 2000, 2
SHARE = 6
PART_ROWS = 500
"""Rows per part of the copies."""
WAYS = {
    "embed, no errors": {"errors": False},
    "embed, errors, no refinement": {"refine_steps": 0},
    "embed": {},
}
BARE = "bare loop"
NO_RAY, NO_RAY_DEFAULT = "parts without Ray, no errors", "parts without Ray"
PAIRS = {"embed, no errors": NO_RAY, "embed": NO_RAY_DEFAULT}
"""Bare processes that write the same parts as a way of `embed`."""
LEAST = 0.9
NO_ERRORS = EmbedConfig(errors=False)


def loop(
    uri: str, release: str, model_uri: str, share: range, config: EmbedConfig, link: Connection
) -> None:
    """Process this share of the parts in the way that the link names; answer when done."""
    workspace, model = Workspace(uri), load_model(model_uri)
    library = ResponseLibrary(workspace)
    while (way := link.recv()) is not None:
        if way == BARE:
            for part in share:
                encode_part(workspace, part_name(spectra_folder(release), part), model, library)
        else:
            settings = EmbedConfig() if way == NO_RAY_DEFAULT else config
            encoder = PartEncoder(workspace, release, share.stop, model, settings)
            for part in share:
                encoder.embed(part)
        link.send("done")


@torch.no_grad()
def encode_part(workspace: Workspace, name: str, model: Model, library: ResponseLibrary) -> None:
    """Compute latents, expected counts and Cash statistic of a part's spectra."""
    network, size = model.network, EmbedConfig().batch_size
    table = workspace.read_table(name).sort_by("rmf_id")
    for start in range(0, table.num_rows, size):
        batch = prepare(SpectraBatch.from_table(table.slice(start, size), library))
        mu = network.expected_counts(network.encode(batch), batch)
        cash(batch.counts.numpy(), mu.numpy())


def measure(few: Workspace, many: Workspace, model_uri: str, rounds: int) -> None:
    """Print the throughput of each way, and how `embed` compares."""
    release, settings = choose_release(many, None), _settings({})
    sizes = [read_manifest_summary(each, release)["rows"] for each in (few, many)]
    speeds: dict[str, list[float]] = {name: [] for name in (BARE, *PAIRS.values(), *WAYS)}
    starts: dict[str, list[float]] = {name: [] for name in WAYS}
    with ray_session(settings.ray):
        links = start_loops(many, release, model_uri)
        run_loops(links, BARE)
        for _ in range(rounds):
            speeds[BARE].append(sizes[1] / run_loops(links, BARE))
            for way in PAIRS.values():
                clear(many, model_uri)
                speeds[way].append(sizes[1] / run_loops(links, way))
            for name, changes in WAYS.items():
                seconds = [_run_embed(each, model_uri, changes) for each in (few, many)]
                speeds[name].append((sizes[1] - sizes[0]) / (seconds[1] - seconds[0]))
                starts[name].append(seconds[0] - sizes[0] / speeds[name][-1])
        for link in links:
            link.send(None)
    bare = statistics.median(speeds[BARE])
    for name, each in speeds.items():
        speed, low, high = statistics.median(each), min(each), max(each)
        start = f"; {statistics.median(starts[name]):.1f} s to start" if name in starts else ""
        print(
            f"{name:32}{speed:8.0f} spectra/s ({low:.0f}-{high:.0f}), "
            f"{speed / bare:.0%} of the bare loop{start}"
        )
    for name, way in PAIRS.items():
        share = statistics.median(speeds[name]) / statistics.median(speeds[way])
        print(
            f"{name}: {share:.0%} of bare processes that write the same parts (target {LEAST:.0%})"
        )


def measure_large(place: Path, originals: Workspace, model_uri: str, detections: int) -> None:
    """Print the cost of a catalog of this many detections."""
    workspace = replicate(place, originals, detections)
    settings = _settings({})
    with ray_session(settings.ray), watch(os.getpid()) as taken:
        begin = time.perf_counter()
        model_id = embed(workspace, model=model_uri, config=settings)
        seconds = time.perf_counter() - begin
    publication = require_publication(workspace, choose_release(workspace, None), model_id)
    assert publication.rows == detections, publication.rows
    print(
        f"{detections} detections in {seconds / 60:.1f} min, {detections / seconds:.0f} spectra/s; "
        f"{publication.rows} rows of {publication.source_rows} sources; peak memory "
        f"{taken.memory_bytes / 1e6:.0f} MB in {taken.processes} processes, including Ray's"
    )


def measure_pair(place: Path, originals: Workspace, model_uri: str, detections: int) -> None:
    """Print the speed of `embed` for this many detections, and its share of that without Ray."""
    workspace = replicate(place, originals, detections)
    release = choose_release(workspace, None)
    with ray_session(_settings({}).ray):
        # Both ways run once with few detections: what they import and compile is not counted.
        few = replicate(place.with_name(f"{place.name}-few"), originals, PROCESSES * PART_ROWS)
        _run_embed(few, model_uri, {})
        links = start_loops(workspace, release, model_uri)
        run_loops(links, BARE)
        bare = run_loops(links, NO_RAY_DEFAULT)
        for link in links:
            link.send(None)
        seconds = _run_embed(workspace, model_uri, {})
    print(
        f"{detections} detections: without Ray {detections / bare:.0f} spectra/s, embed "
        f"{detections / seconds:.0f}: {bare / seconds:.0%} (target {LEAST:.0%})"
    )


def _settings(changes: dict[str, object]) -> Config:
    config = load_config(settings={"embed": changes})
    return config.model_copy(update={"ray": RayConfig(address="local", num_cpus=PROCESSES)})


def start_loops(
    workspace: Workspace, release: str, model_uri: str, config: EmbedConfig = NO_ERRORS
) -> list[Connection]:
    """Start bare processes, each with a share of the parts, that wait for the name of a way."""
    spawn = multiprocessing.get_context("spawn")
    links = []
    for number in range(PROCESSES):
        share = range(number, count_parts(workspace, release), PROCESSES)
        ours, theirs = spawn.Pipe()
        arguments = workspace.absolute_uri(), release, model_uri, share, config, theirs
        spawn.Process(target=loop, args=arguments, daemon=True).start()
        links.append(ours)
    return links


def run_loops(links: list[Connection], way: str) -> float:
    """Return the wall time, s."""
    begin = time.perf_counter()
    for link in links:
        link.send(way)
    for link in links:
        link.recv()
    return time.perf_counter() - begin


def _run_embed(workspace: Workspace, model_uri: str, changes: Any) -> float:
    """Return the wall time, s, of starting the encoders, the parts, the sources and publishing."""
    clear(workspace, model_uri)
    begin = time.perf_counter()
    embed(workspace, model=model_uri, config=_settings(changes))
    return time.perf_counter() - begin


def clear(workspace: Workspace, model_uri: str) -> None:
    release, model_id = choose_release(workspace, None), load_model(model_uri).model_id
    for folder in catalog_folder(release, model_id), sources_folder(release, model_id):
        shutil.rmtree(workspace.path(folder), ignore_errors=True)


def _originals(place: Path, model_uri: str | None) -> tuple[Workspace, str]:
    """Return the spectra to copy, and a model: the given one, or one trained on them."""
    workspace = Workspace(place / "originals")
    settings = _settings({})
    simulate(place / "survey", detections=ORIGINALS, seed=1)
    discover(workspace, source=str(place / "survey"), catalog=place / "survey" / "truth.parquet")
    ingest(workspace, config=settings)
    if model_uri is None:
        training = settings.train.model_copy(update={"epochs": EPOCHS})
        model_id = train(workspace, config=settings.model_copy(update={"train": training}))
        model_uri = workspace.absolute_uri(model_folder(model_id))
    return workspace, model_uri


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detections", type=int, default=24_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="bundle to encode with")
    parser.add_argument("--pair", type=int, help="compare both for this number of detections")
    parser.add_argument("--originals", type=Path, help="workspace whose spectra are copied")
    parser.add_argument("--large", type=int, nargs="+", default=[], help="numbers of detections")
    options = parser.parse_args()
    print(f"load averages {os.getloadavg()} on {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as place:
        if options.originals and options.model:
            originals, model_uri = Workspace(options.originals), options.model
        else:
            originals, model_uri = _originals(Path(place), options.model)
        if options.pair:
            measure_pair(Path(place) / "pair", originals, model_uri, options.pair)
        if options.rounds:
            few, many = (
                replicate(Path(place) / f"w{n}", originals, n)
                for n in (options.detections // SHARE, options.detections)
            )
            measure(few, many, model_uri, options.rounds)
        for detections in options.large:
            large = Path(place) / f"{detections}"
            measure_large(large, originals, model_uri, detections)
            shutil.rmtree(large)
    print(f"load averages {os.getloadavg()}")


if __name__ == "__main__":
    main()
