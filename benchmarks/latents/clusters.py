"""Part `clusters`: how far classes fall into clusters that were found without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from benchmarks.latents.information import SETTINGS, classes_of, score_predictions
from benchmarks.latents.rivals import Rival
from benchmarks.latents.surveys import Survey
from raypipe.evaluation.clustering import fit_mixture, map_clusters
from raypipe.evaluation.validation import fitting_threads, grouped_folds, on_one_scale

IntArray = npt.NDArray[np.int64]

COMPONENTS = (4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of components tried."""
MEANS = 48
"""Clusters of k-means, beside the mixtures."""


def measure_clusters(rival: Rival) -> dict[str, Any]:
    """BIC and score of a Gaussian mixture of each number of components, and of k-means.

    Clusters are found among the test detections in range without their classes; what they stand
    for is learned from the classes of some sources and judged on the others, in turn, as `evaluate`
    does it. Fainter detections fall into the clusters of the others.
    """
    survey = rival.survey
    scaled = on_one_scale(rival.judged)
    found = scaled[survey.in_range]
    scores: dict[str, Any] = {"mixture": {}}
    with fitting_threads(0):
        for components in COMPONENTS:
            mixture = fit_mixture(found, components, SETTINGS.seed)
            scores["mixture"][str(components)] = {
                "bic": float(mixture.bic(found)),
                "score": _score(survey, mixture.predict(scaled), components),
            }
        means = KMeans(MEANS, n_init=3, random_state=SETTINGS.seed).fit(found)
        scores["means"] = _score(survey, means.predict(scaled), MEANS)
    return scores


def choose_components(rivals: list[dict[str, Any]]) -> int:
    """The number of components with the lowest BIC of all rivals together: one number for all."""
    total = {n: sum(each["mixture"][str(n)]["bic"] for each in rivals) for n in COMPONENTS}
    return min(total, key=lambda n: total[n])


def _score(survey: Survey, clusters: IntArray, components: int) -> dict[str, Any]:
    judged, classes = survey.judged, classes_of(survey)
    rows = np.flatnonzero(np.isin(judged.classes, np.array(classes, dtype=object)))
    index = {name: code for code, name in enumerate(classes)}
    codes = np.array([index[name] for name in judged.classes[rows]], dtype=np.int64)
    predicted = np.full(len(judged), -1, dtype=np.int64)
    for learn, judge in grouped_folds(codes, judged.names[rows], SETTINGS.folds, SETTINGS.seed):
        learn = learn[survey.in_range[rows[learn]]]
        meaning = map_clusters(clusters[rows[learn]], codes[learn], components)
        predicted[rows[judge]] = meaning[clusters[rows[judge]]]
    return score_predictions(survey, predicted)
