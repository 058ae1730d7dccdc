"""Part `clusters`: measure how far clusters that are found without labels separate the classes.

Clusters are found among all detections of a survey, including those that networks were trained on:
clustering uses no labels, and real sources of the rare classes are few. Real classes have 14 to 350
sources; with only the judged half of them, the errors would be as large as the effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from benchmarks.latents.information import SETTINGS, classes_of
from benchmarks.latents.rivals import Rival
from benchmarks.latents.surveys import Survey
from benchmarks.latents.table import in_bins
from raypipe.evaluation.clustering import fit_mixture, map_clusters
from raypipe.evaluation.validation import (
    bootstrap_sums,
    fitting_threads,
    grouped_folds,
    on_one_scale,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

COMPONENTS = (8, 12, 16, 24, 32, 48)
"""Numbers of mixture components tried."""
MEANS = 48
"""Number of clusters of k-means, beside the mixtures."""
FITTED = 10_000
"""Detections that clusters are fitted to, drawn from those in range."""
STARTS = 3
"""Mixtures per number of components, with different seeds; scores are means over them."""


@dataclass(frozen=True)
class Everyone:
    """All detections of a survey.

    Codes of their classes (n,), -1 without one; their sources (n,); expected source counts (n,);
    and whether those are in the range of overall figures (n,).
    """

    classes: int
    codes: IntArray
    sources: npt.NDArray[np.object_]
    counts: FloatArray
    in_range: Mask

    @classmethod
    def of(cls, survey: Survey) -> Everyone:
        """Join the training detections and the judged ones."""
        samples, classes = (survey.train, survey.judged), classes_of(survey)
        index = {name: code for code, name in enumerate(classes)}
        names = np.concatenate([sample.classes for sample in samples])
        return cls(
            len(classes),
            np.array([index.get(name, -1) for name in names], dtype=np.int64),
            np.concatenate([sample.names for sample in samples]),
            np.concatenate([sample.source_counts for sample in samples]),
            np.concatenate([np.ones(len(survey.train), dtype=bool), survey.in_range]),
        )


def measure_clusters(rival: Rival) -> dict[str, Any]:
    """BIC and score of Gaussian mixtures with each number of components, and of k-means.

    The class of a cluster is learned from some sources and judged on the others, in turn, as in
    `evaluate`. Fainter detections are assigned to the clusters of the others.
    """
    everyone = Everyone.of(rival.survey)
    scaled = on_one_scale(np.concatenate([rival.trained, rival.judged]))
    in_range = np.flatnonzero(everyone.in_range)
    drawn = np.random.default_rng(SETTINGS.seed).permutation(in_range)[:FITTED]
    found = scaled[drawn]
    scores: dict[str, Any] = {"mixture": {}}
    with fitting_threads(0):
        for components in COMPONENTS:
            mixtures = [fit_mixture(found, components, seed) for seed in range(STARTS)]
            scores["mixture"][str(components)] = {
                "bic": float(np.mean([mixture.bic(found) for mixture in mixtures])),
                "score": _score(everyone, [each.predict(scaled) for each in mixtures], components),
            }
        means = [KMeans(MEANS, n_init=1, random_state=n).fit(found) for n in range(STARTS)]
        scores["means"] = _score(everyone, [each.predict(scaled) for each in means], MEANS)
    return scores


def choose_components(rivals: list[dict[str, Any]]) -> int:
    """Choose one number of components for all rivals: that with the lowest summed BIC."""
    total = {n: sum(each["mixture"][str(n)]["bic"] for each in rivals) for n in COMPONENTS}
    return min(total, key=lambda n: total[n])


def _score(everyone: Everyone, starts: list[IntArray], components: int) -> dict[str, Any]:
    """Balanced accuracy with its error, over all counts and by count decade.

    `draws` are the accuracies of bootstrap samples of the sources, the same samples for all rivals;
    values are means over the clusterings `starts`.
    """
    right = np.mean([_right(everyone, clusters, components) for clusters in starts], axis=0)
    rows = everyone.in_range & (everyone.codes >= 0)
    of_class = np.eye(everyone.classes)[everyone.codes[rows]]
    hits = of_class * right[rows, None]
    sums = bootstrap_sums(np.hstack([of_class, hits]), everyone.sources[rows], SETTINGS.seed)
    totals, hit = np.hsplit(sums, 2)
    with np.errstate(invalid="ignore"):
        draws = np.nanmean(hit / totals, axis=1)
    return {
        "value": _balanced(everyone, right, rows),
        "error": float(draws.std(ddof=1)),
        "by_counts": [_balanced(everyone, right, each) for each in in_bins(everyone.counts)],
        "draws": draws.tolist(),
    }


def _right(everyone: Everyone, clusters: IntArray, components: int) -> FloatArray:
    """One if a detection has the class of its cluster, else zero, (n,)."""
    rows = np.flatnonzero(everyone.codes >= 0)
    codes, sources = everyone.codes[rows], everyone.sources[rows]
    right = np.zeros(len(everyone.codes))
    for learn, judge in grouped_folds(codes, sources, SETTINGS.folds, SETTINGS.seed):
        learn = learn[everyone.in_range[rows[learn]]]
        meaning = map_clusters(clusters[rows[learn]], codes[learn], components)
        right[rows[judge]] = meaning[clusters[rows[judge]]] == codes[judge]
    return right


def _balanced(everyone: Everyone, right: FloatArray, mask: Mask) -> float | None:
    """Mean recall over the classes among some detections; None for fewer than two classes."""
    recalls = [
        right[mask & (everyone.codes == code)].mean()
        for code in np.unique(everyone.codes[mask & (everyone.codes >= 0)])
    ]
    return float(np.mean(recalls)) if len(recalls) > 1 else None
