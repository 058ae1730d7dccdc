"""Fit an absorbed power law, thermal plasma and black body to the channel bins of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize

from raypipe.fits.models import MODELS, NH_LIMITS_1E22
from raypipe.model.statistics import MU_MIN, cash
from raypipe.ogip import Spectrum
from raypipe.physics.absorption import transmission
from raypipe.physics.energy import EnergyGrid, source_grids
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
OFFSET_1E22 = 0.01
"""Added to column densities, whose logarithm is fitted, so that there may be none."""
LOG_NH_1E22 = (float(np.log10(OFFSET_1E22)), float(np.log10(OFFSET_1E22 + NH_LIMITS_1E22[1])))
STARTS = {
    "powlaw": (0.7, 1.7, 3.0),
    "bb": (np.log(0.1), np.log(0.5)),
    "brems": (np.log(0.5), np.log(5.0)),
    "plasma": (np.log(0.25), np.log(1.0), np.log(5.0)),
}
"""Models that are fitted, with starting values of the fitted variable."""
BEST_OF = ("powlaw", "plasma", "bb")
"""Models that `fit_best` chooses from."""


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
    """Fit the models of `BEST_OF`, and return the fit with the lowest Cash statistic."""
    return min((fit_one(observation, name) for name in BEST_OF), key=lambda fit: fit.cash)


def fit_one(observation: Observation, name: str) -> Fit:
    """Find shape, absorption and amplitude with the lowest Cash statistic, from several starts."""
    model, grid = MODELS[name], observation.grid

    def flux_of(parameters: FloatArray) -> FloatArray:
        log_nh, value = parameters
        column = np.array([max(10**log_nh - OFFSET_1E22, 0.0)])
        parameter = np.array([np.exp(value) if model.by_ratio else value])
        absorbed = model.flux(parameter, grid) * transmission(column, grid)
        return np.asarray(absorbed[0])

    def statistic(parameters: FloatArray) -> float:
        mu, _ = _scaled(observation, flux_of(parameters))
        return float(cash(observation.counts, mu).sum())

    bounds = [LOG_NH_1E22, model.fitted_limits]
    options = {"xatol": 1e-4, "fatol": 1e-4, "maxiter": 600}
    results = [
        minimize(statistic, [log_nh, value], method="Nelder-Mead", bounds=bounds, options=options)
        for log_nh in (-1.5, -0.5, 0.5)
        for value in STARTS[name]
    ]
    best = min(results, key=lambda result: float(result.fun))
    flux = flux_of(best.x)
    mu, amplitude = _scaled(observation, flux)
    return Fit(model.title, float(best.fun), mu, amplitude * flux)


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
