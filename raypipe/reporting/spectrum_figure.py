"""A detection's counts with what the model expects, and the residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.stats import chi2

from raypipe.reporting.figures import energy_axis, log_rate_axis
from raypipe.reporting.style import ACCENT, INK, MUTED, light_grid, new_figure, styled

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ONE_SIGMA_TAIL = 0.1587
_GROUP_COUNTS = (5.0, 25.0)
_GROUPS_WANTED = 40
_WIDEST_GROUP = 24
_LEGEND = ("counts", "model", "background")


@dataclass(frozen=True)
class ExampleSpectrum:
    """A spectrum in channel bins: (n,) counts, expected counts in all and of the background.

    `edges_kev` (n + 1,); `exposure_s` in seconds.
    """

    counts: FloatArray
    model: FloatArray
    background: FloatArray
    edges_kev: FloatArray
    exposure_s: float


def group_bins(counts: FloatArray, fewest: float, widest: int) -> IntArray:
    """First bin of each group, (groups,): a group ends with `fewest` counts or `widest` bins.

    A last group that is short of counts joins the one before it unless it is the wider one.
    """
    starts = [0]
    held = 0.0
    for index, value in enumerate(counts):
        if index > starts[-1] and (held >= fewest or index - starts[-1] >= widest):
            starts.append(index)
            held = 0.0
        held += float(value)
    if len(starts) > 1 and held < fewest and len(counts) - starts[-1] <= starts[-1] - starts[-2]:
        starts.pop()
    return np.array(starts, dtype=np.int64)


def poisson_interval(counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Central 68% confidence limits of Poisson means (Garwood 1936; Gehrels 1986 gives the same).

    The lower limit for no counts is 0.
    """
    low = np.where(counts > 0, chi2.ppf(_ONE_SIGMA_TAIL, 2 * np.maximum(counts, 1)) / 2, 0.0)
    high = chi2.ppf(1 - _ONE_SIGMA_TAIL, 2 * (counts + 1)) / 2
    return low, high


def spectrum_figure(example: ExampleSpectrum) -> Figure:
    """Counts per second and keV, grouped for the plot only, with model, background, residuals."""
    with styled():
        figure, (top, bottom) = new_figure(
            5.2, 3.7, 2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.03}
        )
        fewest = float(np.clip(example.counts.sum() / _GROUPS_WANTED, *_GROUP_COUNTS))
        starts = group_bins(example.counts, fewest, _WIDEST_GROUP)
        edges = np.append(example.edges_kev[starts], example.edges_kev[-1])
        counts = np.add.reduceat(example.counts, starts)
        model = np.add.reduceat(example.model, starts)
        background = np.add.reduceat(example.background, starts)
        per_unit = 1 / (np.diff(edges) * example.exposure_s)
        middle, half = np.sqrt(edges[1:] * edges[:-1]), (middle_reach(edges))
        low, high = poisson_interval(counts)
        top.errorbar(
            middle,
            counts * per_unit,
            xerr=half,
            yerr=[(counts - low) * per_unit, (high - counts) * per_unit],
            fmt="none", ecolor=INK, elinewidth=0.9, label="counts",
        )  # fmt: skip
        top.stairs(model * per_unit, edges, color=ACCENT, lw=1.5, label="model", baseline=None)
        if background.any():
            top.stairs(
                background * per_unit, edges,
                color=MUTED, lw=1.1, ls=(0, (4, 2)), label="background", baseline=None,
            )  # fmt: skip
        log_rate_axis(top)
        top.set_ylim(*_rate_limits(counts, model, per_unit))
        top.set_ylabel("counts s⁻¹ keV⁻¹")
        handles, labels = top.get_legend_handles_labels()
        order = np.argsort([_LEGEND.index(label) for label in labels])
        top.legend(
            [handles[i] for i in order], [labels[i] for i in order],
            loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.4,
        )  # fmt: skip
        spread = np.sqrt(np.maximum(model, 1e-9))
        residuals = (counts - model) / spread
        bottom.axhline(0, color=ACCENT, lw=1.2)
        bottom.errorbar(
            middle, residuals, xerr=half, yerr=[(counts - low) / spread, (high - counts) / spread],
            fmt="none", ecolor=INK, elinewidth=0.9,
        )  # fmt: skip
        reach = float(np.clip(np.abs(residuals).max() + 1, 3.5, 12))
        bottom.set(ylim=(-reach, reach), ylabel="Δ / σ", xlabel="energy (keV)")
        energy_axis(bottom)
        for axes in (top, bottom):
            light_grid(axes)
        figure.align_ylabels()
    return figure


def middle_reach(edges: FloatArray) -> FloatArray:
    """How far groups reach left and right of their geometric middles, (2, groups)."""
    middle = np.sqrt(edges[1:] * edges[:-1])
    return np.stack([middle - edges[:-1], edges[1:] - middle])


def _rate_limits(
    counts: FloatArray, model: FloatArray, per_unit: FloatArray
) -> tuple[float, float]:
    rates = np.concatenate([(counts * per_unit)[counts > 0], (model * per_unit)[model > 0]])
    if len(rates) == 0:
        return 1e-6, 1.0
    return float(np.quantile(rates, 0.02)) / 4, float(rates.max()) * 4
