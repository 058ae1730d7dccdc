"""Compute the posterior of a physical model's parameters on a grid, for the corner plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
_NH_OFFSET = 10.0
"""Column density, 10^20 cm^-2, above which its prior is flat in the logarithm, not in the value."""
_HELD = 0.995
"""Share of the posterior of each parameter that lies within the grid."""
_BENT = 2.5
_LOWEST_OF_LOG = 1e-300


@dataclass(frozen=True)
class Axis:
    """Hold the values of a parameter along an axis of the grid, ascending, and its label.

    The values, and the axis of a figure, are even in log(value + offset), or in the value itself if
    `offset` is None.
    """

    values: Floats
    label: str
    offset: float | None

    def place(self, value: Floats) -> Floats:
        """Return where values lie on the even axis."""
        if self.offset is None:
            return value
        return np.log(np.maximum(value + self.offset, _LOWEST_OF_LOG))

    def value(self, place: Floats) -> Floats:
        """Return the values at places on the even axis."""
        return place if self.offset is None else np.exp(place) - self.offset

    @property
    def bends(self) -> bool:
        """Tell whether a figure shows that the axis is not even in the value."""
        low, high = self.values[[0, -1]]
        return self.offset is not None and high + self.offset > _BENT * (low + self.offset)

    def ticks(self) -> list[float]:
        """Return about five values with one or two digits, evenly on the axis."""
        low, high = self.place(self.values[[0, -1]])
        wanted = self.value(np.linspace(low, high, 7)[:-1])
        ticks = {float(f"{each:.1g}") for each in np.where(wanted < 1e-9 * wanted[-1], 0, wanted)}
        if len(ticks) < 4:
            ticks = {float(f"{each:.2g}") for each in wanted}
        nearly = 1e-9 * (self.values[-1] - self.values[0])
        low, high = self.values[0] - nearly, self.values[-1] + nearly
        return sorted(tick for tick in ticks if low <= tick <= high)


@dataclass(frozen=True)
class PhysicsPosterior:
    """Hold the posterior of column density and shape parameter, the amplitude profiled out.

    `x` is the column density, 10^20 cm^-2, `y` the parameter. The prior is flat on both axes: in a
    photon index, in the logarithm of a temperature, and in that of the column density plus 10^21
    cm^-2. `density` (x, y) has the sum 1 over the nodes, `best` is the best fit, and `best_flux`
    (n_energy,) its absorbed E^2 F(E), erg/cm2/s, at the telescope's resolution.
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
    the hard limits of the parameters, and shrinks to what holds `_HELD` of each parameter.
    """
    model = MODELS[name]
    column, value = (fit.parameters[f"{name}_{each}"] for each in ("nh", model.parameter))
    if not np.isfinite([column.value, value.value]).all():
        return None
    axes = (
        Axis(np.array(NH_LIMITS_1E22) * _NH_UNIT, "N_H (10²⁰ cm⁻²)", _NH_OFFSET),
        Axis(
            np.array(model.limits),
            {"gamma": "photon index", "kt": "kT (keV)"}.get(model.parameter, model.parameter),
            0.0 if model.by_ratio else None,
        ),
    )
    hard = [axis.place(axis.values) for axis in axes]
    spans = [_span(axis, each) for axis, each in zip(axes, (column, value), strict=True)]
    for _ in range(_ATTEMPTS):
        nodes = _nodes(spans, _NODES_OF_SEARCH)
        rise = _cash_rise(evidence, model, axes, nodes)
        former, spans = spans, [_fitting(each, rise, n, hard[n]) for n, each in enumerate(nodes)]
        if np.allclose(spans, former, rtol=0.3, atol=1e-9):
            break
    wide = _nodes(spans, _NODES)
    density = np.exp(-0.5 * _cash_rise(evidence, model, axes, wide))
    nodes = _nodes([_holding(each, density, n, hard[n]) for n, each in enumerate(wide)], _NODES)
    density = np.exp(-0.5 * _cash_rise(evidence, model, axes, nodes))
    x, y = (
        replace(axis, values=axis.value(each).clip(*axis.values))
        for axis, each in zip(axes, nodes, strict=True)
    )
    return PhysicsPosterior(
        x=x,
        y=y,
        density=density / density.sum(),
        best=(column.value, value.value),
        best_flux=_best_flux(evidence, model, column.value / _NH_UNIT, value.value),
    )


def _nodes(spans: Sequence[Floats], number: int) -> list[Floats]:
    return [np.linspace(float(low), float(high), number) for low, high in spans]


def _half_width(interval: Interval) -> float:
    """Return half of a 68% interval; half of what is known if one limit is not, else 0."""
    low, high = interval.lolim, interval.hilim
    if np.isfinite(low) and np.isfinite(high):
        return 0.5 * (high - low)
    known = [abs(each - interval.value) for each in (low, high) if np.isfinite(each)]
    return known[0] if known else 0.0


def _span(axis: Axis, interval: Interval) -> Floats:
    """Return where to begin: some half widths around the best value, between the hard limits."""
    low, high = axis.place(axis.values)
    best = axis.place(np.array([interval.value]))[0]
    slope = 1.0 if axis.offset is None else 1.0 / (interval.value + axis.offset)
    half = max(_half_width(interval) * slope, 1e-3 * (high - low))
    return np.array([max(best - _REACH * half, low), min(best + _REACH * half, high)])


def _fitting(nodes: Floats, rise: Floats, axis: int, limits: Floats) -> Floats:
    """Return a better span of an axis: wider where the posterior is cut off, else narrower."""
    inside = np.flatnonzero(rise.min(axis=1 - axis) < _INSIDE)
    first, last, step = inside[0], inside[-1], nodes[1] - nodes[0]
    length = nodes[-1] - nodes[0]
    low = nodes[first] - (length if first == 0 else step)
    high = nodes[last] + (length if last == len(nodes) - 1 else step)
    return np.array([max(low, limits[0]), min(high, limits[1])])


def _holding(nodes: Floats, density: Floats, axis: int, limits: Floats) -> Floats:
    """Return the span of an axis that holds `_HELD` of the posterior, or ends at a limit nearby."""
    within = np.cumsum(density.sum(axis=1 - axis))
    outside = 0.5 * (1.0 - _HELD)
    low, high = np.interp([outside, 1.0 - outside], within / within[-1], nodes)
    nearby = 0.1 * (high - low)
    return np.array([limits[0] if low - limits[0] < nearby else low, high])


def _cash_rise(
    evidence: Evidence, model: FitModel, axes: Sequence[Axis], nodes: Sequence[Floats]
) -> Floats:
    """Return the Cash statistic above its lowest on the nodes (x, y), with the best amplitudes."""
    columns = axes[0].value(nodes[0]).clip(*axes[0].values) / _NH_UNIT
    nh, variable = np.meshgrid(columns, nodes[1], indexing="ij")
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
