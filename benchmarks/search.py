"""Time searches among a million detections: raypipe, and Euclidean trees of scikit-learn.

Usage: python -m benchmarks.search WORKSPACE [--rows 1000000] [--queries 50] [--model ID]

The catalog of WORKSPACE is repeated, with latents shifted by half their errors, until it has that
many rows; it is written as a separate catalog, opened and searched. One process with one thread
runs every query with all methods in turn. The trees ignore the errors of latents; they show what a
search without errors would cost.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import pyarrow as pa
from sklearn.neighbors import BallTree, KDTree

import raypipe
from raypipe.model.choice import choose_model
from raypipe.searching.latent_search import LatentSearch
from raypipe.store.layout import catalog_folder, manifest_folder, part_name
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, publish, read_detections, read_sources
from raypipe.store.workspace import Workspace

K = 10
PART_ROWS = 125_000
LATENTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, big = Workspace(options.workspace), Workspace(folder)
        release = choose_release(source, None)
        model_id = choose_model(source, release, options.model)
        _repeat(source, big, release, model_id, options.rows)
        opened, seconds, megabytes = _open(big)
        _ = opened.sources
    print(
        f"{len(opened.detections)} rows opened in {seconds:.1f} s, {megabytes:.0f} MB more memory"
    )
    _compare(opened, options.queries)
    _misspelled(opened)
    started = time.perf_counter()
    if source.exists(f"models/{model_id}/model.safetensors"):
        opened = LatentSearch(source, release, model_id, opened.detections, opened.config)
        opened.strangest(K)
        print(f"strangest: {time.perf_counter() - started:.1f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


def _repeat(source: Workspace, big: Workspace, release: str, model_id: str, rows: int) -> None:
    for name in source.files(manifest_folder(release)):
        big.write_bytes(name, source.read_bytes(name))
    table = read_detections(source, release, model_id).combine_chunks()
    rng, parts = np.random.default_rng(0), []
    for number, start in enumerate(range(0, rows, PART_ROWS)):
        places = np.arange(start, min(start + PART_ROWS, rows))
        part = table.take(pa.array(places % table.num_rows))
        for name, values in _moved(part, places, rng).items():
            part = part.set_column(part.schema.get_field_index(name), name, values)
        parts.append(part_name(catalog_folder(release, model_id), number))
        big.write_table(parts[-1], part)
    sources = f"sources/{release}/{model_id}/sources.parquet"
    big.write_table(sources, read_sources(source, release, model_id))
    count = big.count_rows(sources)
    new = Publication(release, model_id, 0, rows, count, tuple(parts), sources, "benchmark")
    publish(big, new, None)


def _moved(part: pa.Table, places: np.ndarray, rng: np.random.Generator) -> dict[str, pa.Array]:
    columns = {"detection_id": pa.array([f"repeated:{place}.0.1" for place in places])}
    for i in range(LATENTS):
        z, width = (part[name].to_numpy() for name in (f"z{i}", f"z{i}_std"))
        columns[f"z{i}"] = pa.array((z + 0.5 * width * rng.normal(size=len(z))).astype(z.dtype))
    return columns


def _open(workspace: Workspace) -> tuple[LatentSearch, float, float]:
    process = psutil.Process()
    before, started = process.memory_info().rss, time.perf_counter()
    opened = raypipe.open_search(workspace)
    return opened, time.perf_counter() - started, (process.memory_info().rss - before) / 1e6


def _in_tree(tree: Any, latents: np.ndarray, row: int) -> Any:
    return tree.query(latents[row : row + 1], k=K + 1)


def _compare(opened: LatentSearch, queries: int) -> None:
    latents = opened.detections.posteriors.z.T.astype(np.float64)
    ids = opened.detections.table["detection_id"]
    chosen = np.random.default_rng(1).integers(0, len(latents), queries)
    ways: dict[str, Callable[[int], Any]] = {
        "raypipe": lambda row: opened.like_detection(ids[int(row)].as_py(), K)
    }
    for name, kind in (("BallTree", BallTree), ("KDTree", KDTree)):
        started = time.perf_counter()
        tree = kind(latents)
        print(f"{name} built in {time.perf_counter() - started:.1f} s")
        ways[name] = partial(_in_tree, tree, latents)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for row in chosen:
        for name, ask in ways.items():
            started, used = time.perf_counter(), time.process_time()
            ask(int(row))
            wall[name].append(1e3 * (time.perf_counter() - started))
            processor[name].append(1e3 * (time.process_time() - used))
    print(f"ms per query, {queries} queries: wall time median, worst; CPU time median, worst")
    for name in ways:
        figures = [f(each[name]) for each in (wall, processor) for f in (np.median, np.max)]
        ratio = np.median(processor["raypipe"]) / np.median(processor[name])
        print(f"{name:10} " + " ".join(f"{each:7.1f}" for each in figures) + f"  x{ratio:.2f}")


def _misspelled(opened: LatentSearch) -> None:
    for ask, name in ((opened.like_detection, "repeated:77.0.l"), (opened.like_source, "2CXO J1")):
        started = time.perf_counter()
        try:
            ask(name)
        except raypipe.UsageError as error:
            print(f"{1e3 * (time.perf_counter() - started):.0f} ms to answer: {error}")


if __name__ == "__main__":
    main()
