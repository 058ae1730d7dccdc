"""Simulate detections whose latents and amplitudes are drawn from the prior of the posterior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.real_spectra import RealSpectrum, read_folders
from raypipe.model.features import Batch, as_batch, prepare
from raypipe.model.folding import fold
from raypipe.model.presets import Folded
from raypipe.spectra.batch import SpectraBatch

COUNTS_MAX = 1e5
"""Most expected source counts of a simulated detection."""
_COUNTS_REAL_MAX = 30_000


@dataclass(frozen=True)
class Simulated:
    """Hold simulated detections with their truth: latents (n, latents), log amplitude (n,)."""

    batch: Batch
    z: Tensor
    log_amplitude: Tensor

    @property
    def counts(self) -> np.ndarray:
        """Return the total counts, (n,)."""
        return self.batch.counts.sum(-1).numpy()

    def at_least(self, counts: float) -> Simulated:
        """Keep the detections of at least that many counts."""
        rows = torch.nonzero(self.batch.counts.sum(-1) >= counts)[:, 0]
        return Simulated(self.batch.take(rows), self.z[rows], self.log_amplitude[rows])


def real_spectra(folders: Iterable[Path]) -> list[RealSpectrum]:
    """Read real spectra, and thin those with more than 30,000 counts."""
    return [each.thinned(_COUNTS_REAL_MAX, seed=0) for each in read_folders(folders)]


def templates(spectra: Iterable[RealSpectrum]) -> Batch:
    """Make one batch of the real spectra, for their responses, exposures and backgrounds."""
    chosen = [each for each in spectra if each.batch.is_measurable.all()]
    joined = {
        name: np.concatenate([_per_bin(each.batch, name) for each in chosen])
        for name in ("counts", "background_counts", "background_scale", "exposure_s", "arf_cm2")
    }
    return prepare(
        SpectraBatch(
            **joined,
            response_index=np.arange(len(chosen)),
            responses=np.concatenate([each.batch.responses for each in chosen]),
            bins=tuple(each.batch.bins[0] for each in chosen),
        )
    )


def _per_bin(batch: SpectraBatch, name: str) -> np.ndarray:
    values: np.ndarray = getattr(batch, name)
    if name == "background_scale" and values.ndim == 1:
        return np.repeat(values[:, None], batch.counts.shape[1], axis=1)
    return values


@torch.no_grad()
def simulate(
    model: Folded, seen_by: Batch, detections: int, seed: int, *, known_background: bool
) -> Simulated:
    """Draw sources from the prior, fold each through a real response, and draw its counts.

    The source counts S follow 1 / (S + 1) up to 100,000. With `known_background` the expected
    background is that of the real spectrum; otherwise its counts in the background region are drawn
    as well, and smoothed as the model does.
    """
    torch.manual_seed(seed)
    batch = seen_by.take(torch.randint(len(seen_by), (detections,)))
    latents = model.autoencoder.decoder.shift.shape[0]
    z = torch.randn(detections, latents)
    total = torch.exp(torch.rand(detections, 1) * math.log1p(COUNTS_MAX)) - 1.0
    shape = torch.exp(model.log_shape(z))
    folded = fold(shape, batch, model.energy_widths_kev)
    amplitude = total / folded.sum(-1, keepdim=True)
    counts = torch.poisson(amplitude * folded + batch.background)
    if known_background:
        batch = replace(batch, counts=counts)
    else:
        expected = batch.background / batch.background_scale.clamp_min(1e-30)
        batch = as_batch(
            counts=counts,
            background_counts=torch.poisson(expected),
            background_scale=batch.background_scale,
            exposure_s=batch.exposure_s,
            arf_cm2=batch.arf_cm2,
            response_index=batch.response_index,
            responses=batch.responses,
            axes=batch.axes,
        )
    return Simulated(batch, z, torch.log(amplitude)[:, 0])


def in_parts(detections: int, size: int = 256) -> Iterator[Tensor]:
    """Yield the indices of all detections in parts of `size`."""
    yield from torch.arange(detections).split(size)


def decades(counts: np.ndarray, least: float) -> list[tuple[str, np.ndarray]]:
    """Return names and rows of the decades of counts, from `least` on."""
    edges = [least, *(10.0**k for k in range(1, 6) if 10.0**k > least)]
    return [
        (f"{low:,.0f}-{high:,.0f}", (counts >= low) & (counts < high))
        for low, high in itertools.pairwise(edges)
    ]
