"""Measure time and memory of `raypipe discover`, and of `raypipe ingest` with nothing to do.

Usage: python -m benchmarks.discovery archive|folder|ingested [--detections N] [--only-make DIR]

`archive` discovers synthetic rows with all of the archive's columns, from pages as an interrupted
run leaves them, so that no service is queried. `folder` discovers empty files with the CSC's names,
three per detection and a thousand detections per folder. `ingested` ingests a manifest of such rows
whose spectra, filled with nulls, exist already.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from raypipe.archive.pages import Counts, cut_into_pages, release_pages
from raypipe.archive.query import COLUMNS
from raypipe.config import DiscoverConfig, IngestConfig
from raypipe.discovery.columns import manifest_rows
from raypipe.discovery.manifest import write_manifest
from raypipe.spectra.schema import REJECT_FIELDS, RMF, SPECTRUM_FIELDS
from raypipe.store.fingerprints import FINGERPRINT
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.workspace import Workspace

RELEASE = "csc2.1"
PAGE_ROWS = DiscoverConfig().page_rows
AN_OBSID_HAS = 50
"""Detections per obsid."""

KINDS = ("pha", "arf", "rmf")

TEXTS = {"gti_obs", "gti_end", "instrument", "grating", "datamode", "likelihood_class"}
FITS = ("powlaw", "_bb", "bb_", "brems", "apec")
"""Parts of the names of columns of spectral fits, which few sources have."""


def make_pages(workspace: Path, detections: int) -> list[str]:
    """Make the saved pages of a release whose manifest is not yet written."""
    pages = release_pages(Workspace(workspace), RELEASE, RELEASE, None, DiscoverConfig())
    cut = cut_into_pages(_counts(detections), PAGE_ROWS)
    plan = {"columns": [column.name for column in COLUMNS], "pages": cut}
    for number, page in enumerate(cut):
        pages.workspace.write_table(part_name(pages.folder, number), _page(page))
    pages.workspace.write_json(f"{pages.folder}/plan.json", plan)
    return ["discover", "--source", RELEASE]


def _page(counts: Counts) -> pa.Table:
    """Make rows for these obsids that differ in their names only."""
    obsid = np.repeat(*np.transpose(counts))
    region = np.concatenate([np.arange(1, rows + 1) for _, rows in counts])
    values = {name: values[: len(obsid)] for name, values in _values(PAGE_ROWS).items()}
    names = [f"2CXO J{o:06d}.{r}+{r:06d}" for o, r in zip(obsid, region, strict=True)]
    own = {"obsid": obsid, "obi": np.zeros_like(obsid), "region_id": region, "name": names}
    return pa.table({**values, **own})


@cache
def _values(rows: int) -> dict[str, pa.Array]:
    draw = np.random.default_rng(0)
    columns = {}
    for name in (column.name for column in COLUMNS):
        if name in TEXTS:
            columns[name] = pa.array(["2009-08-15T19:27:22"] * rows)
        elif name.endswith("flag"):
            columns[name] = pa.array(draw.random(rows) < 0.1)
        elif name.endswith("code"):
            columns[name] = pa.array(draw.integers(0, 300, rows))
        else:
            absent = 0.85 if any(word in name for word in FITS) else 0.1
            columns[name] = pa.array(draw.random(rows), mask=draw.random(rows) < absent)
    return columns


def make_files(folder: Path, detections: int) -> list[str]:
    """Make empty files with the CSC's names."""
    for name in _names(detections):
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return ["discover", "--source", str(folder / "source")]


def _names(detections: int) -> Iterator[str]:
    for number in range(detections):
        obsid, region = divmod(number, AN_OBSID_HAS)
        for product in "pha3", "arf3", "rmf3":
            name = f"acisf{obsid + 1:05d}_000N001_r{region + 1:04d}_{product}.fits.gz"
            yield f"{number // 1000:04d}/{name}"


def make_ingested(folder: Path, detections: int) -> list[str]:
    """Make a manifest and the spectra of its rows."""
    workspace = Workspace(folder)
    tables = (_named(_page(counts)) for counts in cut_into_pages(_counts(detections), PAGE_ROWS))
    summary = write_manifest(workspace, RELEASE, tables, DiscoverConfig().part_rows, "made up")
    for part in range(summary["parts"]):
        rows = workspace.read_table(part_name(manifest_folder(RELEASE), part))
        metadata = workspace.read_metadata(part_name(manifest_folder(RELEASE), part))
        made_of = {FINGERPRINT: metadata[FINGERPRINT], RMF: IngestConfig().rmf}
        for field in SPECTRUM_FIELDS:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        workspace.write_table(part_name(spectra_folder(RELEASE), part), rows, made_of)
        rejects = pa.schema(REJECT_FIELDS).empty_table()
        workspace.write_table(part_name(rejects_folder(RELEASE), part), rejects, made_of)
    return ["ingest"]


def _named(page: pa.Table) -> pa.Table:
    names = [f"{RELEASE}:{o}.0.{r}" for o, r in zip(page["obsid"], page["region_id"], strict=True)]
    uris = {f"{kind}_uri": [f"/source/{name}/{kind}" for name in names] for kind in KINDS}
    for name, texts in {"detection_id": names, **uris}.items():
        page = page.append_column(name, pa.array(texts))
    return manifest_rows(page)


def _counts(detections: int) -> Counts:
    return [(number + 1, AN_OBSID_HAS) for number in range(detections // AN_OBSID_HAS)]


WAYS = {"archive": make_pages, "folder": make_files, "ingested": make_ingested}


def main() -> None:
    """Make the input, then time the command in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--detections", type=int, default=200_000)
    parser.add_argument("--only-make", type=Path, help="only make the workspace, in this folder")
    options = parser.parse_args()
    if options.only_make:
        print(" ".join(WAYS[options.way](options.only_make, options.detections)))
        return
    with tempfile.TemporaryDirectory() as folder:
        verb = WAYS[options.way](Path(folder), options.detections)
        started = time.monotonic()
        command = [sys.executable, "-m", "raypipe.cli", *verb, "--workspace", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        print(
            f"{options.way}, {options.detections} detections: {seconds:.1f} s, "
            f"peak {usage.ru_maxrss / 1024:.0f} MB, exit {os.waitstatus_to_exitcode(status)}"
        )


if __name__ == "__main__":
    main()
