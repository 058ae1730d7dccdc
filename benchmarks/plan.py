"""What `plan` predicts from a sample over what ingesting all of it then takes.

Usage: python -m benchmarks.plan [--detections 2000] [--sample 200] [--survey FOLDER] [--served]
                                  [--rmf chip|exact]

A survey is simulated, or one that is there is taken; plan and ingest run as commands, one after
the other. CPU time and memory of ingest are those of its process and all below it, looked at every
quarter of a second: memory shared between processes counts once. With --served the files come from
a server on loopback. Run from the root of the checkout: server and cluster.yaml are there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

from raypipe.discovery.discover import discover
from raypipe.planning.processes import tree_use
from raypipe.simulation.simulate import simulate
from raypipe.workspace import Workspace
from tests.pipeline.file_server import FileServer, serve, write_remote_manifest

PART_ROWS = 500
LOOK_S = 0.25


def _serve(folder: Path, link: Connection) -> None:
    with serve(folder) as server:
        link.send(server.url)
        link.recv()


class _Elsewhere:
    """Stands for a server in another process where only its address matters."""

    def __init__(self, url: str) -> None:
        self.url = url


@contextmanager
def _served(folder: Path, workspace: Workspace) -> Iterator[None]:
    """A manifest of a folder's files on a server, which runs inside the block."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(folder, theirs), daemon=True
    )
    process.start()
    server: FileServer = _Elsewhere(ours.recv())  # type: ignore[assignment]
    write_remote_manifest(workspace, folder, server, part_rows=PART_ROWS)
    yield
    ours.send("done")
    process.join()


def _command(verb: str, workspace: Workspace, *more: str) -> tuple[str, float, int]:
    """What a verb prints, the CPU time, s, and the peak memory, bytes, of all its processes."""
    command = [sys.executable, "-m", "raypipe.cli", verb, "--workspace", workspace.uri, *more]
    cpu_s: dict[int, float] = {}
    peak = 0
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            use = tree_use(psutil.Process(process.pid))
            cpu_s |= {pid: each.cpu_s for pid, each in use.items()}
            peak = max(peak, sum(each.memory_bytes for each in use.values()))
            time.sleep(LOOK_S)
        answer = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0
    return answer, sum(cpu_s.values()), peak


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
    parser.add_argument("--survey", type=Path, help="folder of a survey that is there")
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
        with _served(folder, workspace) if options.served else nullcontext():
            _compare(workspace, options.sample, options.rmf)


if __name__ == "__main__":
    main()
