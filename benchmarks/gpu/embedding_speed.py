"""Measure how fast spectra are embedded on a device, without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.synthetic import repeated
from benchmarks.gpu.training_speed import wait_for
from raypipe.model.encode import encode_batch
from raypipe.model.presets import Folded
from raypipe.spectra.batch import SpectraBatch

REFINE_STEPS, DRAWS = 6, 64
Way = Callable[[Folded, SpectraBatch], Any]

WAYS: dict[str, Way] = {
    "latents and Cash": lambda network, part: encode_batch(network, part, 0, errors=False),
    "with errors": lambda network, part: encode_batch(network, part, 0),
    "with errors and refinement": lambda network, part: encode_batch(network, part, REFINE_STEPS),
    f"with errors, refinement and {DRAWS} draws": lambda network, part: encode_batch(
        network, part, REFINE_STEPS, posterior_draws=DRAWS
    ),
}
"""What is measured of a batch, by name."""


def measure_embedding(
    network: Folded, spectra: SpectraBatch, way: str, size: int, batches: int
) -> dict[str, Any]:
    """Measure `batches` batches of `size` spectra, after one that does not count.

    Batches are arrays on the host, sorted by response, as those that `embed` reads; a measurement
    includes their way to the device and that of the columns back.
    """
    rows = repeated(spectra, size * batches)
    rows = rows.take(np.argsort(rows.response_index, kind="stable"))
    parts = [rows.take(np.arange(start, start + size)) for start in range(0, size * batches, size)]
    device = next(network.parameters()).device
    WAYS[way](network, parts[0])
    wait_for(device)
    started = time.perf_counter()
    for part in parts:
        WAYS[way](network, part)
    wait_for(device)
    seconds = time.perf_counter() - started
    return {"way": way, "batch_size": size, "spectra_per_s": size * batches / seconds}
