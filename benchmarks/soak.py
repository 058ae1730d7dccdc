"""Run on a cluster that loses a machine every minute, and check that no detection is lost.

Usage: python -m benchmarks.soak [--detections 200000] [--every 60] [--model BUNDLE] [--seed N]

Simulated detections (hard links to the files of 400) are discovered, then ingested and embedded on
a Ray cluster of three machines with one CPU each and a head without CPUs, all on this computer. At
regular intervals all processes of one machine are killed at once, and another machine joins. At the
end every detection must be in the catalog exactly once, and no half-written file in the workspace.
Prints each loss with the number of parts published at that moment.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import raypipe
from benchmarks.surveys import make_survey
from raypipe.store.layout import spectra_folder
from raypipe.store.manifest import choose_release
from raypipe.store.parts import count_parts
from raypipe.store.workspace import Workspace
from tests.cluster.machines import Machines, drafts

MODEL = Path(__file__).resolve().parents[1] / "tests" / "data" / "bundle-format-2"


def soak(
    machines: Machines,
    driver: subprocess.Popen[bytes],
    published: Callable[[], int],
    every_s: float,
    moments: random.Random,
) -> tuple[float, int]:
    """Kill machines at intervals until the driver ends; returns the time, s, and the losses."""
    begin, losses = time.monotonic(), 0
    while True:
        try:
            code = driver.wait(every_s)
        except subprocess.TimeoutExpired:
            there = published()
            machines.kill(moments.choice(machines.nodes))
            machines.add()
            losses += 1
            seconds = time.monotonic() - begin
            print(f"{seconds:7.0f} s: machine {losses} lost with {there} parts there", flush=True)
            continue
        assert code == 0, f"the driver ended with {code}"
        return time.monotonic() - begin, losses


def check(workspace: Workspace, detections: int) -> None:
    """Raise AssertionError unless each detection is in spectra and catalog exactly once."""
    release = choose_release(workspace, None)
    ids = workspace.read_folder(f"manifest/{release}", ["detection_id"])["detection_id"].to_numpy()
    assert len(np.unique(ids)) == detections
    spectra = workspace.read_folder(spectra_folder(release), ["detection_id"])["detection_id"]
    catalog = raypipe.open_catalog(workspace)["detection_id"]
    for found in spectra.to_numpy(), catalog.to_numpy():
        assert len(found) == detections
        assert np.array_equal(np.sort(found), np.sort(ids))
    left = drafts(Path(workspace.root))
    assert not left, left


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detections", type=int, default=200_000)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two losses")
    parser.add_argument("--model", default=str(MODEL), help="bundle to encode with")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of the machine")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    print(f"load averages {os.getloadavg()} on {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as place:
        workspace = make_survey(Path(place), options.detections)
        release = choose_release(workspace, None)
        print(f"{options.detections} detections in {count_parts(workspace, release)} parts")
        machines = Machines()
        try:
            for verb, more in ("ingest", []), ("embed", ["--model", options.model]):
                folder = spectra_folder(release) if verb == "ingest" else f"catalog/{release}"

                def published(folder: str = folder) -> int:
                    return len(list(Path(workspace.path(folder)).rglob("*.parquet")))

                driver = machines.start(verb, Path(workspace.root), *more, "--json")
                seconds, losses = soak(machines, driver, published, options.every, moments)
                rate = options.detections / seconds
                print(f"{verb}: {seconds:.0f} s, {rate:.0f}/s, {losses} machines lost", flush=True)
        finally:
            machines.shutdown()
        check(workspace, options.detections)
    print("every detection once, nothing half written")


if __name__ == "__main__":
    main()
