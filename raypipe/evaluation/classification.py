"""Measure how well two plain classifiers separate the classes in a representation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier

from raypipe.config import EvaluateConfig
from raypipe.evaluation.validation import (
    FloatArray,
    IntArray,
    LabeledRows,
    TextArray,
    grouped_folds,
    labeled_rows,
    score_classes,
    unscored,
)

BOOSTING = {
    "max_iter": 40,
    "learning_rate": 0.15,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 10,
    "early_stopping": False,
}
"""Settings of gradient boosting, for the classifier and the regressor."""

Predictor = Callable[[FloatArray, IntArray, FloatArray, EvaluateConfig], IntArray]
"""Predict class codes of new features from features and codes to train on."""


def classify(
    features: FloatArray, classes: TextArray, sources: TextArray, config: EvaluateConfig
) -> dict[str, Any]:
    """Cross-validate kNN and gradient boosting on a representation.

    `features` (n, d), `classes` and `sources` (n,). Folds never share a source. Both classifiers
    give every class the same weight, however rare it is. Classes with fewer sources than folds are
    left out and named; with fewer than two classes the scores are None, with the reason.
    """
    labeled = labeled_rows(classes, sources, config.folds)
    section: dict[str, Any] = {
        "classes": list(labeled.classes),
        "left_out": labeled.left_out,
        "n_rows": len(labeled.rows),
        "n_sources": len(set(labeled.sources.tolist())),
        "reason": labeled.reason,
    }
    if labeled.reason:
        return section | {"knn": unscored(labeled.reason), "boosting": unscored(labeled.reason)}
    kept = features[labeled.rows]
    return section | {
        "knn": _cross_validate(predict_knn, kept, labeled, config),
        "boosting": _cross_validate(predict_boosting, kept, labeled, config),
    }


def predict_knn(
    features: FloatArray, codes: IntArray, new_features: FloatArray, config: EvaluateConfig
) -> IntArray:
    """Predict class codes by the votes of the nearest neighbors, in the distances of the features.

    The weight of a vote is the inverse of the frequency of its class among the training rows.
    """
    neighbors = min(config.neighbors, len(codes))
    model = KNeighborsClassifier(neighbors).fit(features, codes)
    frequency = np.bincount(codes)[model.classes_]
    votes = model.predict_proba(new_features) / frequency
    predicted: IntArray = model.classes_[votes.argmax(axis=1)]
    return predicted


def predict_boosting(
    features: FloatArray, codes: IntArray, new_features: FloatArray, config: EvaluateConfig
) -> IntArray:
    """Predict class codes by gradient-boosted trees with balanced class weights."""
    model = HistGradientBoostingClassifier(
        class_weight="balanced", random_state=config.seed, **BOOSTING
    )
    predicted: IntArray = model.fit(features, codes).predict(new_features)
    return predicted


def score_probabilities(
    frame: pd.DataFrame,
    known: Sequence[str],
    classes: TextArray,
    sources: TextArray,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Score the class probabilities that the model gave in a catalog.

    `known` are the model's classes, whose columns are `p_<class>`; the most probable of them is the
    prediction. The judged classes are those of `classify`. Adds `log_loss` (nats; 0 is perfect) of
    the probability of the true class, and `reliability` (`measure_reliability`).
    """
    labeled = labeled_rows(classes, sources, config.folds)
    columns = [f"p_{name}" for name in known if f"p_{name}" in frame]
    judged = [f"p_{name}" for name in labeled.classes]
    reason = labeled.reason
    if reason is None and not set(judged) <= set(columns):
        unknown = sorted(set(judged).difference(columns))
        reason = f"the catalog has no columns {', '.join(unknown)}"
    if reason:
        return unscored(reason) | {"log_loss": None, "reliability": None}
    probabilities = frame[columns].to_numpy(dtype=np.float64)[labeled.rows]
    code_of = np.array([judged.index(name) if name in judged else -1 for name in columns])
    predicted = code_of[probabilities.argmax(axis=1)]
    scores = score_classes(labeled.codes, predicted, labeled.sources, labeled.classes, config.seed)
    position = np.array([columns.index(name) for name in judged])[labeled.codes]
    of_true = probabilities[np.arange(len(position)), position]
    return scores | {
        "log_loss": float(-np.log(np.clip(of_true, 1e-6, 1)).mean()),
        "reliability": measure_reliability(
            probabilities[:, [columns.index(name) for name in judged]], labeled.codes
        ),
    }


def measure_reliability(probabilities: FloatArray, codes: IntArray) -> dict[str, Any]:
    """Measure how often a class is the true one, by its probability in tenths.

    `probabilities` (n, classes); `codes` (n,) are the true classes. Every class has the same
    weight, as the probabilities assume. Each of `bins` has the number of probabilities in a tenth,
    their mean (`predicted`), and the share of them whose class is the true one (`observed`);
    `calibration_error` is the mean difference of the two.
    """
    # The weight of a row is 1 / (members of its class). All its probabilities are judged, not only
    # the largest one.
    weights = (1.0 / np.bincount(codes, minlength=probabilities.shape[1]).clip(1))[codes]
    each = np.repeat(weights[:, None], probabilities.shape[1], axis=1)
    true = np.arange(probabilities.shape[1]) == codes[:, None]
    tenth = np.minimum((probabilities * 10).astype(int), 9)
    bins = []
    for number in range(10):
        inside = tenth == number
        if inside.any():
            bins.append(
                {
                    "from": number / 10,
                    "to": (number + 1) / 10,
                    "n": int(inside.sum()),
                    "weight": float(each[inside].sum() / each.sum()),
                    "predicted": float(np.average(probabilities[inside], weights=each[inside])),
                    "observed": float(np.average(true[inside], weights=each[inside])),
                }
            )
    error = sum(b["weight"] * abs(b["predicted"] - b["observed"]) for b in bins)
    return {"bins": bins, "calibration_error": float(error)}


def cross_predict(
    predict: Predictor, features: FloatArray, labeled: LabeledRows, config: EvaluateConfig
) -> IntArray:
    """Predict the class of each labeled row by training on other sources, (n,)."""
    predicted = np.full(len(labeled.codes), -1, dtype=np.int64)
    for train, test in grouped_folds(labeled.codes, labeled.sources, config.folds, config.seed):
        predicted[test] = predict(features[train], labeled.codes[train], features[test], config)
    return predicted


def _cross_validate(
    predict: Predictor, features: FloatArray, labeled: LabeledRows, config: EvaluateConfig
) -> dict[str, Any]:
    predicted = cross_predict(predict, features, labeled, config)
    return score_classes(labeled.codes, predicted, labeled.sources, labeled.classes, config.seed)
