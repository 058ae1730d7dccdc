"""Measure how fast the package's learner trains on a device, without Ray."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.synthetic import repeated
from benchmarks.telescopes.network import compact
from raypipe.config import Config
from raypipe.model.count_splitting import thin
from raypipe.model.presets import Folded, build
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.learner import Learner
from raypipe.training.precision import Arithmetic, adapt

EPOCHS = 3
"""Epochs per measurement; the first, in which modules are compiled, does not count."""
VALIDATION_ROWS = 256
_PRODUCTS = 10


@dataclass(frozen=True)
class Way:
    """Say in which arithmetic to train: that of the learner, and whether float32 may be TF32."""

    name: str
    arithmetic: Arithmetic
    tf32: bool = False


WAYS = tuple(
    Way(f"{name}, compiled" if compiled else name, Arithmetic(precision, compiled), tf32)
    for compiled in (False, True)
    for name, precision, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    )
)


def measure_training(
    config: Config, spectra: SpectraBatch, way: Way, size: int, steps: int, device: torch.device
) -> dict[str, Any]:
    """Train for a few epochs of `steps` steps of `size` spectra; spectra are repeated as needed."""
    settings = config.train.model_copy(update={"batch_size": size, "epochs": EPOCHS})
    learned = compact(spectra, device)
    learned = learned.rows(torch.arange(steps * size) % len(spectra))
    held = compact(repeated(spectra, VALIDATION_ROWS), device)
    with _matrix_products(way.tf32):
        torch.compiler.reset()
        torch.manual_seed(settings.seed)
        network = build(config.model, EnergyGrid()).to(device)
        adapt(network, way.arithmetic, device)
        learner = Learner(
            network,
            ResidentStream(learned),
            ResidentStream(held),
            settings,
            most_shown=network.most_shown,
            device=device,
        )
        started = time.perf_counter()
        _forget_peak(device)
        speeds = [learner.run_epoch(epoch)["spectra_per_s"] for epoch in range(EPOCHS)]
    speed = statistics.median(speeds[1:])
    return {
        "way": way.name,
        "batch_size": size,
        "spectra_per_s": speed,
        "step_ms": 1000.0 * size / speed,
        "seconds": time.perf_counter() - started,
        "peak_memory_gb": _peak_memory_gb(device),
    }


def train_network(
    config: Config, spectra: SpectraBatch, size: int, epochs: int, device: torch.device
) -> Folded:
    """Train a network on spectra and whiten its latents."""
    settings = config.train.model_copy(
        update={"batch_size": size, "epochs": epochs, "patience": epochs}
    )
    learned = compact(spectra, device)
    held = learned.rows(torch.arange(min(VALIDATION_ROWS, len(learned))))
    torch.manual_seed(settings.seed)
    network = build(config.model, EnergyGrid()).to(device)
    assert isinstance(network, Folded)
    streams = ResidentStream(learned), ResidentStream(held)
    learner = Learner(network, *streams, settings, most_shown=network.most_shown, device=device)
    for epoch in range(epochs):
        learner.run_epoch(epoch)
    network.eval()
    with torch.no_grad():
        parts = torch.arange(len(learned)).split(512)
        z = torch.cat([network.encode(learned.take(rows)) for rows in parts])
        network.autoencoder.whiten(z)
    return network


def flop_per_spectrum(config: Config, spectra: SpectraBatch) -> float:
    """Count the floating-point operations of the matrix products in training on one spectrum."""
    network = build(config.model, EnergyGrid()).train()
    batch = compact(repeated(spectra, 64), torch.device("cpu")).take(torch.arange(64))
    shown = thin(batch, config.train.thinning_min, network.most_shown)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(batch, shown)[0].sum().backward()
    return counter.get_total_flops() / len(batch)


def peak_tflops(device: torch.device, size: int) -> dict[str, float]:
    """Measure the TFLOP/s of one large matrix product, (size, size, size), by precision."""
    kinds = {
        "float32": (torch.float32, False),
        "tf32": (torch.float32, True),
        "bfloat16": (torch.bfloat16, False),
    }
    reached = {}
    for name, (precision, tf32) in kinds.items():
        a, b = (torch.randn(size, size, device=device).to(precision) for _ in range(2))
        with _matrix_products(tf32):
            a @ b
            wait_for(device)
            started = time.perf_counter()
            for _ in range(_PRODUCTS):
                a @ b
            wait_for(device)
        seconds = (time.perf_counter() - started) / _PRODUCTS
        reached[name] = 2.0 * size**3 / seconds / 1e12
    return reached


def wait_for(device: torch.device) -> None:
    """Wait until a device has done everything that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _matrix_products(tf32: bool) -> Iterator[None]:
    """Allow or forbid TF32 in float32 matrix products while the block runs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
