"""Draw the counts of a detection with the model's expectation, and the residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import chi2

from raypipe.html.style import ACCENT, INK, MUTED, light_grid, new_figure, styled
from raypipe.reporting.figures import energy_axis, log_rate_axis

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ONE_SIGMA_TAIL = 0.1587
_GROUP_COUNTS = (5.0, 25.0)
_GROUPS_WANTED = 40
_WIDEST_GROUP = 24
_LEGEND = ("counts", "model", "background")


@dataclass(frozen=True)
class ExampleSpectrum:
    """Hold a spectrum in channel bins: counts, expected counts, and those of the background, (n,).

    `edges_kev` (n + 1,); `exposure_s` in seconds.
    """

    counts: FloatArray
    model: FloatArray
    background: FloatArray
    edges_kev: FloatArray
    exposure_s: float


def group_bins(counts: FloatArray, fewest: float, widest: int) -> IntArray:
    """Group bins and return the first bin of each group, (groups,).

    A group ends when it has `fewest` counts or `widest` bins. A last group with fewer counts joins
    the group before it, unless it is wider than that.
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
    """Compute central 68% confidence limits of Poisson means, (low, high).

    From quantiles of the chi-squared distribution (Garwood 1936, Biometrika 28, 437; tabulated by
    Gehrels 1986, ApJ 303, 336). The lower limit for zero counts is 0.
    """
    low = np.where(counts > 0, chi2.ppf(_ONE_SIGMA_TAIL, 2 * np.maximum(counts, 1)) / 2, 0.0)
    high = chi2.ppf(1 - _ONE_SIGMA_TAIL, 2 * (counts + 1)) / 2
    return low, high


@dataclass(frozen=True)
class _Groups:
    """Hold a spectrum grouped for the plot, (groups,) each: counts, their limits, and the model.

    `edges_kev` (groups + 1,).
    """

    edges_kev: FloatArray
    counts: FloatArray
    low: FloatArray
    high: FloatArray
    model: FloatArray
    background: FloatArray

    @classmethod
    def of(cls, example: ExampleSpectrum) -> _Groups:
        """Group a spectrum so that each group has 1/40 of its counts, within `_GROUP_COUNTS`."""
        fewest = float(np.clip(example.counts.sum() / _GROUPS_WANTED, *_GROUP_COUNTS))
        starts = group_bins(example.counts, fewest, _WIDEST_GROUP)
        counts = np.add.reduceat(example.counts, starts)
        low, high = poisson_interval(counts)
        return cls(
            edges_kev=np.append(example.edges_kev[starts], example.edges_kev[-1]),
            counts=counts,
            low=low,
            high=high,
            model=np.add.reduceat(example.model, starts),
            background=np.add.reduceat(example.background, starts),
        )

    @property
    def middle_kev(self) -> FloatArray:
        """Return the geometric middles of the groups."""
        return np.sqrt(self.edges_kev[1:] * self.edges_kev[:-1])

    def draw_crosses(
        self, axes: Axes, values: FloatArray, per_count: FloatArray, label: str | None = None
    ) -> None:
        """Draw `values` as crosses whose limits are those of the counts, scaled by `per_count`."""
        middle = self.middle_kev
        axes.errorbar(
            middle,
            values,
            xerr=[middle - self.edges_kev[:-1], self.edges_kev[1:] - middle],
            yerr=[(self.counts - self.low) * per_count, (self.high - self.counts) * per_count],
            fmt="none", ecolor=INK, elinewidth=0.9, label=label,
        )  # fmt: skip


def spectrum_figure(example: ExampleSpectrum) -> Figure:
    """Draw counts per second and keV with model and background, and the residuals below."""
    with styled():
        figure, (top, bottom) = new_figure(
            5.2, 3.7, 2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.03}
        )
        groups = _Groups.of(example)
        _draw_rates(top, groups, example.exposure_s)
        _draw_residuals(bottom, groups)
        energy_axis(bottom)
        for axes in (top, bottom):
            light_grid(axes)
        figure.align_ylabels()
    return figure


def _draw_rates(axes: Axes, groups: _Groups, exposure_s: float) -> None:
    edges = groups.edges_kev
    per_unit = 1 / (np.diff(edges) * exposure_s)
    groups.draw_crosses(axes, groups.counts * per_unit, per_unit, label="counts")
    axes.stairs(groups.model * per_unit, edges, color=ACCENT, lw=1.5, label="model", baseline=None)
    if groups.background.any():
        axes.stairs(
            groups.background * per_unit, edges,
            color=MUTED, lw=1.1, ls=(0, (4, 2)), label="background", baseline=None,
        )  # fmt: skip
    log_rate_axis(axes)
    axes.set_ylim(*_rate_limits(groups.counts, groups.model, per_unit))
    axes.set_ylabel("counts s⁻¹ keV⁻¹")
    handles, labels = axes.get_legend_handles_labels()
    order = np.argsort([_LEGEND.index(label) for label in labels])
    axes.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.4,
    )  # fmt: skip


def _draw_residuals(axes: Axes, groups: _Groups) -> None:
    """Draw (counts - model) / sqrt(model)."""
    spread = np.sqrt(np.maximum(groups.model, 1e-9))
    residuals = (groups.counts - groups.model) / spread
    axes.axhline(0, color=ACCENT, lw=1.2)
    groups.draw_crosses(axes, residuals, 1 / spread)
    reach = float(np.clip(np.abs(residuals).max() + 1, 3.5, 12))
    axes.set(ylim=(-reach, reach), ylabel="Δ / σ", xlabel="energy (keV)")


def _rate_limits(
    counts: FloatArray, model: FloatArray, per_unit: FloatArray
) -> tuple[float, float]:
    rates = np.concatenate([(counts * per_unit)[counts > 0], (model * per_unit)[model > 0]])
    if len(rates) == 0:
        return 1e-6, 1.0
    return float(np.quantile(rates, 0.02)) / 4, float(rates.max()) * 4
