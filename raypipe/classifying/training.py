"""Train a classifier on labeled detections, with all detections of a source in one fold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from raypipe.classifying.classifier import Classifier, Judgement, Raw, ask
from raypipe.classifying.features import Context, Features
from raypipe.classifying.forest import Forest, balanced_weights, grow, source_weights
from raypipe.classifying.likeness import ClassDensities
from raypipe.config import ClassifyConfig
from raypipe.errors import UsageError
from raypipe.redaction import printable

_CLUSTER = re.compile(r"cluster_\d+", re.IGNORECASE)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class TooFewLabelsError(UsageError):
    """Report that there are no labels, or not enough sources of two classes."""


class ClassNamesError(UsageError):
    """Report names of classes that cannot name columns or stand in a set of classes."""


@dataclass(frozen=True)
class LabeledRows:
    """Hold the rows to train on: `rows` (m,) are their indices, `codes` (m,) index `classes`.

    `left_out` counts the sources of the classes that have too few sources.
    """

    rows: IntArray
    codes: IntArray
    classes: tuple[str, ...]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Trained:
    """Hold a classifier, and its answers for labeled rows by forests that have not seen them.

    `features` are those of the labeled rows, `fold` (m,) is the fold of each.
    """

    classifier: Classifier
    features: Features
    raw: Raw
    fold: IntArray


def labeled_rows(
    classes: npt.NDArray[np.object_],
    sources: IntArray,
    usable: npt.NDArray[np.bool_],
    folds: int,
) -> LabeledRows:
    """Select the usable rows of classes with at least `folds` sources.

    `classes` (n,) has None for rows without a label. Raises TooFewLabelsError if there are no
    labels, or fewer than two such classes, and ClassNamesError for names that do not fit.
    """
    has_label = np.array([isinstance(name, str) for name in classes], dtype=bool) & usable
    if not has_label.any():
        raise TooFewLabelsError(
            "classify: no detection with latents has a class; give a table with --labels, or a "
            "trained classifier with --classifier"
        )
    counts = {
        name: len(np.unique(sources[has_label & (classes == name)]))
        for name in sorted(set(classes[has_label]))
    }
    _require_names(list(counts))
    kept = tuple(name for name, count in counts.items() if count >= folds)
    left_out = {name: count for name, count in counts.items() if count < folds}
    if len(kept) < 2:
        found = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise TooFewLabelsError(
            f"classify: at least two classes of {folds} sources or more are needed, the labels "
            f"have {found}; add labels, or lower classify.folds"
        )
    place = {name: code for code, name in enumerate(kept)}
    codes = np.array(
        [place.get(name, -1) if ok else -1 for name, ok in zip(classes, has_label, strict=True)]
    )
    rows = np.flatnonzero(codes >= 0)
    return LabeledRows(rows, codes[rows].astype(np.int64), kept, left_out)


def _require_names(classes: Sequence[str]) -> None:
    """Raise ClassNamesError unless each class can have a column p_<class> and be in a set."""
    seen: dict[str, str] = {}
    for name in classes:
        if not name.isprintable():
            reason = "a control character is in its name"
        elif "|" in name:
            reason = "class_set separates classes by |"
        elif _CLUSTER.fullmatch(name):
            reason = f"p_{name.lower()} is a column of raypipe cluster"
        elif other := seen.get(name.lower()):
            reason = f"it differs from {other} only by upper and lower case"
        else:
            seen[name.lower()] = name
            continue
        raise ClassNamesError(f"classify: class {printable(name, 60)!r}: {reason}; rename it")


def train_classifier(
    features: Features,
    z: FloatArray,
    codes: IntArray,
    sources: IntArray,
    classes: tuple[str, ...],
    settings: ClassifyConfig,
    *,
    model_id: str,
    context: Context,
) -> Trained:
    """Train on features, latents (m, k), class codes (m,) and source keys (m,) of labeled rows.

    Features that no row has are not used.
    """
    features = features.measured()
    fold = _folds(codes, sources, settings)
    trees = -(-settings.trees // settings.folds)
    experts = grow_folds(features, z, codes, sources, fold, trees=trees, seed=settings.seed)
    raw = ask(*experts, features, z, fold)
    known, first = np.unique(sources, return_index=True)
    classifier = Classifier(
        model_id=model_id,
        classes=classes,
        context=context,
        features=features.names,
        groups=features.groups,
        forests=experts[0],
        densities=experts[1],
        known=known,
        fold_of=fold[first].astype(np.int32),
        detections=Judgement.fit(raw.votes, raw.strange, codes, source_weights(sources)),
        sources=_judge_sources(raw, codes, sources),
    )
    return Trained(classifier, features, raw, fold)


def grow_folds(
    features: Features,
    z: FloatArray,
    codes: IntArray,
    sources: IntArray,
    fold: IntArray,
    *,
    trees: int,
    seed: int,
) -> tuple[tuple[Forest, ...], tuple[ClassDensities, ...]]:
    """Grow a forest and fit densities for each fold (m,), on the rows of all other folds.

    Rows of fold -1 are in no training set.
    """
    classes = int(codes.max()) + 1
    forests, densities = [], []
    for number in range(int(fold.max()) + 1):
        rows = np.flatnonzero((fold != number) & (fold >= 0))
        weights = balanced_weights(codes[rows], sources[rows], classes)
        views = features.views()
        parts = [
            grow(
                features.values[np.ix_(rows, columns)],
                codes[rows],
                weights,
                classes,
                trees=-(-trees // len(views)),
                seed=seed + number,
            )
            for columns in views
        ]
        forests.append(Forest.joined(parts, views))
        equal = source_weights(sources[rows])
        densities.append(ClassDensities.fit(z[rows], codes[rows], equal, classes))
    return tuple(forests), tuple(densities)


def by_source(sources: IntArray) -> tuple[IntArray, IntArray]:
    """Return an order (n,) that keeps the rows of a source together, and the starts (s,)."""
    order = np.argsort(sources, kind="stable")
    _, starts = np.unique(sources[order], return_index=True)
    return order.astype(np.int64), starts.astype(np.int64)


def raw_of_sources(raw: Raw, sources: IntArray) -> tuple[Raw, IntArray]:
    """Average rows over their sources; also return the index of one row of each source, (s,)."""
    order, starts = by_source(sources)
    ordered = Raw(raw.votes[order], raw.added[order], raw.strange[order])
    return ordered.averaged(starts), order[starts]


def _judge_sources(raw: Raw, codes: IntArray, sources: IntArray) -> Judgement:
    whole, row = raw_of_sources(raw, sources)
    return Judgement.fit(whole.votes, whole.strange, codes[row], np.ones(len(row)))


def _folds(codes: IntArray, sources: IntArray, settings: ClassifyConfig) -> IntArray:
    """Deal the sources into folds (m,) in which the classes have even shares."""
    splitter = StratifiedGroupKFold(settings.folds, shuffle=True, random_state=settings.seed)
    fold = np.zeros(len(codes), np.int64)
    for number, (_, rows) in enumerate(splitter.split(codes[:, None], codes, sources)):
        fold[rows] = number
    return fold
