"""Draw spectra of simple sources through made-up responses, with numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import Resolution, acis_bins
from raypipe.spectra.grid import EnergyGrid

FloatArray = npt.NDArray[np.float64]

RESPONSES = 40
COUNTS = (20.0, 20_000.0)
_BACKGROUND_SCALE = 0.05
_BACKGROUND_RATE_S = 2e-4
"""Background of the source region, counts/s over all bins."""


def draw_spectra(
    n: int, seed: int = 0, responses: int = RESPONSES, counts: tuple[float, float] = COUNTS
) -> SpectraBatch:
    """Draw `n` spectra: power laws, black bodies and an iron line, absorbed, with background.

    The expected source counts are log-uniform between `counts`. The responses are Gaussian, of
    different widths, on the channel bins of ACIS; areas differ from row to row by a contaminant.
    """
    rng = np.random.default_rng(seed)
    grid, scales = EnergyGrid(), np.geomspace(0.5, 2.0, responses)
    resolutions = [Resolution((0.006 * s, 0.003 * s, 0.0)) for s in scales]
    bins = tuple(acis_bins(each) for each in resolutions)
    matrices = np.stack([_gaussians(each, grid) for each in resolutions])
    exposure_s = 10.0 ** rng.uniform(3.5, 5.0, n)
    contaminant = rng.uniform(0.0, 0.8, (n, 1))
    area = 500.0 * np.exp(-((np.log(grid.mid_kev / 1.5) / 1.1) ** 2) - contaminant / grid.mid_kev)
    photons = _photon_flux(rng, n, grid) * area * grid.widths_kev
    index = rng.integers(0, responses, n)
    source = np.empty((n, matrices.shape[2]))
    for number in range(responses):
        source[index == number] = photons[index == number] @ matrices[number]
    wanted = np.exp(rng.uniform(np.log(counts[0]), np.log(counts[1]), n))
    source *= (wanted / source.sum(1))[:, None]
    width_kev = bins[0].width_kev
    background = _BACKGROUND_RATE_S * exposure_s[:, None] * width_kev / width_kev.sum()
    return SpectraBatch(
        counts=rng.poisson(source + background).astype(np.float32),
        background_counts=rng.poisson(background / _BACKGROUND_SCALE).astype(np.float32),
        background_scale=np.full(n, _BACKGROUND_SCALE, np.float32),
        exposure_s=exposure_s.astype(np.float32),
        arf_cm2=area.astype(np.float32),
        response_index=index,
        responses=matrices.astype(np.float32),
        bins=bins,
    )


def repeated(spectra: SpectraBatch, n: int) -> SpectraBatch:
    """Repeat the rows of a batch until there are `n`."""
    return spectra.take(np.arange(n) % len(spectra))


def _photon_flux(rng: np.random.Generator, n: int, grid: EnergyGrid) -> FloatArray:
    """Draw shapes of the photon flux density, (n, n_energy)."""
    energy = grid.mid_kev
    power = energy ** -rng.uniform(1.0, 3.0, (n, 1))
    kt_kev = 10.0 ** rng.uniform(-1.0, 0.5, (n, 1))
    black_body = energy**2 / np.expm1(energy / kt_kev)
    shape = np.where(rng.random((n, 1)) < 0.6, power, black_body)
    shape /= (shape * grid.widths_kev).sum(1, keepdims=True)
    line = np.exp(-0.5 * ((energy - 6.4) / 0.05) ** 2)
    shape *= 1.0 + np.where(rng.random((n, 1)) < 0.2, rng.uniform(0.5, 5.0, (n, 1)), 0.0) * line
    # The photoelectric cross-section decreases roughly as the energy to the power of -2.6.
    nh_1e22 = 10.0 ** rng.uniform(-2.0, 1.0, (n, 1))
    return np.asarray(shape * np.exp(-2.0 * nh_1e22 * energy**-2.6))


def _gaussians(resolution: Resolution, grid: EnergyGrid) -> FloatArray:
    """Return a redistribution (n_energy, bins) of Gaussian lines; its rows sum to at most one."""
    bins = acis_bins(resolution)
    energy = grid.mid_kev[:, None]
    sigma = resolution(energy) / 2.3548
    density = np.exp(-0.5 * ((bins.mid_kev - energy) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return density * bins.width_kev
