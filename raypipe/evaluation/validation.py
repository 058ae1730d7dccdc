"""Validate on folds that keep a source whole, with errors from resampled sources."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
TextArray = npt.NDArray[np.object_]

BOOTSTRAP_DRAWS = 400
"""Number of resamplings of the sources for each error."""


ONE_THREAD_ROWS = 20_000
"""Up to this number of rows, fits of scikit-learn are faster on one thread than on several."""


def fitting_threads(rows: int) -> AbstractContextManager[object]:
    """Limit fits to few rows to one thread: they lose more time to waiting than they gain."""
    limits: AbstractContextManager[object] = threadpool_limits(
        1 if rows <= ONE_THREAD_ROWS else None
    )
    return limits


def on_one_scale(features: FloatArray) -> FloatArray:
    """Center features (n, d), and divide all by one number so that their mean variance is 1.

    Distances between rows keep their proportions. Standardizing each feature would undo the small
    variance of features that a representation knows little about.
    """
    centered = features - features.mean(axis=0)
    scale = np.sqrt((centered**2).mean())
    return np.asarray(centered / (scale if scale > 0 else 1.0))


@dataclass(frozen=True)
class LabeledRows:
    """Hold the rows on which a classifier can be judged.

    `rows` are their indices, `codes` index into `classes`, `left_out` counts the sources of each
    class with too few sources, `reason` states why nothing can be measured, None if it can.
    """

    rows: IntArray
    codes: IntArray
    sources: TextArray
    classes: tuple[str, ...]
    left_out: dict[str, int]
    reason: str | None


def sources_of(frame: pd.DataFrame) -> TextArray:
    """Return the source of each detection, (n,): its `name`, or its `detection_id` without one."""
    identity = frame["detection_id"].astype(str)
    if "name" not in frame:
        return identity.to_numpy(dtype=object)
    names = frame["name"].astype("string").str.strip()
    return names.where(names.notna() & (names != ""), identity).to_numpy(dtype=object)


def ordered_classes(classes: TextArray) -> tuple[str, ...]:
    """Return the classes present, sorted by name."""
    return tuple(sorted({str(value) for value in classes if isinstance(value, str) and value}))


def labeled_rows(classes: TextArray, sources: TextArray, folds: int) -> LabeledRows:
    """Select rows with a class of at least `folds` sources, so that every fold can have one.

    `classes` and `sources` are (n,); a missing class is None or NaN.
    """
    counts = {
        name: len(set(sources[classes == name].tolist())) for name in ordered_classes(classes)
    }
    kept = tuple(name for name, count in counts.items() if count >= folds)
    left_out = {name: count for name, count in counts.items() if count < folds}
    reason = None
    if not counts:
        reason = "no row has a class"
    elif len(kept) < 2:
        reason = f"fewer than two classes with at least {folds} sources each"
    rows = np.flatnonzero(np.isin(classes, np.array(kept, dtype=object))) if kept else np.array([])
    rows = rows.astype(np.int64)
    index = {name: code for code, name in enumerate(kept)}
    codes = np.array([index[name] for name in classes[rows]], dtype=np.int64)
    return LabeledRows(rows, codes, sources[rows], kept, left_out, reason)


def grouped_folds(
    strata: IntArray, sources: TextArray, folds: int, seed: int
) -> list[tuple[IntArray, IntArray]]:
    """Return train and test indices of each fold; no source is in both, strata are even."""
    groups = np.unique(sources.astype(str), return_inverse=True)[1]
    kind = np.int64
    of_row = _fold_of_rows(
        np.ascontiguousarray(strata, kind).tobytes(), groups.astype(kind).tobytes(), folds, seed
    )
    judged = [of_row == fold for fold in range(folds)]
    return [(np.flatnonzero(~rows), np.flatnonzero(rows)) for rows in judged]


@lru_cache(maxsize=128)
def _fold_of_rows(strata: bytes, groups: bytes, folds: int, seed: int) -> npt.NDArray[np.int8]:
    """Return the fold in which each row is judged, (n,), from strata and groups as bytes of int64.

    Folds of thousands of sources take seconds, and every representation is judged on the same ones.
    """
    codes, sources = (np.frombuffer(each, np.int64) for each in (strata, groups))
    of_row = np.empty(len(codes), np.int8)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    blank = np.zeros((len(codes), 1))
    for fold, (_, test) in enumerate(splitter.split(blank, codes, groups=sources)):
        of_row[test] = fold
    of_row.flags.writeable = False
    return of_row


def limit(rows: IntArray, most: int, seed: int) -> IntArray:
    """Draw at most `most` of the rows at random, and return them in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def bootstrap_sums(values: FloatArray, sources: TextArray, seed: int) -> FloatArray:
    """Draw whole sources with replacement; return the sums of `values` (n, k) per draw.

    The sums are (BOOTSTRAP_DRAWS, k). One draw is in memory at a time, because the matrix of all
    draws of a release's sources would not fit.
    """
    names, codes = np.unique(sources.astype(str), return_inverse=True)
    by_source = np.zeros((len(names), values.shape[1]))
    np.add.at(by_source, codes, values)
    share = np.full(len(names), 1 / len(names))
    rng = np.random.default_rng(seed)
    draws = (rng.multinomial(len(names), share) for _ in range(BOOTSTRAP_DRAWS))
    return np.stack([draw @ by_source for draw in draws])


def score_classes(
    codes: IntArray, predicted: IntArray, sources: TextArray, classes: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """Compute balanced accuracy (mean recall of the classes), its error, recalls and confusion.

    `codes` and `predicted` (n,) index into `classes`; a prediction of -1 (none) counts as wrong.
    The error is the standard deviation over resampled sources. Rows of the confusion matrix are
    true classes, columns predicted ones.
    """
    # One column per class of members and of hits: sums over resampled sources give their ratio.
    right = codes == predicted
    of_class = np.eye(len(classes))[codes]
    of_class_and_right = of_class * right[:, None]
    recalls = of_class_and_right.sum(axis=0) / of_class.sum(axis=0)
    sums = bootstrap_sums(np.hstack([of_class, of_class_and_right]), sources, seed)
    totals, hits = np.hsplit(sums, 2)
    with np.errstate(invalid="ignore"):
        resampled = np.nanmean(hits / totals, axis=1)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    assigned = predicted >= 0
    np.add.at(confusion, (codes[assigned], predicted[assigned]), 1)
    return {
        "balanced_accuracy": float(recalls.mean()),
        "balanced_accuracy_error": float(resampled.std(ddof=1)),
        "accuracy": float(right.mean()),
        "recall": {name: float(value) for name, value in zip(classes, recalls, strict=True)},
        "confusion": {"classes": list(classes), "matrix": confusion.tolist()},
        "unassigned": int((~assigned).sum()),
        "reason": None,
    }


def unscored(reason: str | None) -> dict[str, Any]:
    """Return the keys of `score_classes` with None and the reason, if nothing was measured."""
    return {
        "balanced_accuracy": None,
        "balanced_accuracy_error": None,
        "accuracy": None,
        "recall": None,
        "confusion": None,
        "unassigned": None,
        "reason": reason,
    }
