"""Draw a spectrum's counts with the counts that a model expects, and the residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.stats import chi2

from raypipe.display.style import ACCENT, INK, MUTED, light_grid, new_figure, styled

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ONE_SIGMA_TAIL = 0.1587
_GROUP_COUNTS = (5.0, 25.0)
"""Fewest counts per group, for faint and for bright spectra: enough to see the shape."""
_GROUPS_WANTED = 40
_WIDEST_SHARE = 24 / 256
"""Largest share of all bins in a group."""
_LEGEND = ("counts", "model", "background")
_TICKS_KEV = (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 8, 10, 20, 30, 50, 80, 100)


@dataclass(frozen=True)
class BinnedSpectrum:
    """Hold counts and expected counts in adjacent bins of channels.

    `counts` (n,); `model` (n,): expected counts of source and background, None without a model;
    `background` (n,): the background's part of them; `edges_kev` (n + 1,), ascending; `exposure_s`.
    """

    counts: FloatArray
    model: FloatArray | None
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
    """Hold a spectrum grouped for the plot, (groups,) each: counts with limits, and model parts.

    `edges_kev` (groups + 1,).
    """

    edges_kev: FloatArray
    counts: FloatArray
    low: FloatArray
    high: FloatArray
    model: FloatArray | None
    background: FloatArray

    @classmethod
    def of(cls, spectrum: BinnedSpectrum) -> _Groups:
        """Group bins to at least a fortieth of the counts, within `_GROUP_COUNTS`."""
        fewest = float(np.clip(spectrum.counts.sum() / _GROUPS_WANTED, *_GROUP_COUNTS))
        widest = max(1, round(_WIDEST_SHARE * len(spectrum.counts)))
        starts = group_bins(spectrum.counts, fewest, widest)
        counts = np.add.reduceat(spectrum.counts, starts)
        low, high = poisson_interval(counts)
        return cls(
            edges_kev=np.append(spectrum.edges_kev[starts], spectrum.edges_kev[-1]),
            counts=counts,
            low=low,
            high=high,
            model=None if spectrum.model is None else np.add.reduceat(spectrum.model, starts),
            background=np.add.reduceat(spectrum.background, starts),
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


def spectrum_figure(
    spectrum: BinnedSpectrum, *, title: str | None = None, size_in: tuple[float, float] = (5.2, 3.7)
) -> Figure:
    """Draw counts per second and keV, with model, background and residuals where there is a model.

    Bins are grouped for the plot only.
    """
    has_model = spectrum.model is not None
    with styled():
        if has_model:
            ratios = {"height_ratios": [3, 1], "hspace": 0.03}
            figure, panels = new_figure(*size_in, 2, 1, sharex=True, gridspec_kw=ratios)
        else:
            figure, top = new_figure(*size_in)
            panels = [top]
        draw_spectrum(spectrum, panels[0], panels[1] if has_model else None)
        if title is not None:
            panels[0].set_title(title)
        figure.align_ylabels()
    return figure


def draw_spectrum(spectrum: BinnedSpectrum, rates: Axes, residuals: Axes | None) -> None:
    """Draw counts per second and keV into axes, and the residuals into those below.

    Without a model there are no `residuals`. Call it within `styled()`.
    """
    groups = _Groups.of(spectrum)
    if groups.model is not None and residuals is not None:
        _draw_residuals(residuals, groups, groups.model)
    _draw_rates(rates, groups, spectrum.exposure_s)
    lowest = rates if residuals is None else residuals
    energy_axis(lowest, spectrum.edges_kev[0], spectrum.edges_kev[-1])
    for axes in filter(None, (rates, residuals)):
        light_grid(axes)


def energy_axis(axes: Axes, lowest_kev: float, highest_kev: float) -> None:
    """Give axes a logarithmic energy scale in keV with the usual ticks."""
    axes.set_xscale("log")
    left, right = 0.97 * lowest_kev, 1.016 * highest_kev
    axes.set_xlim(left, right)
    ticks = [tick for tick in _TICKS_KEV if left <= tick <= right]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("energy (keV)")


def log_axis(axes: Axes) -> None:
    """Give axes a logarithmic vertical scale whose ticks are powers of ten in plain text."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _power_of_ten(value: float, _: object = None) -> str:
    exponent = f"{np.log10(value):.0f}"
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _draw_rates(axes: Axes, groups: _Groups, exposure_s: float) -> None:
    edges = groups.edges_kev
    per_unit = 1 / (np.diff(edges) * exposure_s)
    groups.draw_crosses(axes, groups.counts * per_unit, per_unit, label="counts")
    if groups.model is not None:
        axes.stairs(
            groups.model * per_unit, edges, color=ACCENT, lw=1.5, label="model", baseline=None
        )
    if groups.background.any():
        axes.stairs(
            groups.background * per_unit, edges,
            color=MUTED, lw=1.1, ls=(0, (4, 2)), label="background", baseline=None,
        )  # fmt: skip
    log_axis(axes)
    axes.set_ylim(*_rate_limits(groups, per_unit))
    axes.set_ylabel("counts s⁻¹ keV⁻¹")
    handles, labels = axes.get_legend_handles_labels()
    order = np.argsort([_LEGEND.index(label) for label in labels])
    axes.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.4,
    )  # fmt: skip


def _draw_residuals(axes: Axes, groups: _Groups, model: FloatArray) -> None:
    """Draw counts minus model in units of the model's Poisson deviation, the root of the model."""
    spread = np.sqrt(np.maximum(model, 1e-9))
    residuals = (groups.counts - model) / spread
    axes.axhline(0, color=ACCENT, lw=1.2)
    groups.draw_crosses(axes, residuals, 1 / spread)
    reach = max(3.5, float(np.abs(residuals).max()) + 1)
    axes.set(ylim=(-reach, reach), ylabel="Δ / σ")


def _rate_limits(groups: _Groups, per_unit: FloatArray) -> tuple[float, float]:
    expected = groups.background if groups.model is None else groups.model
    rates = np.concatenate([groups.counts * per_unit, expected * per_unit])
    rates = rates[rates > 0]
    if len(rates) == 0:
        return 1e-6, 1.0
    return float(np.quantile(rates, 0.02)) / 4, float(rates.max()) * 4
