"""Measure what the shared space adds to latents and to the view, for a quantity or a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_FOLDS = 5
_TREES = 100
_BOOTSTRAPS = 200
_FEWEST = 50
_FEWEST_PER_CLASS = 10
GAINS = (
    ("latents + shared", "latents"),
    ("view + shared", "view"),
    ("latents + view + shared", "latents + view"),
)
"""Pairs of features whose scores are compared: with the shared space, and without."""


@dataclass(frozen=True)
class Features:
    """Hold the features of n pairs that predict a target: latents, view, and shared vectors.

    All are (n, features); `spectra` and `views` are the shared vectors of the two sides.
    """

    latents: Floats
    view: Floats
    spectra: Floats
    views: Floats

    def sets(self) -> dict[str, Floats]:
        """Return the sets of features that are compared, by their names."""
        return {
            "latents": self.latents,
            "view": self.view,
            "shared": self.spectra,
            "latents + view": np.hstack([self.latents, self.view]),
            "latents + shared": np.hstack([self.latents, self.spectra]),
            "view + shared": np.hstack([self.view, self.views]),
            "latents + view + shared": np.hstack(
                [self.latents, self.view, self.spectra, self.views]
            ),
        }


def usefulness(
    spaces: Sequence[Features], targets: Mapping[str, npt.NDArray[Any]], seed: int
) -> list[dict[str, Any]]:
    """Score how well each set of features predicts each target, on sources unseen in training.

    `spaces` have the same latents and view, with the shared vectors of different alignments; the
    answer has an entry for each. `targets` are numbers, NaN where unknown, or classes, None where
    unknown, (n,). Extremely randomized trees (Geurts et al. 2006) are fitted and judged by
    cross-validation among the judged sources. The score is R² for a number and the balanced
    accuracy for a class, with the standard deviation of bootstraps over sources; `gain` has the
    differences between two sets of features, from the same bootstraps. The answer for a target with
    too few known rows is None.
    """
    judges = {name: _Judge.of(values, seed) for name, values in targets.items()}
    return [
        {
            name: None if judge is None else judge.score(features.sets())
            for name, judge in judges.items()
        }
        for features in spaces
    ]


@dataclass
class _Judge:
    """Score sets of features by how well they predict one target.

    `known` (n,) are the rows with a value and `truth` their values; `draws` are the rows drawn in
    each bootstrap. `scored` keeps the scores of the sets without a shared space, which are the same
    for all spaces.
    """

    known: npt.NDArray[np.bool_]
    truth: npt.NDArray[Any]
    seed: int
    fold: npt.NDArray[np.int64]
    draws: list[npt.NDArray[np.int64]]
    scored: dict[str, tuple[float, Floats]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: npt.NDArray[Any], seed: int) -> _Judge | None:
        """Prepare the judgement of a target, (n,); None if too few rows are known."""
        is_class = values.dtype == object
        known = np.array([v is not None for v in values]) if is_class else np.isfinite(values)
        if is_class:
            names, counts = np.unique(values[known].astype(str), return_counts=True)
            kept = set(names[counts >= _FEWEST_PER_CLASS])
            known &= np.array([v in kept for v in values])
            if len(kept) < 2:
                return None
        if known.sum() < _FEWEST:
            return None
        truth = values[known].astype(str) if is_class else values[known].astype(np.float64)
        rng = np.random.default_rng(seed)
        fold = rng.permutation(len(truth)) % _FOLDS
        draws = [rng.integers(0, len(truth), len(truth)) for _ in range(_BOOTSTRAPS)]
        return cls(known, truth, seed, fold, draws)

    @property
    def is_class(self) -> bool:
        """Return whether the target is a class."""
        return self.truth.dtype.kind == "U"

    def score(self, sets: Mapping[str, Floats]) -> dict[str, Any]:
        """Score each set of features (n, features), with errors, and the gains of `GAINS`."""
        scores: dict[str, tuple[float, Floats]] = {}
        for name, features in sets.items():
            scores[name] = self.scored.get(name) or self._score_one(features[self.known])
            if "shared" not in name:
                self.scored[name] = scores[name]
        return {
            "score": "balanced accuracy" if self.is_class else "R²",
            "rows": int(self.known.sum()),
            **{name: {"value": v, "err": float(each.std())} for name, (v, each) in scores.items()},
            "gain": {
                f"{more} - {less}": {
                    "value": scores[more][0] - scores[less][0],
                    "err": float((scores[more][1] - scores[less][1]).std()),
                }
                for more, less in GAINS
            },
        }

    def _score_one(self, features: Floats) -> tuple[float, Floats]:
        """Return the score of features of known rows, and those of bootstraps."""
        measure = _balanced_accuracy if self.is_class else _r2
        predicted = _cross_validated(features, self.truth, self.fold, self.seed, self.is_class)
        again = np.array([measure(self.truth[rows], predicted[rows]) for rows in self.draws])
        return measure(self.truth, predicted), again


def _cross_validated(
    x: Floats, truth: npt.NDArray[Any], fold: npt.NDArray[np.int64], seed: int, is_class: bool
) -> npt.NDArray[Any]:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    predicted = np.empty_like(truth)
    for number in range(_FOLDS):
        held = fold == number
        options = {"n_estimators": _TREES, "min_samples_leaf": 3, "random_state": seed}
        if is_class:
            trees = ExtraTreesClassifier(class_weight="balanced", **options)
        else:
            trees = ExtraTreesRegressor(max_features=0.5, **options)
        predicted[held] = trees.fit(x[~held], truth[~held]).predict(x[held])
    return predicted


def _r2(truth: Floats, predicted: Floats) -> float:
    return float(1.0 - np.mean((truth - predicted) ** 2) / max(float(np.var(truth)), 1e-30))


def _balanced_accuracy(truth: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> float:
    right = truth == predicted
    return float(np.mean([right[truth == name].mean() for name in np.unique(truth)]))
