"""Small batches of known spectra, for tests of the model."""

from __future__ import annotations

import numpy as np

from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import Resolution, acis_bins
from raypipe.spectra.grid import EnergyGrid

GRID = EnergyGrid()
BINS = acis_bins(Resolution((0.006, 0.003, 0.0)))


def gaussian_response(sigma_kev: float) -> np.ndarray:
    energy, channel = GRID.mid_kev[:, None], BINS.mid_kev[None]
    shape = np.exp(-0.5 * ((energy - channel) / sigma_kev) ** 2)
    inside = (GRID.mid_kev > 0.5) & (GRID.mid_kev < 7.9)
    return np.where(
        inside[:, None], shape / np.maximum(shape.sum(1, keepdims=True), 1e-300), 0.0
    ).astype(np.float32)


def power_laws(
    n: int, seed: int = 0, counts: float = 500.0, least_kev: float = 0.0
) -> tuple[SpectraBatch, np.ndarray]:
    """Power laws of indices 1 to 3 through two responses, and their expected counts (n, bins).

    The instrument sees nothing below `least_kev`.
    """
    rng = np.random.default_rng(seed)
    responses = np.stack([gaussian_response(0.05), gaussian_response(0.08)])
    area = 300.0 * np.exp(-0.5 * ((GRID.mid_kev - 1.5) / 1.5) ** 2)
    area[GRID.mid_kev < least_kev] = 0.0
    index = rng.integers(0, 2, n)
    slopes = rng.uniform(1.0, 3.0, n)[:, None]
    photons = GRID.mid_kev**-slopes * area * GRID.widths_kev
    rate = np.einsum("nk,nkc->nc", photons, responses[index])
    source = rate * (counts / rate.sum(1))[:, None]
    background = np.full_like(source, 2.0)
    batch = SpectraBatch(
        counts=rng.poisson(source + 0.05 * background).astype(np.float32),
        background_counts=rng.poisson(background).astype(np.float32),
        background_scale=np.full(n, 0.05, np.float32),
        exposure_s=np.full(n, 3e4, np.float32),
        arf_cm2=np.tile(area, (n, 1)).astype(np.float32),
        response_index=index,
        responses=responses,
        bins=(BINS, BINS),
    )
    return batch, source + 0.05 * background
