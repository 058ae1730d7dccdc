"""Surveys of any number of detections to measure ingestion with, and a server of one."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from raypipe.discovery.discover import discover
from raypipe.discovery.listing import parse_csc_name
from raypipe.simulation.simulate import simulate
from raypipe.workspace import Workspace
from tests.pipeline.file_server import serve

SIMULATED = 400


def make_survey(place: Path, detections: int, products: Path | None = None) -> Workspace:
    """A workspace in `place` with the manifest of so many detections, whose files are there, too.

    The files are hard links, under obsids of their own, to those of `SIMULATED` simulated
    detections, or to copies of the catalog's products in the folder `products`.
    """
    originals, files = place / "originals", place / "files"
    if products is None:
        simulate(originals, detections=min(SIMULATED, detections), seed=1)
    else:
        shutil.copytree(products, originals, ignore=shutil.ignore_patterns("hrc*"))
    files.mkdir(parents=True)
    by_detection: dict[tuple[int, int, int], list[Path]] = {}
    for path in sorted(originals.iterdir()):
        if name := parse_csc_name(path.name):
            by_detection.setdefault((name.obsid, name.obi, name.region_id), []).append(path)
    sources = list(by_detection.values())
    for number in range(detections):
        for path in sources[number % len(sources)]:
            os.link(path, files / f"acisf{number + 1:05d}{path.name[10:]}")
    workspace = Workspace(place / "workspace")
    discover(workspace, source=str(files))
    return workspace


class Elsewhere:
    """Stands for a server in another process where only its address matters."""

    def __init__(self, url: str) -> None:
        self.url = url


@contextmanager
def served(folder: Path, latency_s: float = 0.0) -> Iterator[Elsewhere]:
    """A server of a folder, for as long as the block lasts, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(folder, latency_s, theirs), daemon=True)
    process.start()
    try:
        yield Elsewhere(ours.recv())
    finally:
        ours.send("done")
        process.join()


def _serve(folder: Path, latency_s: float, link: Connection) -> None:
    with serve(folder, latency_s) as server:
        link.send(server.url)
        link.recv()
