"""Draw the figures of a report: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.stats import norm

from raypipe.display.style import (
    ACCENT,
    INK,
    MUTED,
    SECOND,
    light_grid,
    new_figure,
    styled,
)
from raypipe.html.page import minus
from raypipe.reporting.classes import MOST_CLASSES, class_styles, join_rare

FloatArray = npt.NDArray[np.float64]
TextArray = npt.NDArray[np.object_]
Arguments = ParamSpec("Arguments")

_HARDNESS_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.15, 1.0, 256)))
_POINT_AREA = 120.0
_PICTURE_IN = 6.4
_PICTURE_LABEL_PT = 7


def _in_style(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    @wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with styled():
            return draw(*args, **kwargs)

    return drawn


@_in_style
def counts_histogram(total_counts: FloatArray) -> Figure:
    """Draw the number of detections by total counts, in logarithmic bins."""
    figure, axes = new_figure(5.2, 2.8)
    positive = np.maximum(total_counts, 1)
    low, high = np.log10(positive.min()), np.log10(positive.max())
    bins = np.logspace(np.floor(low * 5) / 5, np.ceil(high * 5 + 0.01) / 5, 31)
    axes.hist(positive, bins=bins, color=SECOND, alpha=0.75, edgecolor="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_plain_number))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="counts in the channel bins of the response", ylabel="detections")
    light_grid(axes, "y")
    return figure


@_in_style
def significance_histogram(sigmas: FloatArray) -> Figure:
    """Draw the distribution of significances with the unit normal that a perfect model gives."""
    figure, axes = new_figure(5.2, 2.8)
    edges = np.linspace(-6, 6, 49)
    clipped = np.clip(sigmas[np.isfinite(sigmas)], edges[0], edges[-1])
    axes.hist(clipped, bins=edges, color=SECOND, alpha=0.75, edgecolor="none", density=True)
    x = np.linspace(edges[0], edges[-1], 241)
    axes.plot(x, norm.pdf(x), color=ACCENT, lw=1.6, label="unit normal")
    axes.set(xlabel="misfit (σ); first and last bin: beyond", ylabel="density")
    axes.legend()
    light_grid(axes, "y")
    return figure


@_in_style
def learning_curve(history: Sequence[Mapping[str, Any]], best_epoch: int | None) -> Figure:
    """Draw training and validation loss by epoch, and mark the epoch that was kept."""
    figure, axes = new_figure(5.2, 2.8)
    epochs = [entry["epoch"] for entry in history]
    for key, color, label in (
        ("train_loss", SECOND, "training"),
        ("validation_loss", ACCENT, "validation"),
    ):
        values = [entry.get(key) for entry in history]
        if any(value is not None for value in values):
            axes.plot(
                epochs, [np.nan if v is None else v for v in values], color=color, label=label
            )
    if best_epoch is not None:
        axes.axvline(best_epoch, color=MUTED, lw=1, ls="--", label="kept")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()
    light_grid(axes)
    return figure


@_in_style
def latent_map(
    positions: FloatArray, classes: TextArray, names: Sequence[str] = (), width: float = 5.6
) -> Figure:
    """Draw detections in a plane (n, 2), colored by class; unlabeled ones (None) are gray.

    The rarest of many classes are joined. `names` (n,), if given, are written beside the points.
    Text is larger on a figure of less `width`, in inches, because the page scales figures.
    """
    figure, axes = new_figure(width, 0.82 * width)
    _scatter_classes(axes, positions, join_rare(classes))
    for (x, y), name in zip(positions, names, strict=False):
        axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7.5)
    _bare(axes)
    if names:
        axes.margins(0.25, 0.15)
    if any(isinstance(value, str) for value in classes):
        _legend_below(figure, axes)
    return figure


@_in_style
def hardness_map(positions: FloatArray, hardness: FloatArray) -> Figure:
    """Draw detections in a plane (n, 2), colored by a hardness ratio; colors span 96% of them."""
    figure, axes = new_figure(5.6, 4.6)
    order = np.argsort(np.abs(hardness))
    low, high = np.quantile(hardness, [0.02, 0.98])
    points = axes.scatter(
        positions[order, 0],
        positions[order, 1],
        c=hardness[order],
        cmap=_HARDNESS_COLORS,
        vmin=low,
        vmax=high,
        s=_point_size(len(positions)),
        alpha=0.85,
        linewidths=0,
        rasterized=True,
    )
    bar = figure.colorbar(
        points, ax=axes, orientation="horizontal", shrink=0.7, pad=0.03, aspect=35
    )
    bar.set_label("hardness ratio (h − s) / (h + s) of net counts")
    bar.outline.set_visible(False)
    _bare(axes)
    return figure


@_in_style
def class_panels(positions: FloatArray, classes: TextArray) -> Figure:
    """Draw one panel per class: its detections in color over all others in gray.

    The rarest of many classes share a panel.
    """
    classes = join_rare(classes)
    styles = class_styles(classes)
    names = list(styles)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(2.4 * columns, 2.2 * rows, rows, columns, squeeze=False)
    for panel, name in zip(axes.flat, names, strict=False):
        color, marker = styles[name]
        size = _point_size(len(positions)) * 0.6
        panel.scatter(
            positions[:, 0],
            positions[:, 1],
            s=size,
            c=MUTED,
            alpha=0.2,
            linewidths=0,
            rasterized=True,
        )
        panel.scatter(
            positions[classes == name, 0], positions[classes == name, 1],
            s=size * 1.4, c=color, marker=marker, linewidths=0, rasterized=True,
        )  # fmt: skip
        panel.set_title(f"{name} · {int((classes == name).sum())}")
        _bare(panel)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    return figure


@_in_style
def confusion_matrix(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix (rows true, columns predicted), shaded by share of the true class.

    Each cell shows its percentage. With more than MOST_CLASSES classes, the matrix is a picture
    with one pixel per cell, and only some classes are named.
    """
    if len(classes) > MOST_CLASSES:
        return _confusion_picture(matrix, classes)
    n = len(classes)
    figure, axes = new_figure(1.6 + 0.56 * n, 1.2 + 0.46 * n)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for i in range(n):
        for j in range(n):
            color = SECOND if i == j else ACCENT
            axes.fill_between(
                [j - 0.48, j + 0.48], i - 0.46, i + 0.46,
                color=color, alpha=0.85 * shares[i, j], linewidth=0,
            )  # fmt: skip
            text = f"{100 * shares[i, j]:.0f}" if matrix[i, j] else "·"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5)
    labels = [f"{name} ({int(total)})" for name, total in zip(classes, matrix.sum(1), strict=True)]
    axes.set_xticks(range(n), classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), labels)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _confusion_picture(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix of many classes, the most frequent first, as a picture.

    Shares of classes that are confused with many others are small: the square root of the share
    sets the shade, so that they are visible.
    """
    order = np.argsort(-matrix.sum(axis=1), kind="stable")
    ordered = matrix[order][:, order]
    n = len(classes)
    pixels = np.empty((n, n, 4))
    pixels[..., :3] = to_rgb(ACCENT)
    pixels[np.eye(n, dtype=bool), :3] = to_rgb(SECOND)
    pixels[..., 3] = np.sqrt(ordered / np.maximum(ordered.sum(axis=1, keepdims=True), 1))
    figure, axes = new_figure(_PICTURE_IN, _PICTURE_IN)
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    named = np.arange(0, n, -(-n // MOST_CLASSES))
    labels = [f"{classes[i]} ({int(matrix[i].sum())})" for i in order[named]]
    axes.set_xticks(named, [classes[i] for i in order[named]], rotation=90)
    axes.set_yticks(named, labels)
    axes.tick_params(labelsize=_PICTURE_LABEL_PT)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(True)
    return figure


@_in_style
def reliability_diagram(bins: Sequence[Mapping[str, float]]) -> Figure:
    """Draw how often a class is the true one, by its probability; bars show the weights."""
    figure, axes = new_figure(3.6, 3.2)
    middles = [0.5 * (each["from"] + each["to"]) for each in bins]
    axes.bar(middles, [each["weight"] for each in bins], width=0.094, color=MUTED, alpha=0.25)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    predicted, observed = ([each[name] for each in bins] for name in ("predicted", "observed"))
    axes.plot(predicted, observed, color=SECOND, marker="o", markersize=4)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="probability in the catalog",
        ylabel="share of true classes",
    )
    light_grid(axes)
    return figure


@_in_style
def recall_bars(classes: Mapping[str, Mapping[str, Any]], coverage: float) -> Figure:
    """Draw recall (bars) and coverage of sets (points) of each class, with their errors.

    Classes without a judged source have no bar.
    """
    judged = {name: each for name, each in classes.items() if each["recall"] is not None}
    figure, axes = new_figure(1.4 + 0.52 * len(judged), 3.2)
    place = np.arange(len(judged))

    def of(key: str) -> list[float]:
        return [each[key] if each[key] is not None else np.nan for each in judged.values()]

    axes.bar(place, of("recall"), width=0.62, color=SECOND, alpha=0.6)
    axes.errorbar(place - 0.12, of("recall"), of("recall_error"), fmt="none", ecolor=INK)
    axes.errorbar(
        place + 0.12, of("coverage"), of("coverage_error"), fmt="o", color=ACCENT, markersize=4
    )
    axes.axhline(coverage, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xticks(place, list(judged), rotation=40, ha="right", rotation_mode="anchor")
    axes.set(ylim=(0, 1.05), ylabel="share of the sources of the class")
    light_grid(axes)
    return figure


@_in_style
def correlation_map(
    correlations: FloatArray, rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Draw rank correlations (rows, columns) between -1 and 1, shaded by strength."""
    figure, axes = new_figure(1.9 + 0.55 * len(columns), 0.8 + 0.36 * len(rows))
    for i, row in enumerate(correlations):
        for j, value in enumerate(row):
            if not np.isfinite(value):
                continue
            color = ACCENT if value > 0 else SECOND
            axes.fill_between(
                [j - 0.48, j + 0.48], i - 0.45, i + 0.45,
                color=color, alpha=0.85 * abs(value), linewidth=0,
            )  # fmt: skip
            axes.text(j, i, minus(f"{value:+.2f}"), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _scatter_classes(axes: Axes, positions: FloatArray, classes: TextArray) -> None:
    labeled = np.array([isinstance(value, str) for value in classes], dtype=bool)
    size = _point_size(len(positions))
    if not labeled.all():
        axes.scatter(
            positions[~labeled, 0], positions[~labeled, 1],
            s=size * 0.7, c=MUTED, alpha=0.5, linewidths=0, rasterized=True, label="no label",
        )  # fmt: skip
    for name, (color, marker) in class_styles(classes).items():
        axes.scatter(
            positions[classes == name, 0], positions[classes == name, 1],
            s=size, c=color, marker=marker, alpha=0.75, linewidths=0, rasterized=True, label=name,
        )  # fmt: skip


def _point_size(n: int) -> float:
    return float(np.clip(_POINT_AREA * (30 / max(n, 1)) ** 0.5, 9, 60))


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, handletextpad=0.2, columnspacing=1,
        markerscale=1.8,
    )  # fmt: skip


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(INK)
    axes.spines[:].set_alpha(0.25)


def _plain_number(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
