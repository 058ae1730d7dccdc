"""Draw the figures of the calibration and of the comparison with long chains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.posteriors.calibration import Calibration
from benchmarks.posteriors.simulated import decades

_BINS = 20


def draw_calibration(found: Calibration, path: Path) -> None:
    """Draw, by decade of counts, rank histograms, expected coverage and effective sample size."""
    groups = [(name, rows) for name, rows in decades(found.counts, 10.0) if rows.any()]
    figure = Figure(figsize=(3.0 * len(groups), 5.4), layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False)
    for (above, below), (name, rows) in zip(axes.T, groups, strict=True):
        ranks = found.ranks[rows]
        for values, label in ((ranks[:, :-1].ravel(), "latents"), (ranks[:, -1], "amplitude")):
            above.hist(values, _BINS, (0, 1), density=True, histtype="step", label=label)
        noise = 2.0 * np.sqrt(_BINS / rows.sum())
        above.axhspan(1 - noise, 1 + noise, color="0.9", zorder=0)
        above.set(title=f"{name} counts", xlabel="rank of the truth", ylim=(0, 2))
        level = np.linspace(0, 1, 101)
        central = [(np.abs(ranks[:, :-1] - 0.5) < each / 2).mean() for each in level]
        tarp = [(found.tarp[rows] < each).mean() for each in level]
        below.plot(level, np.subtract(central, level), label="central intervals of latents")
        below.plot(level, np.subtract(tarp, level), label="random regions (TARP)")
        below.axhspan(-0.02, 0.02, color="0.9", zorder=0)
        below.set(xlabel="credibility", ylim=(-0.1, 0.1))
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("coverage minus credibility")
    axes[0, 0].legend(fontsize="small")
    axes[1, 0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def draw_comparison(compared: Sequence[tuple[str, Tensor, Tensor]], path: Path) -> None:
    """Overlay the marginals of draws (bars) and of long chains (lines), one row per spectrum."""
    size = compared[0][1].shape[1]
    figure = Figure(figsize=(1.5 * size, 1.5 * len(compared)), layout="constrained")
    axes = figure.subplots(len(compared), size, squeeze=False)
    for row, (name, draws, chain) in zip(axes, compared, strict=True):
        for place, axis in enumerate(row):
            low, high = np.quantile(chain[:, place].numpy(), [0.001, 0.999])
            bins = np.linspace(low, high, 26)
            axis.hist(draws[:, place].numpy(), bins, density=True, color="0.75")
            axis.hist(chain[:, place].numpy(), bins, density=True, histtype="step", color="C3")
            axis.set_yticks([])
            axis.tick_params(labelsize=6)
        row[0].set_ylabel(name.replace(", ", "\n"), fontsize=6)
    for place, axis in enumerate(axes[0]):
        axis.set_title(f"z{place}" if place < size - 1 else "log amplitude", fontsize=8)
    figure.savefig(path, dpi=110)
