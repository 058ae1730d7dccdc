"""Compare the predictions of `plan` from a sample with the actual cost of ingesting everything.

Usage: python -m benchmarks.plan [--detections 2000] [--sample 200] [--survey FOLDER] [--served]
                                  [--rmf chip|exact]

A survey is simulated, or an existing one is used; `plan` and `ingest` run as commands, one after
the other. CPU time and memory of `ingest` are those of its process and all its descendants, sampled
every quarter of a second, with shared memory counted once. With --served the files come from a
server on loopback. Run it from the root of the checkout, which has the server and cluster.yaml.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.processes import watch
from benchmarks.surveys import served
from raypipe.discovery.discover import discover
from raypipe.simulation.simulate import simulate
from raypipe.store.workspace import Workspace
from tests.pipeline.file_server import write_remote_manifest

PART_ROWS = 500


def _command(verb: str, workspace: Workspace, *more: str) -> tuple[str, float, int]:
    """Run a verb; returns its output, CPU time, s, and peak memory, bytes, of all its processes."""
    command = [sys.executable, "-m", "raypipe.cli", verb, "--workspace", workspace.uri, *more]
    with (
        subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as process,
        watch(process.pid) as taken,
    ):
        answer, _ = process.communicate()
    assert process.returncode == 0
    return answer, taken.cpu_s, taken.memory_bytes


def _written(workspace: Workspace) -> int:
    folders = "spectra", "rejects", "responses"
    root = Path(workspace.root)
    return sum(p.stat().st_size for name in folders for p in (root / name).rglob("*.parquet"))


def _compare(workspace: Workspace, sample: int, rmf: str) -> None:
    setting = "--set", f"ingest.rmf={rmf}"
    answer, plan_cpu_s, _ = _command("plan", workspace, "--sample", str(sample), *setting)
    predicted = json.loads(answer)["prediction"]
    _, cpu_s, peak = _command("ingest", workspace, *setting)
    run = next(name for name in reversed(workspace.folders("runs")) if name.endswith("ingest"))
    figures: dict[str, Any] = workspace.read_json(f"runs/{run}/run.json")["figures"]
    print(f"{figures['manifest']} detections, a sample of {sample} ({plan_cpu_s:.0f} s of CPU)")
    for name, guess, truth in (
        ("spectra", predicted["spectra"], figures["spectra"]),
        ("bytes read", predicted["bytes_read"], figures["bytes_read"]),
        ("  of RMFs", predicted["rmf_bytes_read"], figures["rmf_bytes"]),
        ("requests", predicted["requests"], figures["requests"]),
        ("bytes written", predicted["bytes_written"], _written(workspace)),
        ("CPU seconds", predicted["ingest_core_hours"] * 3600, cpu_s),
        ("memory, bytes", predicted["memory_bytes"], peak),
    ):
        ratio = f"{guess / truth:.2f}" if truth else "-"
        print(f"{name:<14} predicted {guess:>16,.0f}  actual {truth:>16,.0f}  ratio {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--detections", type=int, default=2000)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--survey", type=Path, help="folder of an existing survey")
    parser.add_argument("--served", action="store_true", help="files come over HTTP")
    parser.add_argument("--rmf", choices=["chip", "exact"], default="chip")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        workspace = Workspace(f"{place}/w")
        folder = options.survey or Path(place) / "survey"
        if options.survey is None:
            simulate(folder, detections=options.detections, seed=1)
        if not options.served:
            discover(
                workspace,
                source=str(folder),
                catalog=folder / "truth.parquet",
                config={"discover": {"part_rows": PART_ROWS}},
            )
        with served(folder) if options.served else nullcontext() as server:
            if server is not None:
                write_remote_manifest(workspace, folder, server, part_rows=PART_ROWS)
            _compare(workspace, options.sample, options.rmf)


if __name__ == "__main__":
    main()
