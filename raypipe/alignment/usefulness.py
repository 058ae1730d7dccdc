"""Measure what the shared space adds to latents and to the view, for a quantity or a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Hold what predicts a target for n pairs: latents, view, and either side in a shared space.

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
    features: Features, targets: Mapping[str, npt.NDArray[Any]], seed: int
) -> dict[str, Any]:
    """Score how well each set of features predicts each target, on sources training has not seen.

    `targets` are numbers, NaN where unknown, or classes, None where unknown, (n,). Extremely
    randomized trees (Geurts et al. 2006) are fitted and judged by cross-validation among the judged
    sources. The score is R² of a number and the balanced accuracy of a class, with the standard
    deviation of bootstraps over sources; `gain` has differences, bootstrapped in pairs. A target
    with too few known rows is None.
    """
    sets = features.sets()
    return {name: _score(sets, values, seed) for name, values in targets.items()}


def _score(
    features: Mapping[str, Floats], values: npt.NDArray[Any], seed: int
) -> dict[str, Any] | None:
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
    score = _balanced_accuracy if is_class else _r2
    scores: dict[str, tuple[float, Floats]] = {}
    for name, values_of in features.items():
        predicted = _cross_validated(values_of[known], truth, fold, seed, is_class)
        again = np.array([score(truth[rows], predicted[rows]) for rows in draws])
        scores[name] = score(truth, predicted), again
    return {
        "score": "balanced accuracy" if is_class else "R²",
        "rows": int(known.sum()),
        **{name: {"value": v, "err": float(again.std())} for name, (v, again) in scores.items()},
        "gain": {
            f"{more} - {less}": {
                "value": scores[more][0] - scores[less][0],
                "err": float((scores[more][1] - scores[less][1]).std()),
            }
            for more, less in GAINS
        },
    }


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
