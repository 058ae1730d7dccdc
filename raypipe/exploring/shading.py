"""Draw many detections as an image with datashader, for a page that cannot hold them as glyphs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from bokeh.palettes import Cividis256

from raypipe.errors import UsageError

Floats = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]

CLASS_COLORS = (
    *("#1c7ed6", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#5ec8e5", "#9775c9", "#a6a100"),
)
"""Colors of the most frequent words, as in page/points.js."""

OTHER_COLOR = "#8a8f98"
MOST_PIXELS = 4096

_SPREAD_TO = 0.5
_LARGEST_DOT = 3
_FAINTEST = 150


@dataclass(frozen=True)
class View:
    """Describe an image: the ranges of x and y that it shows, and its size in pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int


@dataclass(frozen=True)
class Coloring:
    """Describe colors of numbers between `low` and `high`, or of words.

    `words` are the values that have a color each; other values are grey. If `logarithmic`, `low`
    and `high` are decimal logarithms of the values. On a `dark` page the palette starts with
    lighter colors.
    """

    low: float
    high: float
    logarithmic: bool = False
    words: Sequence[int] | None = None
    dark: bool = False


def require_datashader() -> Any:
    """Import datashader; raises UsageError that says how to install it."""
    try:
        import datashader
    except ImportError as error:
        raise UsageError(
            'raypipe explore --serve draws with datashader: pip install "raypipe[serve]"'
        ) from error
    return datashader


def warm_up() -> None:
    """Draw a small image of each kind, because datashader compiles its code on first use."""
    places, kept = np.zeros((2, 2)), np.ones(2, dtype=bool)
    view = View((-1.0, 1.0), (-1.0, 1.0), 8, 8)
    for words in (None, [0]):
        draw_image(places, np.zeros(2), kept, view, Coloring(0.0, 1.0, words=words))


def draw_image(places: Floats, values: Floats, kept: Marks, view: View, color: Coloring) -> bytes:
    """Draw points at `places` (n, 2) with `values` (n,), those `kept` (n,), as a PNG.

    Where several numbers fall on a pixel, it has the color of their mean; where several words do,
    their colors are mixed. Single points are drawn larger where there are few.
    """
    datashader = require_datashader()
    inside = kept & (places[:, 0] >= view.x[0]) & (places[:, 0] <= view.x[1])
    inside &= (places[:, 1] >= view.y[0]) & (places[:, 1] <= view.y[1])
    points = pd.DataFrame(places[inside], columns=["x", "y"])
    canvas = datashader.Canvas(
        plot_width=view.width, plot_height=view.height, x_range=view.x, y_range=view.y
    )
    draw = _draw_numbers if color.words is None else _draw_words
    image = draw(datashader, canvas, points, values[inside], color)
    transfer = datashader.transfer_functions
    image = transfer.dynspread(image, threshold=_SPREAD_TO, max_px=_LARGEST_DOT)
    file = io.BytesIO()
    image.to_pil().save(file, "PNG", compress_level=1)
    return file.getvalue()


def _draw_numbers(
    datashader: Any, canvas: Any, points: pd.DataFrame, values: Floats, color: Coloring
) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.log10(values) if color.logarithmic else values
    known = np.isfinite(scaled)
    transfer = datashader.transfer_functions
    grey = canvas.points(points[~known], "x", "y", datashader.count())
    points = points[known].assign(value=np.clip(scaled[known], color.low, color.high))
    mean = canvas.points(points, "x", "y", datashader.mean("value"))
    palette = list(Cividis256[70:] if color.dark else Cividis256[:225])
    span = [color.low, color.high]
    return transfer.stack(
        transfer.shade(grey, cmap=[OTHER_COLOR], min_alpha=_FAINTEST),
        transfer.shade(mean, cmap=palette, how="linear", span=span),
    )


def _draw_words(
    datashader: Any, canvas: Any, points: pd.DataFrame, values: Floats, color: Coloring
) -> Any:
    words = list(color.words or [])[: len(CLASS_COLORS)]
    code = np.full(len(values), len(words))
    for place, word in enumerate(words):
        code[values == word] = place
    kinds = pd.CategoricalDtype(list(range(len(words) + 1)))
    points = points.assign(value=pd.Series(code, index=points.index).astype(kinds))
    counts = canvas.points(points, "x", "y", datashader.count_cat("value"))
    colors = [*CLASS_COLORS[: len(words)], OTHER_COLOR]
    return datashader.transfer_functions.shade(
        counts, color_key=colors, how="eq_hist", min_alpha=_FAINTEST
    )
