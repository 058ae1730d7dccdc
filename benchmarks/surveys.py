"""Make surveys of any size to measure ingestion with, and serve one over HTTP."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

from raypipe.discovery.columns import manifest_rows
from raypipe.discovery.discover import discover
from raypipe.discovery.manifest import write_manifest
from raypipe.identity import parse_csc_name
from raypipe.simulation.simulate import simulate
from raypipe.spectra.schema import REJECT_FIELDS
from raypipe.store.fingerprints import FINGERPRINT, manifest_fingerprint
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.manifest import choose_release
from raypipe.store.parts import count_parts
from raypipe.store.workspace import Workspace
from tests.pipeline.file_server import serve

SIMULATED = 400
COPY_OF = "copy_of"
ROWS_AT_ONCE = 50_000


def make_survey(place: Path, detections: int, products: Path | None = None) -> Workspace:
    """Make a workspace in `place` with a manifest of `detections` detections and their files.

    The files are hard links, under distinct obsids, to those of `SIMULATED` simulated detections,
    or to copies of the catalog's products in the folder `products`.
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
            _link(path, files / f"acisf{number + 1:05d}{path.name[10:]}")
    workspace = Workspace(place / "workspace")
    discover(workspace, source=str(files))
    return workspace


def _link(original: Path, link: Path) -> None:
    """Make a hard link, to a new copy of the original once that has as many as the disk allows."""
    try:
        os.link(original, link)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        copy = original.with_name("copy")
        shutil.copyfile(original, copy)
        copy.replace(original)
        os.link(original, link)


class Elsewhere:
    """Represents a server in another process where only its address matters."""

    def __init__(self, url: str) -> None:
        self.url = url


@contextmanager
def served(folder: Path, latency_s: float = 0.0) -> Iterator[Elsewhere]:
    """Serve a folder from a separate process while the block runs."""
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


def replicate(place: Path, originals: Workspace, detections: int) -> Workspace:
    """Make a workspace in `place` whose spectra are copies of another's under distinct names.

    It has manifest, spectra and redistributions as after `ingest`, but not the files.
    """
    release = choose_release(originals, None)
    spectra = originals.read_folder(spectra_folder(release))
    workspace = Workspace(place)
    shutil.copytree(originals.path("responses"), workspace.path("responses"))
    write_manifest(
        workspace,
        release,
        map(manifest_rows, _copies(release, spectra.num_rows, detections)),
        part_rows=500,
        source="copies",
    )
    for part in range(count_parts(workspace, release)):
        manifest = workspace.read_table(part_name(manifest_folder(release), part))
        copies = spectra.take(manifest[COPY_OF])
        for name in ("detection_id", "name", "obsid", "obi", "region_id"):
            index = copies.column_names.index(name)
            copies = copies.set_column(index, copies.field(name), manifest[name])
        keys = {FINGERPRINT: manifest_fingerprint(manifest)}
        workspace.write_table(part_name(spectra_folder(release), part), copies, keys)
        nothing = pa.schema(REJECT_FIELDS).empty_table()
        workspace.write_table(part_name(rejects_folder(release), part), nothing, keys)
    return workspace


def _copies(release: str, originals: int, detections: int) -> Iterator[pa.Table]:
    """Make manifest rows, each a copy of one of the originals in turn, two per source."""
    for start in range(0, detections, ROWS_AT_ONCE):
        numbers = np.arange(start, min(start + ROWS_AT_ONCE, detections))
        yield pa.table(
            {
                "detection_id": pa.array(
                    [f"{release}:{n}.0.1" for n in numbers], pa.large_string()
                ),
                "name": pa.array([f"copy {n // 2}" for n in numbers], pa.large_string()),
                "obsid": numbers,
                "obi": np.zeros_like(numbers),
                "region_id": np.ones_like(numbers),
                COPY_OF: numbers % originals,
            }
        )
