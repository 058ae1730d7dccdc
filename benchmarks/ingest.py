"""Run all benchmarks of ingestion: reading, throughput through Ray, network, memory and bytes.

Usage: python -m benchmarks.ingest [--products FOLDER] [--only SECTION ...] [--detections 20000]
                                   [--many 100000]

Each section is also a separate module (`python -m benchmarks.reading` ...), which describes how
it measures. With --products, a folder of Chandra Source Catalog products, the section on reading
reads these one by one. Run it from the root of the checkout, on an otherwise idle machine; it takes
about ten minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import fetching, footprint, reading, throughput
from raypipe.config import IngestConfig

SECTIONS = ("reading", "throughput", "fetching", "footprint")
FEW, MANY = 10_000, 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--products", type=Path, help="folder of CSC products")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--detections", type=int, default=20_000, help="for the throughput")
    parser.add_argument("--many", type=int, default=MANY, help=f"for the memory, beside {FEW}")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPUs, load {load:.1f} before the start")
    if "reading" in options.only and options.products is not None:
        print("\nReading")
        reading.measure(options.products, seconds=3.0)
    if "throughput" in options.only:
        print("\nThrough Ray")
        with tempfile.TemporaryDirectory() as place:
            throughput.measure(Path(place), options.detections, rounds=3, products=None)
    if "fetching" in options.only:
        print("\nFrom a server, 50 ms latency")
        fetching.measure(600, latency_s=0.05, concurrency=IngestConfig().host_concurrency)
    if "footprint" in options.only:
        print("\nMemory and bytes")
        footprint.measure_output()
        footprint.measure_memory([FEW, options.many], products=None)


if __name__ == "__main__":
    main()
