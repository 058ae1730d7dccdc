"""Compare `reprocess`, where one detection in a hundred has changed, with starting from scratch.

Usage: python -m benchmarks.reprocess --model BUNDLE [--detections 10000] [--changed 0.01]

A release of linked products is ingested and embedded; in the next release some detections have
newer versions of their PHA files. Printed are the bytes read by `ingest`, the detections measured
by `embed`, and the time, of `reprocess` and of the same release made from scratch in another
workspace; and whether both catalogs have the same rows and, up to rounding, the same numbers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import raypipe
from benchmarks.surveys import make_survey
from raypipe.config import Config, RayConfig
from raypipe.ray_session import ray_session
from raypipe.store.workspace import Workspace

FIRST, NEXT = "r1", "r2"


def next_release(files: Path, folder: Path, changed: float) -> int:
    """Link a folder's files into another, with newer versions of some PHAs; returns how many."""
    folder.mkdir()
    phas = sorted(files.glob("*_pha3.fits*"))
    step = round(1 / changed)
    newer = {phas[i].name: phas[(i + 1) % len(phas)] for i in range(0, len(phas), step)}
    for path in files.iterdir():
        if path.name in newer:
            os.link(newer[path.name], folder / path.name.replace("N001", "N002"))
        else:
            os.link(path, folder / path.name)
    return len(newer)


def build(workspace: Workspace, source: Path, release: str, model: str, config: Config) -> None:
    raypipe.discover(workspace, source=str(source), release=release, config=config)
    raypipe.ingest(workspace, release=release, config=config)
    raypipe.embed(workspace, release=release, model=model, config=config)


def figures(workspace: Workspace, verb: str) -> dict[str, Any]:
    """Read the record of a verb's last run."""
    last = max(name for name in workspace.folders("runs") if name.endswith(f"-{verb}"))
    found: dict[str, Any] = workspace.read_json(f"runs/{last}/run.json")["figures"]
    return found


def tell(name: str, workspace: Workspace, seconds: float) -> None:
    ingested, embedded = figures(workspace, "ingest"), figures(workspace, "embed")
    print(
        f"{name:14}{seconds:7.1f} s, {ingested['bytes_read'] / 1e6:8.2f} MB read, "
        f"{ingested['kept']} detections kept by ingest, {embedded['measured']} measured by embed"
    )


def differences(one: Workspace, other: Workspace) -> None:
    """Print how two catalogs of the release differ."""
    tables = [
        raypipe.open_catalog(each, release=NEXT).sort_values("detection_id", ignore_index=True)
        for each in (one, other)
    ]
    exact = [name for name in tables[0] if tables[0][name].dtype.kind not in "fO"]
    exact += ["detection_id", "name", "flags", "source_uri", "rmf_id"]
    same = all(tables[0][name].equals(tables[1][name]) for name in exact)
    print(f"{len(tables[0])} and {len(tables[1])} rows; identity and counts equal: {same}")
    latents = [f"z{i}" for i in range(8)]
    apart = np.abs(tables[0][latents].to_numpy() - tables[1][latents].to_numpy())
    errors = tables[0][[f"{name}_std" for name in latents]].to_numpy()
    print(f"latents differ by at most {apart.max():.2g}, {(apart / errors).max():.2g} of z_std")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="bundle to embed with")
    parser.add_argument("--detections", type=int, default=10_000)
    parser.add_argument("--changed", type=float, default=0.01, help="share of the detections")
    options = parser.parse_args()
    config = Config(ray=RayConfig(address="local", num_cpus=2))
    with tempfile.TemporaryDirectory() as name, ray_session(config.ray):
        place = Path(name)
        make_survey(place, options.detections)
        files, newer = place / "files", place / "newer"
        print(f"{next_release(files, newer, options.changed)} of {options.detections} changed")
        workspace, scratch = Workspace(place / "w"), Workspace(place / "scratch")
        build(workspace, files, FIRST, options.model, config)
        begin = time.perf_counter()
        answer = raypipe.reprocess(workspace, release=NEXT, source=str(newer), config=config)
        tell("reprocess", workspace, time.perf_counter() - begin)
        print(answer["changes"])
        begin = time.perf_counter()
        build(scratch, newer, NEXT, options.model, config)
        tell("from scratch", scratch, time.perf_counter() - begin)
        differences(workspace, scratch)


if __name__ == "__main__":
    main()
