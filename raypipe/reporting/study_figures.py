"""Draw the figures of the study: steps in latents, and fronts of formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from raypipe.display.style import INK, light_grid, new_figure, styled
from raypipe.html.page import minus

_STEP_COLORS = colormaps["coolwarm"]
_TICKS_KEV = (0.5, 1, 2, 5, 10)
_DECADES = 2.5
"""Decades below the highest curve that a figure shows."""


def traversal(energy_kev: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the spectra at each step of a direction: energy times photon flux density, log-log."""
    with styled():
        figure, axes = new_figure(3.4, 2.6)
        energy = np.asarray(energy_kev)
        highest = 0.0
        most = max(abs(float(step)) for step in curves)
        for step, curve in sorted(curves.items(), key=lambda pair: float(pair[0])):
            values = energy * np.asarray(curve)
            highest = max(highest, float(values.max()))
            place = 0.5 + 0.5 * float(step) / max(most, 1.0)
            color = INK if float(step) == 0 else _STEP_COLORS(place)
            axes.plot(energy, values, color=color, lw=1.3, label=_label(float(step)))
        axes.set(xscale="log", yscale="log", xlabel="energy (keV)", ylabel="E × flux (arbitrary)")
        axes.set_ylim(highest / 10**_DECADES, highest * 1.5)
        axes.set_xticks(_TICKS_KEV, [f"{tick:g}" for tick in _TICKS_KEV])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        axes.legend(fontsize=7, ncols=2, handlelength=1.2)
        light_grid(axes)
    return figure


def _label(step: float) -> str:
    return minus(f"{step:+g}σ") if step else "mean"


def formula_fronts(by_direction: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw R2 on held-out sources against length, one line per direction."""
    known = {name: each for name, each in by_direction.items() if each["reason"] is None}
    with styled():
        figure, axes = new_figure(5.2, 4.0)
        colors = colormaps["tab20"]
        for number, (name, each) in enumerate(known.items()):
            front = each["front"]
            axes.plot(
                [one["length"] for one in front],
                [max(one["r2"] or 0.0, 0.0) for one in front],
                marker="o", ms=3.5, lw=1.1, color=colors(number % 20), label=name,
            )  # fmt: skip
        axes.set(xlabel="length of the formula", ylabel="R²", ylim=(0, 1))
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4)
        light_grid(axes)
    return figure
