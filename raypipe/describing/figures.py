"""Draw a description: counts with fold and residuals, unfolded flux, posterior of the physics."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from raypipe.describing.description import Description
from raypipe.describing.physics_posterior import Axis, PhysicsPosterior
from raypipe.describing.text import MODEL_NAMES, duration, instrument_of, shown
from raypipe.describing.unfolded import UnfoldedFlux, unfolded_flux
from raypipe.display.spectrum_figure import (
    BinnedSpectrum,
    draw_spectrum,
    energy_axis,
    log_axis,
)
from raypipe.display.style import ACCENT, INK, MUTED, SECOND, empty_figure, light_grid, styled

_WIDE_IN, _HIGH_IN = 13.0, 4.3
_LOWEST_SHOWN = 1e-3
"""Least flux of the figure, in units of the largest that is seen."""
_LEVELS = 0.683, 0.954
"""Probabilities within the contours of a posterior, those of 1 and 2 sigma in one dimension."""


def description_figure(found: Description) -> Figure:
    """Draw the three panels of a description side by side, on white."""
    with styled():
        figure = empty_figure(_WIDE_IN, _HIGH_IN)
        panels: Any = figure.subfigures(1, 3, width_ratios=[1.1, 1.0, 1.0])
        left, middle, right = panels
        _draw_counts(left, found)
        _draw_flux(middle, found)
        _draw_physics(right, found)
        figure.suptitle(_title(found), x=0.01, ha="left", fontsize=10.5)
    figure.set_facecolor("white")
    return figure


def panel_figures(found: Description, *, titled: bool = True) -> list[Figure]:
    """Draw each of the three panels as a figure, for a page, which may have its own titles."""
    figures = []
    for draw in (_draw_counts, _draw_flux, _draw_physics):
        with styled():
            figure = empty_figure(5.0, 3.9)
            draw(figure, found)
            for axes in [] if titled else figure.axes:
                axes.set_title("")
        figures.append(figure)
    return figures


def binned_spectrum(found: Description) -> BinnedSpectrum:
    """Return a spectrum's counts in its channel bins, with those that the latents' fold expects."""
    evidence = found.evidence
    batch, bins = evidence.batch, evidence.spectra.bins[0]
    counts, model, background = (
        values[0, : len(bins)].double().numpy()
        for values in (batch.counts, evidence.expected_counts(), batch.background)
    )
    return BinnedSpectrum(
        counts=counts,
        model=model,
        background=background,
        edges_kev=np.append(bins.lo_kev, bins.hi_kev[-1]),
        exposure_s=found.exposure_s,
    )


def _title(found: Description) -> str:
    name = shown(Path(found.file).name)
    return (
        f"{name}: {instrument_of(found)}, {found.total_counts:,} counts in "
        f"{duration(found.exposure_s)}"
    )


def _draw_counts(figure: Figure | SubFigure, found: Description) -> None:
    ratios: dict[str, Any] = {"height_ratios": [3, 1], "hspace": 0.03}
    rates, residuals = figure.subplots(2, 1, sharex=True, gridspec_kw=ratios)
    draw_spectrum(binned_spectrum(found), rates, residuals)
    rates.set_title(f"counts and fold of the latents, z-score {found.fit_zscore:+.1f}")
    figure.align_ylabels()


def _draw_flux(figure: Figure | SubFigure, found: Description) -> None:
    axes = figure.subplots()
    flux = unfolded_flux(found.evidence)
    _draw_band(axes, flux)
    best = found.best_fit
    physics = found.physics
    if physics is not None and best is not None:
        axes.plot(
            flux.energy_kev, physics.best_flux, color=SECOND, lw=1.2, ls=(0, (4, 2)),
            label=MODEL_NAMES.get(best, best),
        )  # fmt: skip
    energy_axis(axes, flux.energy_kev[0], flux.energy_kev[-1])
    log_axis(axes)
    largest = float(flux.high[flux.is_seen].max())
    lowest = max(float(flux.low[flux.is_seen].min()), _LOWEST_SHOWN * largest)
    axes.set_ylim(lowest / 2, largest * 4)
    axes.set_ylabel("E² F(E)  (erg cm⁻² s⁻¹)")
    axes.set_title("flux at the telescope, unfolded")
    axes.legend(loc="upper right", ncols=2, columnspacing=1.0, handlelength=1.4)
    light_grid(axes)


def _draw_band(axes: Axes, flux: UnfoldedFlux) -> None:
    """Draw median and 68% band, paler where the telescope sees no photons."""
    axes.fill_between(flux.energy_kev, flux.low, flux.high, color=ACCENT, alpha=0.12, lw=0)
    inside = np.where(flux.is_seen, 1.0, np.nan)
    axes.fill_between(
        flux.energy_kev, flux.low * inside, flux.high * inside, color=ACCENT, alpha=0.25, lw=0,
        label="68%",
    )  # fmt: skip
    axes.plot(flux.energy_kev, flux.middle * inside, color=ACCENT, lw=1.5, label="latents, median")
    outside = np.flatnonzero(~flux.is_seen)
    for begin, end in _runs(outside):
        low, high = flux.energy_kev[[begin, end]]
        axes.axvspan(low, high, color=MUTED, alpha=0.10, lw=0)


def _runs(places: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return first and last of each run of consecutive places."""
    if not len(places):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(places) > 1) + 1).tolist(), len(places)]
    return [(int(places[a]), int(places[b - 1])) for a, b in pairwise(cuts)]


