"""Time the simulation of detections, in memory and written as files.

Usage: python benchmarks/simulation.py [--detections 4000] [--seed 0]

Drawing runs in this process on one core; writing uses one thread per CPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from raypipe.simulation import simulate
from raypipe.simulation.survey import draw_batches
from raypipe.simulation.survey_plan import BATCH, plan_survey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detections", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    started = time.perf_counter()
    for _ in draw_batches(plan_survey(BATCH, options.seed)):
        pass
    print(f"tables, responses and the first batch: {time.perf_counter() - started:.2f} s")

    started = time.perf_counter()
    drawn = sum(len(batch) for batch in draw_batches(plan_survey(options.detections, options.seed)))
    seconds = time.perf_counter() - started
    print(f"drawn in memory: {drawn} detections in {seconds:.2f} s, {drawn / seconds:,.0f}/s")

    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(folder, detections=options.detections, seed=options.seed)
    rate = summary.detections / summary.seconds
    print(f"with files: {summary.detections} in {summary.seconds:.2f} s, {rate:,.0f}/s")


if __name__ == "__main__":
    main()
