"""Measure the peak memory of `raypipe ingest` and the bytes it writes, for small and large surveys.

Usage: python -m benchmarks.footprint [--detections 10000 100000] [--products FOLDER]

The command ingests each number of detections in a separate workspace; the memory is that of all its
processes together, sampled while it runs. The detections' files are hard links. The output bytes
are measured on spectra of about 500 counts that all differ.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow.compute as pc

from benchmarks.processes import Taken, watch
from benchmarks.surveys import make_survey
from raypipe.discovery.discover import discover
from raypipe.simulation.simulate import simulate
from raypipe.store.layout import spectra_folder
from raypipe.store.manifest import choose_release
from raypipe.store.workspace import Workspace

PROCESSES = 2

PROCESSES = 2
DISTINCT = 1000
COUNTS = 500


@dataclass(frozen=True)
class Output:
    """Rows of spectra, and their average sizes."""

    rows: int
    bytes_a_row: float
    counts_a_row: float
    background_counts_a_row: float

    def __str__(self) -> str:
        return (
            f"{self.bytes_a_row:.0f} bytes a detection of {self.counts_a_row:.0f} counts and "
            f"{self.background_counts_a_row:.0f} in the background's region"
        )


def ingest_survey(workspace: Workspace) -> tuple[Taken, float]:
    """Ingest with the command; returns the cost of all its processes, and the time, s."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "raypipe.cli", "ingest", "--workspace", workspace.uri]
    command += ["--set", f"ray.num_cpus={PROCESSES}"]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        watch(process.pid) as taken,
    ):
        assert process.wait() == 0
    return taken, time.perf_counter() - begin


def output_of(workspace: Workspace) -> Output:
    """Return the output of ingest."""
    names = workspace.files(spectra_folder(choose_release(workspace, None)), ".parquet")
    size = sum(Path(workspace.path(name)).stat().st_size for name in names)
    rows, totals = 0, [0, 0]
    for name in names:
        table = workspace.read_table(name, ["counts", "background_counts"])
        rows += table.num_rows
        for number, column in enumerate(table.columns):
            totals[number] += pc.sum(column.combine_chunks().flatten()).as_py()
    return Output(rows, size / rows, totals[0] / rows, totals[1] / rows)


def measure_memory(numbers: list[int], products: Path | None) -> None:
    """Print the footprint of each number of detections, and the factor by which memory grows."""
    peaks = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as place:
            workspace = make_survey(Path(place), number, products)
            taken, seconds = ingest_survey(workspace)
            output = output_of(workspace)
        peaks.append(taken.memory_bytes)
        print(
            f"{output.rows} detections in {seconds:.0f} s ({taken.cpu_s:.0f} s of CPU time): peak "
            f"memory {taken.memory_bytes / 1e6:.0f} MB in {taken.processes} processes; {output}",
            flush=True,
        )
    print(f"memory for {numbers[-1]} / memory for {numbers[0]}: {peaks[-1] / peaks[0]:.2f}")


def measure_output() -> None:
    """Print the bytes per spectrum for spectra of about 500 counts that all differ."""
    with tempfile.TemporaryDirectory() as place:
        survey = Path(place) / "survey"
        low, high = 0.9 * COUNTS, 1.1 * COUNTS
        simulate(survey, detections=DISTINCT, seed=2, counts_min=low, counts_max=high)
        workspace = Workspace(Path(place) / "workspace")
        discover(workspace, source=str(survey))
        ingest_survey(workspace)
        print(f"{DISTINCT} different spectra: {output_of(workspace)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detections", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--products", type=Path, help="folder of CSC products to copy")
    options = parser.parse_args()
    measure_output()
    measure_memory(options.detections, options.products)


if __name__ == "__main__":
    main()
