"""Show a spectrum predicted from a view: as JSON, as text, and as a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raypipe.alignment.translation import PredictedCounts, PredictedSpectra
from raypipe.display.spectrum_figure import (
    energy_axis,
    group_bins,
    log_axis,
    poisson_interval,
)
from raypipe.display.style import ACCENT, INK, MUTED, light_grid, new_figure, styled
from raypipe.redaction import printable

Floats = npt.NDArray[np.float64]

_SHOWN_KEV = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
_DRAWN_KEV = 0.3, 8.0
_GROUPS = 12
_PANEL_IN = 5.2, 3.7


@dataclass(frozen=True)
class Translated:
    """Hold the spectrum predicted from a view.

    `query` describes the view; `flux` has one row; `counts` are those of the spectrum `detection`,
    or None if there is no such spectrum.
    """

    query: dict[str, Any]
    alignment_id: str
    flux: PredictedSpectra
    counts: PredictedCounts | None
    detection: str

    def as_json(self) -> dict[str, Any]:
        """Return all numbers in a form that JSON can hold."""
        flux = self.flux
        found: dict[str, Any] = {
            "alignment_id": self.alignment_id,
            "query": self.query,
            "flux": {
                "unit": "1/keV, in units of the photon flux in 0.5-7 keV",
                "energy_kev": flux.energy_kev.tolist(),
                "value": flux.value[0].tolist(),
                "lolim": flux.lolim[0].tolist(),
                "hilim": flux.hilim[0].tolist(),
            },
        }
        if self.counts is not None:
            low, middle, high = self.counts.limits()
            found["counts"] = {
                "detection": self.detection,
                "exposure_s": self.counts.exposure_s,
                "edges_kev": self.counts.edges_kev.tolist(),
                "observed": self.counts.counts.tolist(),
                "background": self.counts.background.tolist(),
                "expected": middle.tolist(),
                "expected_lolim": low.tolist(),
                "expected_hilim": high.tolist(),
            }
        return found

    def __str__(self) -> str:
        said = ", ".join(f"{k} {v}" for k, v in self.query.items() if v not in (None, ""))
        lines = [f"view: {printable(said, 300)}", ""]
        lines += ["photon flux density per keV, in units of the photon flux in 0.5-7 keV", ""]
        lines += ["energy   value   68% limits", "   keV"]
        for energy in _SHOWN_KEV:
            bin_ = int(np.argmin(np.abs(self.flux.energy_kev - energy)))
            middle, low, high = (
                each[0, bin_] for each in (self.flux.value, self.flux.lolim, self.flux.hilim)
            )
            lines.append(f"{energy:6.1f}  {middle:6.4f}   {low:.4f} to {high:.4f}")
        if self.counts is not None:
            lines += ["", *self._count_lines(self.counts)]
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Draw the flux with its band and, beside it, the counts where there is a detection."""
        panels = 1 if self.counts is None else 2
        with styled():
            figure, axes = new_figure(_PANEL_IN[0] * panels, _PANEL_IN[1], 1, panels, squeeze=False)
            self._draw_flux(axes[0, 0])
            if self.counts is not None:
                self._draw_counts(axes[0, 1], self.counts)
        return figure

    def _count_lines(self, counts: PredictedCounts) -> list[str]:
        starts = _groups(counts)
        edges = np.append(counts.edges_kev[starts], counts.edges_kev[-1])
        low, middle, high = counts.limits(starts)
        seen = np.add.reduceat(counts.counts, starts)
        total = f"{counts.counts.sum():,.0f} counts in {counts.exposure_s:,.0f} s"
        lines = [f"{printable(self.detection, 120)}: {total}; expected for a source as bright", ""]
        lines += ["      keV      observed  expected   68% limits"]
        for i in range(len(starts)):
            band = f"{edges[i]:.2f}-{edges[i + 1]:.2f}"
            expected = f"{middle[i]:8.1f}   {low[i]:.1f} to {high[i]:.1f}"
            lines.append(f"{band:>12}  {seen[i]:8,.0f}  {expected}")
        return lines

    def _draw_flux(self, axes: Axes) -> None:
        energy = self.flux.energy_kev
        shown = (energy >= _DRAWN_KEV[0]) & (energy <= _DRAWN_KEV[1])
        low, middle, high = (
            each[0, shown] for each in (self.flux.lolim, self.flux.value, self.flux.hilim)
        )
        axes.fill_between(energy[shown], low, high, color=ACCENT, alpha=0.25, lw=0, label="68%")
        axes.plot(energy[shown], middle, color=ACCENT, lw=1.5, label="median")
        energy_axis(axes, *_DRAWN_KEV)
        log_axis(axes)
        axes.set_ylim(max(float(middle.min()) / 4, float(middle.max()) * 1e-4), None)
        axes.set_ylabel("photon flux density / flux in 0.5-7 keV  (keV⁻¹)")
        axes.set_title("spectrum predicted from the view")
        axes.legend(loc="upper right")
        light_grid(axes)

    def _draw_counts(self, axes: Axes, counts: PredictedCounts) -> None:
        starts = _groups(counts)
        edges = np.append(counts.edges_kev[starts], counts.edges_kev[-1])
        per_unit = 1 / (np.diff(edges) * counts.exposure_s)
        low, middle, high = counts.limits(starts) * per_unit
        axes.fill_between(
            edges, np.append(low, low[-1]), np.append(high, high[-1]),
            step="post", color=ACCENT, alpha=0.25, lw=0, label="68%",
        )  # fmt: skip
        axes.stairs(middle, edges, color=ACCENT, lw=1.5, baseline=None, label="expected")
        background = np.add.reduceat(counts.background, starts) * per_unit
        if background.any():
            axes.stairs(
                background, edges, color=MUTED, lw=1.1, ls=(0, (4, 2)), baseline=None,
                label="background",
            )  # fmt: skip
        seen = np.add.reduceat(counts.counts, starts)
        least, most = poisson_interval(seen)
        axes.errorbar(
            np.sqrt(edges[1:] * edges[:-1]), seen * per_unit,
            yerr=[(seen - least) * per_unit, (most - seen) * per_unit],
            fmt="none", ecolor=INK, elinewidth=0.9, label="counts",
        )  # fmt: skip
        energy_axis(axes, edges[0], edges[-1])
        log_axis(axes)
        axes.set_ylabel("counts s⁻¹ keV⁻¹")
        axes.set_title(f"counts of {printable(self.detection, 60)}")
        axes.legend(loc="upper right")
        light_grid(axes)


def _groups(counts: PredictedCounts) -> npt.NDArray[np.int64]:
    """Return the first bin of each of about a dozen groups of equal expected counts."""
    expected = counts.limits()[1]
    return group_bins(expected, max(1.0, float(expected.sum()) / _GROUPS), len(expected))
