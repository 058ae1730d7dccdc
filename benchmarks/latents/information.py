"""Part `information`: train classifiers and regressors on a representation.

They are trained on the training detections and judged on the test detections, like the supervised
networks whose scores are the ceiling.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

from benchmarks.latents.networks import BATCH_ROWS, QUANTITIES, Supervised, Teacher, quantities
from benchmarks.latents.rivals import Latents, Rival
from benchmarks.latents.samples import Sample
from benchmarks.latents.surveys import Survey
from benchmarks.latents.table import Mask, scored
from raypipe.config import EvaluateConfig
from raypipe.evaluation.classification import BOOSTING, predict_knn
from raypipe.evaluation.regression import MIN_ROWS, r_squared
from raypipe.evaluation.validation import fitting_threads, labeled_rows, score_classes
from raypipe.model.features import prepare

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LONGER = BOOSTING | {"max_iter": 200}
"""Gradient boosting of `evaluate`, with more trees because there are ten times as many rows."""
SETTINGS = EvaluateConfig(neighbors=30)


def classes_of(survey: Survey) -> tuple[str, ...]:
    """Classes that are judged: those with enough sources among the judged detections."""
    judged = survey.judged
    return labeled_rows(judged.classes, judged.names, SETTINGS.folds).classes


def measure_information(rival: Rival) -> dict[str, Any]:
    """Scores of kNN and gradient boosting on a rival's features.

    For latents with errors, also of boosting on latents, errors and the log of the counts.
    """
    survey = rival.survey
    with fitting_threads(0):
        scores = _classify(survey, rival.trained, rival.judged)
        scores["r2"] = _regress(survey, rival.trained, rival.judged)
        if isinstance(rival, Latents) and np.isfinite(rival.explained.z_std).all():
            trained, judged = _with_errors(rival, survey.train), _with_errors(rival, survey.judged)
            with_errors = _classify(survey, trained, judged, ("boosting",))
            scores["boosting_with_errors"] = with_errors["boosting"]
    return scores


def measure_ceiling(teacher: Teacher) -> dict[str, Any]:
    """Scores of supervised networks on the full spectra, by the same measures."""
    survey = teacher.survey
    classes = classes_of(survey)
    classifier = teacher.classifier(classes)
    codes = _outputs(classifier, survey.judged).argmax(1)
    regressor, mean, width = teacher.regressor()
    predicted = _outputs(regressor, survey.judged) * width.numpy() + mean.numpy()
    known = quantities(survey.judged)
    return {
        "supervised": score_predictions(survey, codes),
        "r2": {
            name: {"supervised": _score_values(survey, known[:, i], predicted[:, i])}
            for i, name in enumerate(QUANTITIES)
        },
    }


def _with_errors(rival: Latents, sample: Sample) -> FloatArray:
    explained = rival.explained if sample is rival.survey.judged else rival.explain(sample)
    total = np.log10(np.maximum(sample.spectra.counts.sum(1), 1.0))
    return np.column_stack([explained.z, explained.z_std, total]).astype(np.float64)


def _classify(
    survey: Survey,
    trained: FloatArray,
    judged: FloatArray,
    names: tuple[str, ...] = ("knn", "boosting"),
) -> dict[str, Any]:
    classes = classes_of(survey)
    index = {name: code for code, name in enumerate(classes)}
    codes = np.array([index.get(name, -1) for name in survey.train.classes], dtype=np.int64)
    known = codes >= 0
    predict = {"knn": predict_knn, "boosting": _boost}
    return {
        name: score_predictions(
            survey, predict[name](trained[known], codes[known], judged, SETTINGS)
        )
        for name in names
    }


def _boost(
    features: FloatArray, codes: IntArray, new_features: FloatArray, settings: EvaluateConfig
) -> IntArray:
    model = HistGradientBoostingClassifier(
        class_weight="balanced", random_state=settings.seed, **LONGER
    )
    predicted: IntArray = model.fit(features, codes).predict(new_features)
    return predicted


def _regress(survey: Survey, trained: FloatArray, judged: FloatArray) -> dict[str, Any]:
    to_learn, to_find = quantities(survey.train), quantities(survey.judged)
    scores: dict[str, Any] = {}
    for i, name in enumerate(QUANTITIES):
        known = np.isfinite(to_learn[:, i])
        models = {
            "knn": KNeighborsRegressor(SETTINGS.neighbors, weights="distance"),
            "boosting": HistGradientBoostingRegressor(random_state=SETTINGS.seed, **LONGER),
        }
        scores[name] = {
            kind: _score_values(
                survey,
                to_find[:, i],
                model.fit(trained[known], to_learn[known, i]).predict(judged),
            )
            for kind, model in models.items()
        }
    return scores


def score_predictions(survey: Survey, predicted: IntArray) -> dict[str, Any]:
    """Balanced accuracy over the rows of `classes_of`, and by count decade over its classes."""
    judged, classes = survey.judged, classes_of(survey)
    index = {name: code for code, name in enumerate(classes)}
    codes = np.array([index.get(name, -1) for name in judged.classes], dtype=np.int64)

    def score(mask: Mask) -> tuple[float | None, float | None]:
        rows = mask & (codes >= 0)
        present = np.unique(codes[rows])
        if len(present) < 2:
            return None, None
        if len(present) < len(classes):
            right = predicted == codes
            return float(np.mean([right[rows & (codes == each)].mean() for each in present])), None
        scores = score_classes(
            codes[rows], predicted[rows], judged.names[rows], classes, SETTINGS.seed
        )
        return scores["balanced_accuracy"], scores["balanced_accuracy_error"]

    return scored(score, judged.source_counts, survey.in_range)


def _score_values(survey: Survey, values: FloatArray, predicted: FloatArray) -> dict[str, Any]:
    names = survey.judged.names

    def score(mask: Mask) -> tuple[float | None, float | None]:
        rows = mask & np.isfinite(values)
        if rows.sum() < MIN_ROWS:
            return None, None
        scores = r_squared(values[rows], predicted[rows], names[rows], SETTINGS.seed)
        return scores["r2"], scores["r2_error"]

    return scored(score, survey.judged.source_counts, survey.in_range)


@torch.no_grad()
def _outputs(network: Supervised, sample: Sample) -> FloatArray:
    batch = prepare(sample.spectra)
    rows = torch.arange(len(batch)).split(BATCH_ROWS)
    outputs: FloatArray = (
        torch.cat([network.outputs(batch.take(part)) for part in rows]).double().numpy()
    )
    return outputs
