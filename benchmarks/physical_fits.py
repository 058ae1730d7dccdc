"""Fit an absorbed power law, thermal plasma and black body to the channel bins of a spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize

from raypipe.model.statistics import MU_MIN, cash
from raypipe.ogip import Spectrum
from raypipe.physics.absorption import transmission
from raypipe.physics.components import black_body, power_law
from raypipe.physics.energy import EnergyGrid, source_grids
from raypipe.physics.plasma import thermal_plasma
from raypipe.spectra import grid as model_grid
from raypipe.spectra.channel_bins import ChannelBins
from raypipe.spectra.redistribution import overlap_shares

FloatArray = npt.NDArray[np.float64]

MODEL_GRID = model_grid.EnergyGrid()
FINEST_KEV = 0.005
ENERGIES = EnergyGrid(
    float(MODEL_GRID.edges_kev[0]),
    float(MODEL_GRID.edges_kev[-1]),
    round((MODEL_GRID.edges_kev[-1] - MODEL_GRID.edges_kev[0]) / FINEST_KEV),
)
"""Even bins as narrow as the finest of the model's grid, whose edges they share."""
LOG_NH_1E22 = (-3.0, 1.5)


@dataclass(frozen=True)
class Shape:
    """A source spectrum with one parameter: its range, and starting values for fits."""

    flux: Callable[[FloatArray, EnergyGrid], FloatArray]
    lowest: float
    highest: float
    starts: tuple[float, ...]


def _plasma(log_kt: FloatArray, grid: EnergyGrid) -> FloatArray:
    return thermal_plasma(10**log_kt, np.full(len(log_kt), 0.3), grid)


def _black_body(log_kt: FloatArray, grid: EnergyGrid) -> FloatArray:
    return black_body(10**log_kt, grid)


SHAPES = {
    "power law": Shape(power_law, -1.0, 6.0, (0.7, 1.7, 3.0)),
    "plasma": Shape(_plasma, -1.0, 1.5, (-0.6, 0.0, 0.7)),
    "black body": Shape(_black_body, -1.5, 1.0, (-1.0, -0.3)),
}


@dataclass(frozen=True)
class Observation:
    """The input of a fit: counts and expected background (bins,), and the response.

    `photons_to_counts` (grid.n, bins) gives the counts for a photon/cm2/s/keV in each bin of
    `grid`.
    """

    counts: FloatArray
    background: FloatArray
    photons_to_counts: FloatArray
    grid: EnergyGrid

    @classmethod
    def through(
        cls,
        counts: FloatArray,
        background: FloatArray,
        exposure_s: float,
        arf_cm2: FloatArray,
        redistribution: FloatArray,
    ) -> Observation:
        """Make an observation of `exposure_s` through an area and a redistribution.

        Both are on the model's energy grid: (n_energy,) and (n_energy, bins).
        """
        parts = np.rint(MODEL_GRID.widths_kev / FINEST_KEV).astype(int)
        detected = exposure_s * ENERGIES.width_kev * arf_cm2[:, None] * redistribution
        detected = np.repeat(detected, parts, axis=0)
        return cls(np.asarray(counts, float), np.asarray(background, float), detected, ENERGIES)

    @classmethod
    def of_spectrum(
        cls,
        spectrum: Spectrum,
        bins: ChannelBins,
        counts: FloatArray,
        background: FloatArray,
        exposure_s: float,
    ) -> Observation:
        """Make an observation through the files of a spectrum, on their own energy bins.

        `counts` and `background` are in its channel `bins`, observed in `exposure_s`; photons above
        the model's energies count, too. The spectrum needs its RMF, and its ARF unless the RMF
        includes the area.
        """
        rmf = spectrum.rmf
        assert rmf is not None
        low, high = rmf.energy_lo_kev, rmf.energy_hi_kev
        area = np.ones(len(low)) if spectrum.arf is None else spectrum.arf.area_on(low, high)
        (grid,) = source_grids([np.append(low, high[-1])])
        inside = (high > grid.lo_kev) & (low < grid.hi_kev)
        shares = overlap_shares(low[inside], high[inside], grid.edges_kev)
        per_photon = sparse.diags_array(area[inside]) @ rmf.matrix[np.flatnonzero(inside)]
        detected = exposure_s * grid.width_kev * bins.bin_counts((shares @ per_photon).toarray())
        return cls(np.asarray(counts, float), np.asarray(background, float), detected, grid)


@dataclass(frozen=True)
class Fit:
    """The best-fitting shape: its name, Cash statistic, expected counts (bins,) and flux."""

    name: str
    cash: float
    mu: FloatArray
    flux: FloatArray


def fit_best(observation: Observation) -> Fit:
    """Find shape, absorption and amplitude with the lowest Cash statistic, from several starts."""
    return min((_fit(observation, name) for name in SHAPES), key=lambda fit: fit.cash)


def _fit(observation: Observation, name: str) -> Fit:
    shape, grid = SHAPES[name], observation.grid

    def flux_of(parameters: FloatArray) -> FloatArray:
        log_nh, value = parameters
        column = np.array([10**log_nh])
        absorbed = shape.flux(np.array([value]), grid) * transmission(column, grid)
        return np.asarray(absorbed[0])

    def statistic(parameters: FloatArray) -> float:
        mu, _ = _scaled(observation, flux_of(parameters))
        return float(cash(observation.counts, mu).sum())

    bounds = [LOG_NH_1E22, (shape.lowest, shape.highest)]
    options = {"xatol": 1e-4, "fatol": 1e-4, "maxiter": 400}
    results = [
        minimize(statistic, [log_nh, value], method="Nelder-Mead", bounds=bounds, options=options)
        for log_nh in (-2.0, -0.5, 0.5)
        for value in shape.starts
    ]
    best = min(results, key=lambda result: float(result.fun))
    flux = flux_of(best.x)
    mu, amplitude = _scaled(observation, flux)
    return Fit(name, float(best.fun), mu, amplitude * flux)


def _scaled(observation: Observation, flux: FloatArray) -> tuple[FloatArray, float]:
    """Scale expected counts to the lowest Cash statistic, by Newton steps in the log amplitude."""
    source = np.maximum(flux @ observation.photons_to_counts, 0.0)
    counts, background = observation.counts, observation.background
    excess = max(float(counts.sum() - background.sum()), 0.5)
    log_amplitude = np.log(excess / max(float(source.sum()), 1e-300))
    for _ in range(20):
        part = np.exp(log_amplitude) * source
        mu = np.maximum(part + background, MU_MIN)
        step = (part * (counts / mu - 1.0)).sum() / max(float((part**2 / mu).sum()), 1e-6)
        log_amplitude += float(np.clip(step, -2.0, 2.0))
        if abs(step) < 1e-8:
            break
    amplitude = float(np.exp(log_amplitude))
    return amplitude * source + background, amplitude
