"""Measure time and memory of `raypipe classify` on a catalog of many detections.

    python -m benchmarks.classify_scale --workspace W --labels FILE [--rows 50000 200000]

W is an embedded workspace, of which a copy is made. Its detections are repeated, each copy of a
source under its own name, until a release has as many rows. A classifier is trained once on the
labels and then applied to each release in a process of its own, on one core. The figures are CPU
seconds, which other programs on the machine hardly change, and the largest resident memory; both
include the start of Python.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import raypipe
from raypipe.classifying.classify import classifier_name
from raypipe.model.choice import choose_model
from raypipe.store.layout import catalog_folder, sources_folder
from raypipe.store.manifest import choose_release, summary_name
from raypipe.store.publication import (
    Publication,
    detections_of,
    publish,
    require_publication,
    sources_of,
)
from raypipe.store.workspace import Workspace

PART_ROWS = 20_000
APPLY = """
import sys, torch, raypipe
torch.set_num_threads(1)
raypipe.classify(sys.argv[1], release=sys.argv[2], classifier=sys.argv[3])
"""


def repeat(workspace: Workspace, catalog: Publication, rows: int, release: str) -> None:
    """Publish a release of `rows` detections that repeats those of a catalog."""
    detections = detections_of(workspace, catalog)
    sources = sources_of(workspace, catalog)
    copies = -(-rows // len(detections))
    folders = catalog_folder(release, catalog.model_id), sources_folder(release, catalog.model_id)
    whole = pa.concat_tables(renamed(detections, f"-{n}") for n in range(copies)).slice(0, rows)
    parts = [f"{folders[0]}/part-{number:05d}.parquet" for number in range(-(-rows // PART_ROWS))]
    for number, name in enumerate(parts):
        workspace.write_table(name, whole.slice(number * PART_ROWS, PART_ROWS))
    every = pa.concat_tables(renamed(sources, f"-{n}") for n in range(copies))
    every = every.filter(pc.is_in(every["name"], pc.unique(whole["name"])))
    workspace.write_table(f"{folders[1]}/sources.parquet", every)
    workspace.write_json(summary_name(release), {"rows": rows, "parts": 1, "source": "repeated"})
    new = Publication(
        release=release,
        model_id=catalog.model_id,
        number=0,
        rows=rows,
        source_rows=len(every),
        parts=tuple(parts),
        sources=f"{folders[1]}/sources.parquet",
        fingerprint=release,
    )
    publish(workspace, new, None)


def renamed(table: pa.Table, ending: str) -> pa.Table:
    """Append to ids and names, and drop the labels, so that nothing is trained on."""
    for name in {"detection_id", "best_detection_id", "name"} & set(table.column_names):
        place = table.column_names.index(name)
        column = pc.binary_join_element_wise(table[name].cast(pa.string()), ending, "")
        field = table.schema.field(place).with_type(pa.string())
        table = table.set_column(place, field, column)
    return table.drop_columns([name for name in ("class",) if name in table.column_names])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(options.workspace, Path(folder) / "w")
        workspace = Workspace(copy)
        release = choose_release(workspace, None)
        model_id = choose_model(workspace, release, None)
        raypipe.classify(workspace, release=release, labels=options.labels)
        classifier = workspace.path(classifier_name(model_id, "all"))
        catalog = require_publication(workspace, release, model_id)
        print("| detections | CPU, s | largest memory, MB |\n|---|---|---|")
        for rows in sorted(options.rows):
            repeat(workspace, catalog, rows, f"of-{rows}")
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-c", APPLY, workspace.uri, f"of-{rows}", str(classifier)]
            subprocess.run(command, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            # It is the largest of all processes so far: rows are in rising order.
            print(f"| {rows:,} | {seconds:.0f} | {after.ru_maxrss / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    main()
