"""Measure how well clusters that were found without classes agree with the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture

from raypipe.config import EvaluateConfig
from raypipe.evaluation.validation import (
    FloatArray,
    IntArray,
    TextArray,
    grouped_folds,
    labeled_rows,
    on_one_scale,
    score_classes,
    unscored,
)

PUBLISHED_REFERENCE = "arXiv:2510.14102"
"""Pinciroli Vago, Martinez-Galarza & Amato (2025): published figures for real CSC sources."""

PUBLISHED_EIGHT_CLASSES = 0.40
"""Published balanced accuracy of clusters on eight classes."""

PUBLISHED_AGN_COMPACT = 0.69
"""Published balanced accuracy of clusters on AGN against stellar-mass compact objects."""

COMPACT_CLASSES = ("HMXB", "LMXB", "NS")
"""Stellar-mass compact objects: accreting binaries and neutron stars, not white dwarfs (CV)."""

ROWS_PER_COMPONENT = 10
"""Fewest rows per component of the mixture."""


def cluster_scores(
    features: FloatArray, classes: TextArray, sources: TextArray, config: EvaluateConfig
) -> dict[str, Any]:
    """Score clusters on all classes, and on AGN against stellar-mass compact objects.

    `features` (n, d), `classes` and `sources` (n,). The second task clusters the rows of its
    classes alone, as published.
    """
    compact = merge_compact(classes)
    rows = np.array([value is not None for value in compact], dtype=bool)
    return {
        "all_classes": score_clusters(features, classes, sources, config),
        "agn_compact": score_clusters(features[rows], compact[rows], sources[rows], config)
        | {"compact_classes": list(COMPACT_CLASSES)},
    }


def merge_compact(classes: TextArray) -> TextArray:
    """Replace each class by `AGN`, `compact` or None."""
    merged = np.full(len(classes), None, dtype=object)
    merged[classes == "AGN"] = "AGN"
    merged[np.isin(classes, np.array(COMPACT_CLASSES, dtype=object))] = "compact"
    return merged


def score_clusters(
    features: FloatArray, classes: TextArray, sources: TextArray, config: EvaluateConfig
) -> dict[str, Any]:
    """Compute the balanced accuracy of a Gaussian mixture whose clusters stand for classes.

    The mixture is fitted to the features of all rows (`on_one_scale`) without their classes. The
    class of each cluster is learned on some sources and judged on the others, in turn: a cluster
    stands for the class of which it has the largest share. A cluster without labeled rows stands
    for no class, and its rows count as wrong.
    """
    labeled = labeled_rows(classes, sources, config.folds)
    components = min(config.mixture_components, len(features) // ROWS_PER_COMPONENT)
    reason = labeled.reason
    if reason is None and components < 2:
        reason = f"fewer than {2 * ROWS_PER_COMPONENT} rows"
    section = {
        "components": None if reason else components,
        "classes": list(labeled.classes),
        "left_out": labeled.left_out,
        "n_rows": len(labeled.rows),
    }
    if reason:
        return section | unscored(reason)
    clusters = fit_clusters(features, components, config.seed)[labeled.rows]
    predicted = np.full(len(clusters), -1, dtype=np.int64)
    for train, test in grouped_folds(labeled.codes, labeled.sources, config.folds, config.seed):
        meaning = map_clusters(clusters[train], labeled.codes[train], components)
        predicted[test] = meaning[clusters[test]]
    return section | score_classes(
        labeled.codes, predicted, labeled.sources, labeled.classes, config.seed
    )


def fit_clusters(features: FloatArray, components: int, seed: int) -> IntArray:
    """Fit a Gaussian mixture and return the component of each row of `features` (n, d), (n,)."""
    scaled = on_one_scale(features)
    clusters: IntArray = fit_mixture(scaled, components, seed).predict(scaled)
    return clusters


def fit_mixture(scaled: FloatArray, components: int, seed: int) -> GaussianMixture:
    """Fit a Gaussian mixture to features on one scale (n, d), the best of three starts."""
    return GaussianMixture(components, n_init=3, reg_covar=1e-3, random_state=seed).fit(scaled)


def map_clusters(clusters: IntArray, codes: IntArray, components: int) -> IntArray:
    """Return the class that each cluster stands for, (components,); -1 for one without rows.

    The weight of a row is 1 / (rows of its class), so that a frequent class does not claim every
    cluster.
    """
    shares = np.zeros((components, int(codes.max()) + 1))
    np.add.at(shares, (clusters, codes), 1 / np.bincount(codes)[codes])
    meaning: IntArray = np.where(shares.sum(axis=1) > 0, shares.argmax(axis=1), -1)
    return meaning
