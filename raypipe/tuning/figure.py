"""Draw the parallel-coordinates plot of trials."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from optuna.distributions import BaseDistribution, CategoricalDistribution

from raypipe.display.style import ACCENT, INK, MUTED, new_figure, styled
from raypipe.tuning.records import DONE, Record
from raypipe.tuning.space import Space

_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)))
_DOTS_PER_INCH = 150
_TICKS = 5
_CURVE = np.linspace(0.0, 1.0, 41)
_EASED = _CURVE**2 * (3.0 - 2.0 * _CURVE)  # smoothstep: horizontal at both ends


def parallel_coordinates(records: Sequence[Record], best: Record, space: Space) -> bytes:
    """Draw a PNG with one vertical axis per parameter and for the Cash, and one line per trial.

    Finished trials are colored by their Cash per bin. The best trial is red, the trial with the
    configured values is dashed, and trials stopped early are gray. Trials without a Cash value are
    left out.
    """
    measured = [record for record in records if record.course]
    names = list(space.distributions)
    scales = [_Scale.of(space.distributions[name], name) for name in names]
    cash = np.array([record.cash for record in measured], dtype=float)
    scales.append(_Scale.of_cash(cash))
    with styled():
        figure, axes = new_figure(1.35 * len(scales) + 1.2, 4.2)
        is_done = np.array([record.status == DONE for record in measured])
        ended = cash[is_done] if is_done.any() else cash
        colors = Normalize(ended.min(), ended.max())
        for record in sorted(measured, key=lambda record: _layer(record, best)):
            values = [*(record.values[name] for name in names), record.cash]
            heights = [scale.place(value) for scale, value in zip(scales, values, strict=True)]
            _draw(axes, heights, **_look(record, best, colors))
        for x, scale in enumerate(scales):
            scale.draw(axes, x)
        axes.set(xlim=(-0.35, len(scales) - 0.65), ylim=(-0.04, 1.04))
        axes.axis("off")
        bar = figure.colorbar(ScalarMappable(colors, _COLORS), ax=axes, pad=0.03, aspect=30)
        bar.set_label("Cash per bin of finished trials")
        axes.legend(*_legend(axes), loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3)
        sink = io.BytesIO()
        figure.savefig(sink, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    return sink.getvalue()


class _Scale:
    """Hold an axis with a label and two ends; values have positions from 0 to 1 on it."""

    def __init__(
        self, label: str, ends: tuple[float, float], choices: Sequence[Any] = (), log: bool = False
    ) -> None:
        self.label, self.ends, self.choices, self.log = label, ends, choices, log

    @classmethod
    def of(cls, distribution: BaseDistribution, name: str) -> _Scale:
        label = name.replace(".", "\n")
        if isinstance(distribution, CategoricalDistribution):
            choices = list(distribution.choices)
            if not any(isinstance(choice, str) for choice in choices):
                choices.sort()
            return cls(label, (0.0, max(1.0, len(choices) - 1.0)), choices)
        low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
        return cls(label, (low, high), log=distribution.log)  # type: ignore[attr-defined]

    @classmethod
    def of_cash(cls, cash: npt.NDArray[np.float64]) -> _Scale:
        margin = 0.02 * max(float(np.ptp(cash)), 1e-6)
        return cls("Cash\nper bin", (float(cash.min()) - margin, float(cash.max()) + margin))

    def place(self, value: Any) -> float:
        low, high = self.ends
        position = self.choices.index(value) if self.choices else value
        if self.log:
            return float(np.log(position / low) / np.log(high / low))
        return float((position - low) / (high - low))

    def draw(self, axes: Axes, x: int) -> None:
        axes.plot([x, x], [0, 1], color=INK, lw=0.8, zorder=5)
        axes.text(x, 1.04, self.label, ha="center", va="bottom")
        for value in self.choices or self._ticks():
            y = self.place(value)
            axes.plot([x - 0.02, x], [y, y], color=INK, lw=0.8, zorder=5)
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
            axes.text(x - 0.04, y, text, ha="right", va="center", size=8, bbox=halo, zorder=6)

    def _ticks(self) -> list[float]:
        low, high = self.ends
        if self.log:
            return [float(value) for value in np.geomspace(low, high, _TICKS)]
        if isinstance(low, int) and isinstance(high, int):
            return sorted({round(value) for value in np.linspace(low, high, _TICKS)})
        return [float(value) for value in np.linspace(low, high, _TICKS)]


def _draw(axes: Axes, heights: Sequence[float], **look: Any) -> None:
    """Draw one line through all axes, which crosses each of them horizontally."""
    pieces = pairwise(heights)
    x = np.concatenate([number + _CURVE for number in range(len(heights) - 1)])
    y = np.concatenate([start + (end - start) * _EASED for start, end in pieces])
    axes.plot(x, y, **look)


def _layer(record: Record, best: Record) -> tuple[bool, ...]:
    return record is best, record.number == 0, record.status == DONE


def _look(record: Record, best: Record, colors: Normalize) -> dict[str, Any]:
    if record is best:
        dashes = "--" if record.number == 0 else "-"
        label = "best, as configured" if record.number == 0 else "best"
        return {"color": ACCENT, "lw": 2.4, "ls": dashes, "label": label, "zorder": 4}
    if record.number == 0:
        return {"color": INK, "lw": 1.6, "ls": "--", "label": "as configured", "zorder": 3}
    if record.status == DONE:
        return {"color": _COLORS(colors(record.cash or 0.0)), "lw": 1.3, "alpha": 0.9, "zorder": 2}
    return {"color": MUTED, "lw": 0.9, "alpha": 0.55, "label": "stopped early", "zorder": 1}


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Return one handle per label, and the labels."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    return list(unique.values()), list(unique)
