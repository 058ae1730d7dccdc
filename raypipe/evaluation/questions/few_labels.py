"""Ask how many labeled sources per class a classifier of the latents needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from raypipe.config import EvaluateConfig
from raypipe.evaluation.classification import Predictor, predict_knn
from raypipe.evaluation.questions.material import Material, unmeasured
from raypipe.evaluation.validation import (
    FloatArray,
    IntArray,
    LabeledRows,
    fitting_threads,
    labeled_rows,
)

NUMBERS = (10, 30, 100, None)
"""Labeled sources per class; None: all that are not judged."""

REPEATS = 10
JUDGED_SHARE = 0.3
"""Share of the sources of each class that is judged and never trained on."""


def predict_linear(
    features: FloatArray, codes: IntArray, new_features: FloatArray, config: EvaluateConfig
) -> IntArray:
    """Predict class codes by a linear discriminant with shrinkage, all classes equally likely."""
    priors = np.full(len(np.unique(codes)), 1 / len(np.unique(codes)))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)
    predicted: IntArray = model.fit(features, codes).predict(new_features)
    return predicted


PREDICTORS: dict[str, Predictor] = {"knn": predict_knn, "linear": predict_linear}


def measure_few_labels(material: Material) -> dict[str, Any]:
    """Train on few sources per class, and judge on `JUDGED_SHARE` of the sources of each class.

    Each representation has one row per number of labeled sources per class (`labels`, None for
    all). A row has the balanced accuracy of kNN and of a linear discriminant, as means over
    `REPEATS` draws of both the labeled and the judged sources; `_error` is the spread over draws
    divided by the root of their number. A class with fewer sources gives all of its sources that
    are not judged; `most_labels` is the largest number that any class gives.
    """
    labeled = labeled_rows(material.classes, material.sources, material.settings.folds)
    if labeled.reason:
        return unmeasured(labeled.reason)
    found = {}
    with fitting_threads(len(labeled.rows)):
        for each in material.representations:
            features = each.features[labeled.rows]
            found[each.name] = [
                _of_number(features, labeled, number, material.settings) for number in NUMBERS
            ]
    return {
        "reason": None,
        "classes": list(labeled.classes),
        "repeats": REPEATS,
        "by_representation": found,
    }


def draw_sources(
    labeled: LabeledRows, number: int | None, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw rows of `number` sources per class to train on, and rows of other sources to judge.

    The class of a source is that of its first row.
    """
    names, first = np.unique(labeled.sources.astype(str), return_index=True)
    codes = labeled.codes[first]
    trained, judged = set(), set()
    for code in range(len(labeled.classes)):
        own = rng.permutation(names[codes == code])
        held = max(1, round(JUDGED_SHARE * len(own)))
        judged |= set(own[:held].tolist())
        rest = own[held:]
        trained |= set(rest[: len(rest) if number is None else number].tolist())
    sources = labeled.sources.astype(str)
    return (
        np.flatnonzero(np.isin(sources, list(trained))),
        np.flatnonzero(np.isin(sources, list(judged))),
    )


def _of_number(
    features: FloatArray, labeled: LabeledRows, number: int | None, settings: EvaluateConfig
) -> dict[str, Any]:
    scores: dict[str, list[float]] = {name: [] for name in PREDICTORS}
    most = 0
    for repeat in range(REPEATS):
        rng = np.random.default_rng(settings.seed + repeat)
        train, test = draw_sources(labeled, number, rng)
        codes = labeled.codes[train]
        most = max(most, *(len(set(labeled.sources[train][codes == c])) for c in np.unique(codes)))
        for name, predict in PREDICTORS.items():
            predicted = predict(features[train], codes, features[test], settings)
            truth = labeled.codes[test]
            recalls = [(predicted[truth == c] == c).mean() for c in np.unique(truth)]
            scores[name].append(float(np.mean(recalls)))
    row: dict[str, Any] = {"labels": number, "most_labels": most}
    for name, values in scores.items():
        row[f"{name}_balanced_accuracy"] = float(np.mean(values))
        row[f"{name}_balanced_accuracy_error"] = float(np.std(values, ddof=1) / np.sqrt(REPEATS))
    return row