def _draw_physics(figure: Figure | SubFigure, found: Description) -> None:
    best = found.best_fit
    physics = found.physics
    if physics is None or best is None:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no physical fit", ha="center", color=MUTED, transform=axes.transAxes)
        return
    grid = {"width_ratios": [3, 1.2], "height_ratios": [1.2, 3], "hspace": 0.05, "wspace": 0.05}
    ((above, corner), (joint, beside)) = figure.subplots(2, 2, gridspec_kw=grid)
    corner.set_axis_off()
    _draw_joint(joint, physics)
    _draw_marginal(above, physics.x, physics.marginal(0))
    _draw_marginal(beside, physics.y, physics.marginal(1), vertical=True)
    for axes in (above, beside):
        axes.spines[["left", "bottom"]].set_visible(False)
        for drawn in (axes.xaxis, axes.yaxis):
            drawn.set_ticks([])
            drawn.set_ticks([], minor=True)
    above.set_title(f"posterior of the {MODEL_NAMES.get(best, best)}: 68%, 95%")


def _draw_joint(axes: Axes, physics: PhysicsPosterior) -> None:
    density, levels = physics.density, physics.levels(_LEVELS)
    at = physics.x.values, physics.y.values
    axes.contourf(*at, density.T, levels=[*levels, np.inf], colors=[SECOND], alpha=0.12)
    axes.contourf(*at, density.T, levels=[levels[-1], np.inf], colors=[SECOND], alpha=0.30)
    axes.contour(*at, density.T, levels=levels, colors=[SECOND], linewidths=1.1)
    best = physics.best
    axes.plot(*best, marker="+", color=INK, ms=8, mew=1.3)
    for axis, name in ((physics.x, "x"), (physics.y, "y")):
        _scale(axes, axis, name)
        getattr(axes, f"set_{name}lim")(axis.values[0], axis.values[-1])
        getattr(axes, f"set_{name}label")(axis.label)
    _plain_ticks(axes, physics)
    light_grid(axes)


def _draw_marginal(
    axes: Axes, axis: Axis, density: npt.NDArray[np.float64], *, vertical: bool = False
) -> None:
    """Draw a marginal density, per unit of its axis as drawn."""
    if vertical:
        axes.fill_betweenx(axis.values, 0, density, color=SECOND, alpha=0.3, lw=0)
        axes.plot(density, axis.values, color=SECOND, lw=1.1)
        axes.set_ylim(axis.values[0], axis.values[-1])
        axes.set_xlim(0, None)
    else:
        axes.fill_between(axis.values, 0, density, color=SECOND, alpha=0.3, lw=0)
        axes.plot(axis.values, density, color=SECOND, lw=1.1)
        axes.set_xlim(axis.values[0], axis.values[-1])
        axes.set_ylim(0, None)
    _scale(axes, axis, "y" if vertical else "x")


def _scale(axes: Axes, axis: Axis, name: str) -> None:
    """Draw an axis, x or y, evenly in what its values are even in."""
    if axis.offset is not None:
        scale = getattr(axes, f"set_{name}scale")
        scale("function", functions=(axis.place, axis.value))


def _plain_ticks(axes: Axes, physics: PhysicsPosterior) -> None:
    """Write ticks as plain numbers, few enough not to overlap."""
    for axis, drawn in ((physics.x, axes.xaxis), (physics.y, axes.yaxis)):
        if axis.bends:
            ticks = axis.ticks()
            drawn.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            drawn.set_ticks([], minor=True)
        else:
            drawn.set_major_locator(MaxNLocator(5))
