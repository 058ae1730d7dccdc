"""Measure training and embedding on a GPU, and check that it computes what the CPU computes.

Usage: python -m benchmarks.gpu_check [--minutes 8] [--survey FOLDER] [--network FILE]
           [--json FILE] [--table FILE] [--device cpu --small]

Needs no Ray and no network: PyTorch, numpy, scipy and pandas have to be there, and the packages of
`benchmarks/gpu_wheels.txt`, which `make gpu-check-wheels` fetches for machines that cannot.
`make gpu-check` runs it.

Spectra are drawn through made-up responses, or taken from arrays of a survey (`--survey`, as
`benchmarks.telescopes prepare` writes them). Without `--network`, a network is first trained on
them for a short time, because refinement takes longer from poor latents. Then the results of the
two devices are compared, embedding is measured, and training: in float32, TF32 and bfloat16, then
compiled. What does not fit into `--minutes` is left out and marked so. The share of the peak counts
matrix products only; the peak is the speed of one large product on the same device.

Exits with 1 if the devices disagree.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.agreement import compare
from benchmarks.gpu.embedding_speed import WAYS as EMBEDDING_WAYS
from benchmarks.gpu.embedding_speed import measure_embedding
from benchmarks.gpu.report import report
from benchmarks.gpu.synthetic import draw_spectra, repeated
from benchmarks.gpu.training_speed import (
    WAYS,
    flop_per_spectrum,
    measure_training,
    peak_tflops,
    train_network,
)
from benchmarks.latents.samples import load_spectra
from benchmarks.telescopes.network import load_network
from raypipe.config import Config
from raypipe.model.presets import Folded
from raypipe.spectra.batch import SpectraBatch

log = logging.getLogger("benchmarks.gpu_check")

TRAINING_SHARE = 0.85
"""Share of the time after which no further training is started: one takes up to a minute."""
CPU_ROWS, CPU_BATCH = 1024, 256


class Sizes:
    """Hold how much is measured: for a GPU, or to see in a minute that the script runs."""

    def __init__(self, small: bool) -> None:
        self.spectra = 256 if small else 12_000
        self.compared = 64 if small else 1024
        self.epochs = 2 if small else 60
        self.first_batch = 64 if small else 512
        self.steps = 2 if small else 30
        self.training = (64,) if small else (64, 512, 4096, 16_384)
        self.compiled = (64,) if small else (4096, 512)
        self.embedding = (64,) if small else (256, 1024, 4096)
        self.embedding_batches = 1 if small else 4
        self.product = 256 if small else 8192


def main() -> None:
    started = time.monotonic()
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device, sizes = torch.device(options.device), Sizes(options.small)
    config = Config()
    if options.survey is None:
        spectra = draw_spectra(sizes.spectra, seed=1)
    else:
        spectra = load_spectra(options.survey)
    results: dict[str, Any] = {
        "machine": _machine(device),
        "spectra": len(spectra),
        "responses": len(spectra.responses),
        "flop_per_spectrum": flop_per_spectrum(config, spectra),
        "peak_tflops": peak_tflops(device, sizes.product),
    }
    log.info("%s", results)
    network = _network(options.network, config, spectra, sizes, device)
    compared = spectra.take(range(min(sizes.compared, len(spectra))))
    agreements = compare(copy.deepcopy(network).cpu(), network, compared)
    results["agreement"] = [vars(each) | {"holds": each.holds} for each in agreements]
    log.info("agreement: %s", results["agreement"])
    results["embedding"] = _embedding(network, spectra, sizes, device)
    last_start = started + TRAINING_SHARE * 60.0 * options.minutes
    results["training"], results["left_out"] = _training(config, spectra, sizes, device, last_start)
    results["seconds"] = time.monotonic() - started
    text = report(results)
    print(text)
    for path, content in ((options.table, text), (options.json, json.dumps(results, indent=1))):
        if path is not None:
            path.write_text(content + "\n")
    if not all(each.holds for each in agreements):
        sys.exit("the devices disagree")


def _network(
    path: Path | None, config: Config, spectra: SpectraBatch, sizes: Sizes, device: torch.device
) -> Folded:
    if path is not None:
        return load_network(path).to(device)
    begin = time.monotonic()
    network = train_network(config, spectra, sizes.first_batch, sizes.epochs, device)
    log.info("trained a network for %d epochs in %.0f s", sizes.epochs, time.monotonic() - begin)
    return network


def _embedding(
    network: Folded, spectra: SpectraBatch, sizes: Sizes, device: torch.device
) -> list[dict[str, Any]]:
    """Measure each way to embed for each batch size, and one core of the CPU beside it."""
    measured = []
    for size in sizes.embedding:
        for way in EMBEDDING_WAYS:
            found = measure_embedding(network, spectra, way, size, sizes.embedding_batches)
            measured.append({"device": device.type, **found})
            log.info("embedding: %s", measured[-1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = min(CPU_ROWS, len(spectra))
    size = min(CPU_BATCH, rows)
    network = network.cpu()
    for way in EMBEDDING_WAYS:
        found = measure_embedding(network, repeated(spectra, rows), way, size, rows // size)
        measured.append({"device": "one core", **found})
        log.info("embedding: %s", measured[-1])
    torch.set_num_threads(threads)
    network.to(device)
    return measured


def _training(
    config: Config, spectra: SpectraBatch, sizes: Sizes, device: torch.device, last_start: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure training, uncompiled first; name what is left out, as it would start too late."""
    measured: list[dict[str, Any]] = []
    left_out: list[str] = []
    planned = [
        (way, size)
        for compiled in (False, True)
        for size in (sizes.compiled if compiled else sizes.training)
        for way in WAYS
        if way.arithmetic.compiled == compiled
    ]
    for way, size in planned:
        if time.monotonic() > last_start:
            left_out.append(f"{way.name}, steps of {size}")
            continue
        measured.append(measure_training(config, spectra, way, size, sizes.steps, device))
        log.info("training: %s", measured[-1])
    return measured, left_out


def _machine(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": name or device.type,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--survey", type=Path, help="folder with arrays of spectra")
    parser.add_argument("--network", type=Path, help="weights of `benchmarks.telescopes fit`")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--table", type=Path, help="file for the tables")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that it runs")
    parser.add_argument("--small", action="store_true", help="measure little, in about a minute")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; use --device cpu --small to see that the script runs")
    return options


if __name__ == "__main__":
    main()
