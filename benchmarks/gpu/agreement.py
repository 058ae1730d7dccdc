"""Compare what a device computes with what the CPU computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu.embedding_speed import DRAWS, REFINE_STEPS
from raypipe.model.count_splitting import part_of
from raypipe.model.encode import encode_batch
from raypipe.model.features import prepare
from raypipe.model.presets import Folded
from raypipe.spectra.batch import SpectraBatch

_BATCH = 256
_SHOWN = 0.5


@dataclass(frozen=True)
class Agreement:
    """Hold the largest deviation of one quantity and the largest that is allowed."""

    name: str
    deviation: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Return whether the deviation is within the tolerance; NaN is not."""
        return self.deviation <= self.allowed


def compare(ours: Folded, theirs: Folded, spectra: SpectraBatch) -> list[Agreement]:
    """Compare latents, Cash and gradients of the same network on two devices.

    Refined latents are compared in units of their own standard deviations, the Cash relative to
    one plus a thousandth of itself; of both, one row in a hundred may lie outside, for a step of
    refinement that changes nothing may be taken on one device and refused on the other. Refinement
    stops where the log posterior would rise by less than 1e-4, which is 0.014 standard deviations
    from the maximum: two devices may stop twice as far apart.
    """
    here, there = _columns(ours, spectra), _columns(theirs, spectra)
    latents = [name for name in here if name[1:].isdigit() and name[0] == "z"]
    moved = [np.abs(here[z] - there[z]) / here[f"{z}_std"] for z in latents]
    cash = np.abs(here["cash"] - there["cash"]) / (1.0 + 1e-3 * np.abs(here["cash"]))
    drawn = [np.abs(here[f"{z}_mean"] - there[f"{z}_mean"]) / here[f"{z}_std"] for z in latents]
    encoded, again = _encoded(ours, spectra), _encoded(theirs, spectra)
    gradient, other = _gradient(ours, spectra), _gradient(theirs, spectra)
    distance = float((gradient - other).norm() / gradient.norm())
    return [
        Agreement("encoder's latents, largest difference", _largest(encoded - again), 2e-3),
        Agreement("refined latents, 99th percentile, in z_std", _percentile_99(moved), 0.03),
        Agreement("mean of draws, 99th percentile, in z_std", _percentile_99(drawn), 0.02),
        Agreement("Cash, 99th percentile, of 1 + cash / 1000", _percentile_99(cash), 0.03),
        Agreement("gradient of the loss, relative", distance, 1e-3),
    ]


def _columns(network: Folded, spectra: SpectraBatch) -> dict[str, npt.NDArray[Any]]:
    starts = range(0, len(spectra), _BATCH)
    parts = [
        encode_batch(
            network,
            spectra.take(np.arange(start, min(start + _BATCH, len(spectra)))),
            REFINE_STEPS,
            posterior_draws=DRAWS,
        )
        for start in starts
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def _encoded(network: Folded, spectra: SpectraBatch) -> torch.Tensor:
    device = next(network.parameters()).device
    return network.encode(prepare(spectra, device)).cpu()


def _gradient(network: Folded, spectra: SpectraBatch) -> torch.Tensor:
    """Return the gradient of the summed loss as one vector; counts are divided on the host."""
    device = next(network.parameters()).device
    batch = prepare(spectra, device)
    halves = np.random.default_rng(0).binomial(spectra.counts.astype(np.int64), _SHOWN)
    shown = part_of(
        batch,
        torch.from_numpy(halves.astype(np.float32)).to(device),
        torch.full_like(batch.exposure_s, _SHOWN),
    )
    network.zero_grad()
    network(batch, shown)[0].sum().backward()
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    return torch.cat([each.cpu().double().flatten() for each in gradients])


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max())


def _percentile_99(values: Any) -> float:
    return float(np.percentile(np.asarray(values), 99))
