"""Scale the columns of a view to inputs of a network, and back.

A number becomes its normal score: the standard normal quantile of its rank among the training
rows, by interpolation between `KNOTS` quantiles, so that fluxes over many decades and columns with
outliers need no choice of a scale. Vectors are standardized element by element.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from raypipe.alignment.view_table import Kind, ViewColumn

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[Any]]

KNOTS = 65
"""Most quantiles that describe the distribution of a column of numbers."""
_EDGE = 0.004
"""Share of the training rows beyond the outermost knots."""
_BEYOND = 2.0
"""Most by which a score goes beyond that of the outermost knot."""
CURVE_CHANNELS = 3
"""Numbers per point of a light curve: its place in time, the gap before it, and its rate."""
CURVE_FACTS = 4
"""Numbers that describe a whole curve: its mean, scatter, logarithmic duration and points."""


@dataclass(frozen=True)
class ScaledColumn:
    """Describe how one column becomes inputs: its kind, the number of its inputs, and its scale.

    `tensors` hold the scale: `values` and `scores` of the knots of a number, `mean` and `width` of
    a vector or curve. `categories` are the words of a categorical column.
    """

    name: str
    kind: Kind
    size: int
    tensors: Mapping[str, npt.NDArray[Any]]
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class ViewInputs:
    """Hold the scaled view of n rows.

    `values` (n, inputs) are 0 where a column has no value, and `known` (n, columns) says where it
    has one. If one of the columns is a light curve, `curves` is (n, points, CURVE_CHANNELS), with
    the number of points of each row in `points` (n,); otherwise both are None.
    """

    values: Float32
    known: npt.NDArray[np.bool_]
    curves: Float32 | None = None
    points: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: npt.NDArray[Any]) -> ViewInputs:
        """Return the inputs of these rows."""
        return ViewInputs(
            self.values[rows],
            self.known[rows],
            None if self.curves is None else self.curves[rows],
            None if self.points is None else self.points[rows],
        )

    def row_groups(self) -> npt.NDArray[np.int64]:
        """Number rows so that exactly those with the same inputs share a number, (n,)."""
        numbers: dict[bytes, int] = {}
        parts = [self.values, self.known]
        parts += [] if self.curves is None else [self.curves]
        groups = [
            numbers.setdefault(
                hashlib.sha256(b"".join(part[row].tobytes() for part in parts)).digest(),
                len(numbers),
            )
            for row in range(len(self))
        ]
        return np.array(groups, dtype=np.int64)


@dataclass(frozen=True)
class ViewScale:
    """Turn columns of a view into inputs; `curve_points` is the most points per light curve."""

    columns: tuple[ScaledColumn, ...]
    curve_points: int

    @classmethod
    def fit(cls, columns: Sequence[ViewColumn], curve_points: int) -> ViewScale:
        """Fit the scale of each column to its known rows. Texts must have become vectors."""
        return cls(tuple(_fit(column) for column in columns), curve_points)

    @property
    def inputs(self) -> int:
        """Return the number of inputs per row, without the points of light curves."""
        return sum(column.size for column in self.columns)

    @property
    def has_curve(self) -> bool:
        """Return whether one of the columns is a light curve."""
        return any(column.kind == "curve" for column in self.columns)

    def slices(self) -> list[slice]:
        """Return the place of each column among the inputs."""
        ends = np.cumsum([0, *(column.size for column in self.columns)])
        return [slice(int(begin), int(end)) for begin, end in pairwise(ends)]

    def transform(self, columns: Sequence[ViewColumn]) -> ViewInputs:
        """Scale columns, which are those of the fit in the same order."""
        parts, known, curves, points = [], [], None, None
        for scale, column in zip(self.columns, columns, strict=True):
            part = _transform(scale, column)
            # A word that no training row has is like a missing value.
            known.append(part.any(axis=1) if column.kind == "category" else column.is_known)
            parts.append(part)
            if column.kind == "curve":
                curves, points = _curve_points(scale, column, self.curve_points)
        values = np.concatenate(parts, axis=1).astype(np.float32)
        return ViewInputs(values, np.stack(known, axis=1), curves, points)

    def as_json(self) -> dict[str, Any]:
        """Describe the scale without its arrays, for the header of a bundle."""
        described = [
            {"name": c.name, "kind": c.kind, "size": c.size, "categories": list(c.categories)}
            for c in self.columns
        ]
        return {"columns": described, "curve_points": self.curve_points}

    def tensors(self) -> Tensors:
        """Return the arrays of the scale, by the names under which a bundle keeps them."""
        return {
            f"view.{place}.{name}": np.ascontiguousarray(values)
            for place, column in enumerate(self.columns)
            for name, values in column.tensors.items()
        }

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Any:
        """Read what `as_json` and `tensors` wrote; raises LookupError or ValueError if damaged."""
        columns = []
        for place, each in enumerate(described["columns"]):
            mine = {name: tensors[f"view.{place}.{name}"] for name in _TENSORS[each["kind"]]}
            column = ScaledColumn(
                str(each["name"]), each["kind"], int(each["size"]), mine, tuple(each["categories"])
            )
            _require_sizes(column)
            columns.append(column)
        return cls(tuple(columns), int(described["curve_points"]))


def flat(view: ViewInputs) -> Floats:
    """Return a view as plain features, (n, features): its inputs, and which columns are known."""
    return np.concatenate([view.values, view.known], axis=1).astype(np.float64)


_TENSORS: dict[str, tuple[str, ...]] = {
    "number": ("values", "scores"),
    "category": (),
    "vector": ("mean", "width"),
    "curve": ("mean", "width"),
}


def normal_scores(column: ScaledColumn, values: Floats) -> Floats:
    """Convert numbers to normal scores by a column's knots; NaN stays NaN.

    Beyond the outermost knots the score rises further, by `_BEYOND` at most, so that different
    numbers keep different scores.
    """
    knots, scores = column.tensors["values"], column.tensors["scores"]
    known = np.where(np.isnan(values), knots[0], values)
    found = np.interp(known, knots, scores)
    # The distance beyond the last knot, in units of the knots' mean width per score.
    width = max((knots[-1] - knots[0]) / max(scores[-1] - scores[0], 1e-6), 1e-300)
    far = (known - known.clip(knots[0], knots[-1])) / width
    found += far / (1.0 + np.abs(far) / _BEYOND)
    return np.where(np.isnan(values), np.nan, found)


def from_scores(column: ScaledColumn, scores: Floats) -> Floats:
    """Convert normal scores back to numbers; beyond the outermost knots, to their values."""
    return np.interp(scores, column.tensors["scores"], column.tensors["values"])


def _fit(column: ViewColumn) -> ScaledColumn:
    known = column.values[column.is_known]
    match column.kind:
        case "number":
            values, scores = _knots(known.astype(np.float64))
            return ScaledColumn(column.name, "number", 1, {"values": values, "scores": scores})
        case "category":
            words = tuple(sorted(set(known.tolist())))
            return ScaledColumn(column.name, "category", len(words), {}, words)
        case "vector":
            mean, width = known.mean(axis=0), known.std(axis=0)
            tensors = {"mean": mean, "width": np.where(width > 0, width, 1.0).astype(np.float32)}
            return ScaledColumn(column.name, "vector", known.shape[1], tensors)
        case "curve":
            facts = np.array([_facts(curve) for curve in known])
            rates = np.concatenate([curve[1] for curve in known])
            mean = np.append(facts.mean(axis=0), np.median(rates))
            spread = 0.7413 * float(np.diff(np.quantile(rates, [0.25, 0.75]))[0])
            width = np.append(facts.std(axis=0), spread or float(rates.std()) or 1.0)
            tensors = {"mean": mean, "width": np.where(width > 0, width, 1.0)}
            return ScaledColumn(column.name, "curve", CURVE_FACTS, tensors)
    raise ValueError(f"column {column.name}: texts must be encoded first")


def _knots(known: Floats) -> tuple[Floats, Floats]:
    """Return distinct values in ascending order, and the normal score of each."""
    shares = np.linspace(_EDGE, 1 - _EDGE, KNOTS)
    # A value that many rows share, such as 0, is one knot at the middle of its shares.
    values, knot = np.unique(np.quantile(known, shares), return_inverse=True)
    middle = np.bincount(knot, shares) / np.bincount(knot)
    if len(values) < 2:
        values, counts = np.unique(known, return_counts=True)
        middle = ((np.cumsum(counts) - 0.5 * counts) / len(known)).clip(_EDGE, 1 - _EDGE)
    return values, np.asarray(ndtri(middle))


def _transform(scale: ScaledColumn, column: ViewColumn) -> Floats:
    known = column.is_known
    if scale.kind == "number":
        return np.nan_to_num(normal_scores(scale, column.values.astype(np.float64)))[:, None]
    if scale.kind == "category":
        words = np.array(scale.categories, dtype=object)
        return (column.values[:, None] == words[None, :]).astype(np.float64)
    values = np.zeros((len(known), scale.size))
    if scale.kind == "vector":
        values[known] = (column.values[known] - scale.tensors["mean"]) / scale.tensors["width"]
    else:
        facts = np.array([_facts(curve) for curve in column.values[known]])
        mean, width = (scale.tensors[name][:CURVE_FACTS] for name in ("mean", "width"))
        values[known] = (facts.reshape(-1, CURVE_FACTS) - mean) / width
    return values


def _facts(curve: Floats) -> list[float]:
    times, rates = curve
    duration = max(float(times[-1] - times[0]), 0.0)
    mean, scatter = float(rates.mean()), float(rates.std())
    return [np.arcsinh(mean), np.arcsinh(scatter), np.log1p(duration), np.log1p(len(times))]


def _curve_points(
    scale: ScaledColumn, column: ViewColumn, most: int
) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Return at most `most` evenly chosen points of each light curve, and the number of points."""
    curves = [np.zeros((2, 0)) if curve is None else curve for curve in column.values]
    chosen = [
        curve
        if curve.shape[1] <= most
        else curve[:, np.linspace(0, curve.shape[1] - 1, most).astype(int)]
        for curve in curves
    ]
    points = np.array([curve.shape[1] for curve in chosen], dtype=np.int64)
    values = np.zeros((len(chosen), max(1, int(points.max(initial=1))), CURVE_CHANNELS), np.float32)
    center, spread = (float(scale.tensors[name][-1]) for name in ("mean", "width"))
    for row, (times, rates) in enumerate(chosen):
        if len(times):
            place = (times - times[0]) / max(float(times[-1] - times[0]), 1e-30)
            values[row, : len(times), 0] = place
            values[row, : len(times), 1] = np.diff(place, prepend=0.0)
            values[row, : len(times), 2] = np.arcsinh((rates - center) / spread)
    return values, points


def _require_sizes(column: ScaledColumn) -> None:
    """Raise ValueError unless the arrays of a column fit its kind and size."""
    if column.kind == "category":
        good = len(set(column.categories)) == column.size > 0
    elif column.kind == "number":
        values, scores = column.tensors["values"], column.tensors["scores"]
        good = values.shape == scores.shape and values.ndim == 1 and column.size == 1
        good = good and len(values) > 0 and bool((np.diff(values) > 0).all())
        good = good and bool((np.diff(scores) >= 0).all())
    else:
        expected = column.size if column.kind == "vector" else CURVE_FACTS + 1
        shapes = {column.tensors[name].shape for name in ("mean", "width")}
        good = shapes == {(expected,)} and bool((column.tensors["width"] > 0).all())
    if not good:
        raise ValueError(f"the scale of column {column.name} does not fit its size")
