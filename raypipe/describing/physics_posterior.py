"""Compute the posterior of a physical model's parameters on a grid, for the corner plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.describing.description import Fit, Interval
from raypipe.describing.measure import Evidence
from raypipe.fits.data import Data, absorbed
from raypipe.fits.models import MODELS, NH_LIMITS_1E22, FitModel, cross_sections, tabulated
from raypipe.model.flux_density import at_resolution
from raypipe.model.folding import best_amplitude, cash_per_bin, redistribute
from raypipe.physics.energy import ERG_PER_KEV

Floats = npt.NDArray[np.float64]

_NODES = 61
"""Values of each parameter on the grid."""
_NODES_OF_SEARCH = 25
"""Values while its extent is searched."""
_REACH = 3.0
"""First reach of the grid to either side of the best value, in half widths of its interval."""
_INSIDE = 14.0
"""Rise of the Cash statistic within which the grid has to hold everything: 3.3 sigma."""
_ATTEMPTS = 6
_NH_UNIT = 100.0
"""Column densities of 10^20 cm^-2 in one of 10^22."""


@dataclass(frozen=True)
class Axis:
    """Hold the values of a parameter along an axis of the grid, ascending, and its label."""

    values: Floats
    label: str
    is_log: bool

    def log_ticks(self) -> list[float]:
        """Return about four values with one or two digits within the axis, evenly in the log."""
        low, high = self.values[[0, -1]]
        wanted = np.geomspace(low, high, 6)[1:-1]
        ticks = {float(f"{each:.1g}") for each in wanted}
        if len(ticks) < 3:
            ticks = {float(f"{each:.2g}") for each in wanted}
        return sorted(tick for tick in ticks if low <= tick <= high)


@dataclass(frozen=True)
class PhysicsPosterior:
    """Hold the posterior of column density and shape parameter, the amplitude profiled out.

    `x` is the column density, 10^20 cm^-2, `y` the parameter; the prior is flat in both, or in the
    logarithm of a temperature. `density` (x, y) has the sum 1 over the nodes, `best` is the best
    fit, and `best_flux` (n_energy,) its absorbed E^2 F(E), erg/cm2/s,
    at the telescope's resolution.
    """

    x: Axis
    y: Axis
    density: Floats
    best: tuple[float, float]
    best_flux: Floats

    def levels(self, probabilities: Sequence[float]) -> list[float]:
        """Return the densities whose contours enclose these probabilities, ascending."""
        ordered = np.sort(self.density, axis=None)[::-1]
        within = np.cumsum(ordered)
        places = np.searchsorted(within, sorted(probabilities, reverse=True))
        return sorted({float(ordered[min(place, len(ordered) - 1)]) for place in places})

    def marginal(self, axis: int) -> Floats:
        """Return the density of one parameter, its largest value 1."""
        summed = self.density.sum(axis=1 - axis)
        return np.asarray(summed / summed.max())


@torch.no_grad()
def physics_posterior(evidence: Evidence, fit: Fit, name: str) -> PhysicsPosterior | None:
    """Evaluate the likelihood of a model around its best fit; None where that is not finite.

    The grid grows until the Cash statistic at its edges is far above the lowest, or until it meets
    the hard limits of the parameters, and shrinks to where the posterior is.
    """
    model = MODELS[name]
    column, value = (fit.parameters[f"{name}_{each}"] for each in ("nh", model.parameter))
    if not np.isfinite([column.value, value.value]).all():
        return None
    spans = [
        _span(column.value, _half_width(column), NH_LIMITS_1E22, _NH_UNIT),
        _span(*_fitted(value, model), model.fitted_limits),
    ]
    hard = [NH_LIMITS_1E22, model.fitted_limits]
    for _ in range(_ATTEMPTS):
        nodes = [np.linspace(*span, _NODES_OF_SEARCH) for span in spans]
        rise = _cash_rise(evidence, model, *nodes)
        fitting = [_fitting(each, rise, axis, hard[axis]) for axis, each in enumerate(nodes)]
        former, spans = spans, fitting
        if np.allclose(spans, former, rtol=0.3, atol=1e-9):
            break
    nodes = [np.linspace(*span, _NODES) for span in spans]
    rise = _cash_rise(evidence, model, *nodes)
    density = np.exp(-0.5 * rise)
    y = np.exp(nodes[1]) if model.by_ratio else nodes[1]
    names = {"gamma": "photon index", "kt": "kT (keV)"}
    return PhysicsPosterior(
        x=Axis(nodes[0] * _NH_UNIT, "N_H (10²⁰ cm⁻²)", False),
        y=Axis(y, names.get(model.parameter, model.parameter), model.by_ratio),
        density=density / density.sum(),
        best=(column.value, value.value),
        best_flux=_best_flux(evidence, model, column.value / _NH_UNIT, value.value),
    )


def _half_width(interval: Interval) -> float:
    """Return half of a 68% interval; half of what is known if one limit is not, else 0."""
    low, high = interval.lolim, interval.hilim
    if np.isfinite(low) and np.isfinite(high):
        return 0.5 * (high - low)
    known = [abs(each - interval.value) for each in (low, high) if np.isfinite(each)]
    return known[0] if known else 0.0


def _fitted(interval: Interval, model: FitModel) -> tuple[float, float]:
    """Return value and half width in the fitted variable, the logarithm of a temperature."""
    half = _half_width(interval)
    if not model.by_ratio:
        return interval.value, half
    return float(np.log(interval.value)), half / interval.value


def _span(
    value: float, half: float, limits: tuple[float, float], unit: float = 1.0
) -> tuple[float, float]:
    value, half = value / unit, max(half / unit, 1e-3 * (limits[1] - limits[0]))
    return max(value - _REACH * half, limits[0]), min(value + _REACH * half, limits[1])


def _fitting(
    nodes: Floats, rise: Floats, axis: int, limits: tuple[float, float]
) -> tuple[float, float]:
    """Return a better span of an axis: wider where the posterior is cut off, else narrower."""
    inside = np.flatnonzero(rise.min(axis=1 - axis) < _INSIDE)
    first, last, step = inside[0], inside[-1], nodes[1] - nodes[0]
    length = nodes[-1] - nodes[0]
    low = nodes[first] - (length if first == 0 else step)
    high = nodes[last] + (length if last == len(nodes) - 1 else step)
    return max(low, limits[0]), min(high, limits[1])


def _cash_rise(evidence: Evidence, model: FitModel, columns: Floats, values: Floats) -> Floats:
    """Return the Cash statistic above its lowest on the nodes (x, y), with the best amplitudes."""
    nh, variable = np.meshgrid(columns, values, indexing="ij")
    batch = evidence.batch
    flux = _fluxes(evidence, model, nh.ravel(), variable.ravel())
    data = Data.of(batch, evidence.network.grid)
    index = data.response_index.repeat(len(flux))
    shape = redistribute(flux * data.to_photons, index, data.responses)
    counts, background = (each.expand(len(flux), -1) for each in (batch.counts, batch.background))
    mu = best_amplitude(counts, shape, background) * shape + background
    statistic = cash_per_bin(counts, mu).double().sum(-1).numpy().reshape(nh.shape)
    return np.asarray(statistic - statistic.min())


def _best_flux(evidence: Evidence, model: FitModel, nh_1e22: float, value: float) -> Floats:
    variable = np.log(value) if model.by_ratio else value
    flux = _fluxes(evidence, model, np.array([nh_1e22]), np.array([variable]))
    batch, grid = evidence.batch, evidence.network.grid
    data = Data.of(batch, grid)
    shape = redistribute(flux * data.to_photons, data.response_index, data.responses)
    amplitude = best_amplitude(batch.counts, shape, batch.background)
    density = at_resolution(amplitude * flux, grid, batch.axes, batch.response_index)[0]
    return np.asarray(density.double().numpy() * ERG_PER_KEV * grid.mid_kev**2)


def _fluxes(evidence: Evidence, model: FitModel, nh_1e22: Floats, variable: Floats) -> Tensor:
    """Return absorbed fluxes for an amplitude of one, (n, n_energy), photon/cm2/s/keV."""
    grid = evidence.network.grid
    place = torch.tensor(np.stack([variable, nh_1e22, 0.0 * nh_1e22], 1), dtype=torch.float32)
    return absorbed(tabulated(model.name, grid, evidence.apec_dir), cross_sections(grid), place)[
        :, 2
    ]
