"""Set the look of figures: an ink that follows the page's theme, colors, markers per class."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#0a0b0c"
"""Color of text and lines; `raypipe.html.page` makes it the text color of the page."""

MUTED = "#8a8f98"
"""Color of what stays in the background: unlabeled rows, reference lines."""

ACCENT = "#d1495b"
"""Color of the model."""

SECOND = "#2b7bba"
"""Color of a second quantity beside the model."""

CLASS_STYLE: Mapping[str, tuple[str, str]] = {
    "AGN": ("#1c7ed6", "o"),
    "CV": ("#e69f00", "s"),
    "HM-STAR": ("#5ec8e5", "^"),
    "HMXB": ("#d55e00", "D"),
    "LM-STAR": ("#009e73", "v"),
    "LMXB": ("#cc79a7", "P"),
    "NS": ("#9775c9", "X"),
    "YSO": ("#a6a100", "p"),
}
"""Color (after Okabe & Ito, for color-blind readers) and marker of each class."""

OTHER_STYLE = (MUTED, ".")
"""Color and marker of the rare classes that a figure joins."""

_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raypipe",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "image.composite_image": False,
}


def styled() -> AbstractContextManager[None]:
    """Apply the settings of figures within a block; matplotlib's own stay as they are."""
    context: AbstractContextManager[None] = mpl.rc_context(_SETTINGS)
    return context


class _ShownFigure(Figure):
    """Let notebooks display a figure that pyplot does not know."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Figure, Any]:
    """Create an empty figure (inches) and its axes, outside of pyplot's global state."""
    figure = empty_figure(width, height)
    return figure, figure.subplots(rows, columns, **grid)


def empty_figure(width: float, height: float) -> Figure:
    """Create a figure (inches) without axes, outside of pyplot's global state."""
    figure = _ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def light_grid(axes: Axes, which: Literal["both", "x", "y"] = "both") -> None:
    """Draw faint grid lines behind the data."""
    axes.grid(True, axis=which, color=MUTED, alpha=0.22, linewidth=0.6)
    axes.set_axisbelow(True)
