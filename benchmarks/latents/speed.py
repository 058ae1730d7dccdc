"""Part `speed`: measure the spectra per second that one thread encodes, and refines."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.latents.networks import BATCH_ROWS
from benchmarks.latents.rivals import Latents
from raypipe.model.encode import encode_batch
from raypipe.model.features import prepare

ROUNDS = 3
ROWS = 2048


@torch.no_grad()
def measure_speed(rival: Latents) -> dict[str, Any]:
    """Spectra per second, the fastest of `ROUNDS`, with the rivals taking turns.

    `latents`: the encoder only; `catalog`: everything that `embed` measures, including errors and
    goodness of fit, after the rival's refinement steps.
    """
    sample = rival.survey.judged
    parts = [
        sample.spectra.take(np.arange(start, min(start + BATCH_ROWS, len(sample))))
        for start in range(0, min(ROWS, len(sample)), BATCH_ROWS)
    ]
    rows = sum(len(part) for part in parts)
    ways = {
        "latents": lambda part: rival.network.encode(prepare(part)),
        "catalog": lambda part: encode_batch(rival.network, part, rival.steps),
    }
    best = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            for part in parts:
                way(part)
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: float(rows / seconds) for name, seconds in best.items()}
