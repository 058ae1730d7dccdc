"""Ask how well clusters that were found without classes agree with classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

from raypipe.config import EvaluateConfig
from raypipe.evaluation.baselines import root_shares
from raypipe.evaluation.clustering import (
    COMPACT_CLASSES,
    ROWS_PER_COMPONENT,
    fit_clusters,
    map_clusters,
    merge_compact,
)
from raypipe.evaluation.questions.material import Material, unmeasured
from raypipe.evaluation.questions.supervised import predict_classes
from raypipe.evaluation.validation import (
    FloatArray,
    IntArray,
    LabeledRows,
    TextArray,
    bootstrap_sums,
    fitting_threads,
    grouped_folds,
    labeled_rows,
    score_classes,
)

SPLITS = 20
"""Divisions of the sources in halves. Each half maps clusters to classes for the other."""


def measure_clusters(material: Material) -> dict[str, Any]:
    """Score the clusters of every representation on all classes, and on AGN against compact ones.

    A Gaussian mixture of `components` is fitted to all rows without their classes (for the second
    task, as published, only to the rows of these classes). The answer has the figures of
    `judge_halves` by representation and task. `supervised` is the balanced accuracy of a network
    that was trained on whole spectra with their classes (`supervised.predict_classes`); None
    without spectra.
    """
    if not any(isinstance(each, str) for each in material.classes):
        return unmeasured("no row has a class")
    compact = merge_compact(material.classes)
    rows = np.array([each is not None for each in compact], dtype=bool)
    found: dict[str, Any] = {}
    with fitting_threads(len(material.frame)):
        for each in material.representations:
            features, sources = each.features, material.sources
            found[each.name] = {
                "all_classes": _judge(features, material.classes, sources, material.settings),
                "agn_compact": _judge(
                    features[rows], compact[rows], sources[rows], material.settings
                ),
            }
        supervised = _supervised(material)
    return {
        "reason": None,
        "supervised": supervised,
        "splits": SPLITS,
        "compact_classes": list(COMPACT_CLASSES),
        "by_representation": found,
    }


def _supervised(material: Material) -> dict[str, Any] | None:
    labeled = labeled_rows(material.classes, material.sources, material.settings.folds)
    if material.spectra is None or labeled.reason:
        return None
    spectra = root_shares(material.spectra)[labeled.rows]
    scores = score_classes(
        labeled.codes,
        predict_classes(spectra, labeled, material.settings),
        labeled.sources,
        labeled.classes,
        material.settings.seed,
    )
    kept = ("balanced_accuracy", "balanced_accuracy_error", "recall")
    return {name: scores[name] for name in kept}


def _judge(
    features: FloatArray, classes: TextArray, sources: TextArray, settings: EvaluateConfig
) -> dict[str, Any]:
    labeled = labeled_rows(classes, sources, settings.folds)
    components = min(settings.mixture_components, len(features) // ROWS_PER_COMPONENT)
    if labeled.reason or components < 2:
        return unmeasured(labeled.reason or "too few rows for two clusters")
    clusters = fit_clusters(features, components, settings.seed)[labeled.rows]
    return {"reason": None, "components": components} | judge_halves(
        clusters, labeled, components, settings.seed
    )


def judge_halves(
    clusters: IntArray, labeled: LabeledRows, components: int, seed: int
) -> dict[str, Any]:
    """Map clusters (n,) to classes on one half of the sources, and judge them on the other.

    Figures are means over `SPLITS` divisions, with either half as the judged one.
    `balanced_accuracy` has its error over resampled sources (`_error`), and its spread over
    divisions divided by the root of their number (`_split_error`). By class, `completeness` is the
    share of the class that is found, with its error, and `purity` is the share of the rows assigned
    to the class that belong to it, if all classes had equally many rows.
    `adjusted_mutual_information` of clusters and classes needs no mapping.
    """
    n_classes = len(labeled.classes)
    # votes[i, c]: how often row i was said to be of class c. Unmapped clusters vote for none.
    votes = np.zeros((len(clusters), n_classes))
    accuracies = []
    for split in range(SPLITS):
        predicted = np.full(len(clusters), -1, dtype=np.int64)
        for train, test in grouped_folds(labeled.codes, labeled.sources, 2, seed + split):
            meaning = map_clusters(clusters[train], labeled.codes[train], components)
            predicted[test] = meaning[clusters[test]]
        said = predicted >= 0
        votes[said, predicted[said]] += 1 / SPLITS
        right = predicted == labeled.codes
        accuracies.append(np.mean([right[labeled.codes == c].mean() for c in range(n_classes)]))
    of_class = np.eye(n_classes)[labeled.codes]
    hits = of_class * votes[np.arange(len(votes)), labeled.codes][:, None]
    sums = bootstrap_sums(np.hstack([of_class, hits]), labeled.sources, seed)
    members, found = np.hsplit(sums, 2)
    with np.errstate(invalid="ignore"):
        resampled = found / members
    # Confusion with rows of true classes: shares, so that each class has the same weight.
    shares = (of_class.T @ votes) / of_class.sum(axis=0)[:, None]
    said = shares.sum(axis=0)
    return {
        "balanced_accuracy": float(np.diag(shares).mean()),
        "balanced_accuracy_error": float(np.nanmean(resampled, axis=1).std(ddof=1)),
        "balanced_accuracy_split_error": float(np.std(accuracies, ddof=1) / np.sqrt(SPLITS)),
        "adjusted_mutual_information": float(adjusted_mutual_info_score(labeled.codes, clusters)),
        "by_class": {
            name: {
                "n_sources": len(set(labeled.sources[labeled.codes == c].tolist())),
                "completeness": float(shares[c, c]),
                "completeness_error": float(np.nanstd(resampled[:, c], ddof=1)),
                "purity": float(shares[c, c] / said[c]) if said[c] else None,
            }
            for c, name in enumerate(labeled.classes)
        },
        "left_out": labeled.left_out,
    }
