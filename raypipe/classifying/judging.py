"""Measure a classifier on the labels of a catalog, and give its headline figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.classifying.classifier import Classifier
from raypipe.classifying.features import Features
from raypipe.classifying.material import Material, rows_of
from raypipe.classifying.measure import (
    Judged,
    judged_by_others,
    judged_directly,
    measure,
    measure_left_out,
    score_votes,
)
from raypipe.classifying.training import LabeledRows, Trained, raw_of_sources
from raypipe.config import ClassifyConfig


def measure_trained(
    material: Material, trained: Trained, labeled: LabeledRows, settings: ClassifyConfig
) -> dict[str, Any]:
    """Measure a classifier on its labeled sources, each judged by a forest without it."""
    keys, codes, used = material.keys[labeled.rows], labeled.codes, trained.classifier
    whole, row = raw_of_sources(trained.raw, keys)
    return {
        "judged": "labeled sources, each without itself",
        "left_out_classes": labeled.left_out,
        "detections": _measured(
            judged_by_others(trained.raw, codes, keys, trained.fold), used, settings
        ),
        "sources": _measured(
            judged_by_others(whole, codes[row], keys[row], trained.fold[row]), used, settings
        ),
        "neighbor_votes": _score_neighbors(material, labeled, used, settings),
        "unseen_class": measure_left_out(
            trained.features,
            material.z[labeled.rows],
            codes,
            keys,
            trained.fold,
            used.classes,
            unlike_p=settings.unlike_p,
            seed=settings.seed,
        ),
    }


def measure_applied(
    material: Material,
    features: Features,
    used: Classifier,
    labeled: LabeledRows | None,
    settings: ClassifyConfig,
) -> dict[str, Any]:
    """Measure a classifier from elsewhere on labeled sources that it was not trained on."""
    rows, codes = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if labeled is not None:
        is_new = used.folds_of(material.keys[labeled.rows]) < 0
        rows, codes = labeled.rows[is_new], labeled.codes[is_new]
    if not len(rows):
        return {"judged": "nothing: no labeled source is new to the classifier"}
    keys = material.keys[rows]
    raw = used.raw(rows_of(features, rows), material.z[rows], keys)
    whole, row = raw_of_sources(raw, keys)
    new = LabeledRows(rows, codes, used.classes, {})
    return {
        "judged": "labeled sources that are new to the classifier",
        "detections": _measured(judged_directly(used.detections, raw, codes, keys), used, settings),
        "sources": _measured(
            judged_directly(used.sources, whole, codes[row], keys[row]), used, settings
        ),
        "neighbor_votes": _score_neighbors(material, new, used, settings),
    }


def _measured(judged: Judged, used: Classifier, settings: ClassifyConfig) -> dict[str, Any]:
    return measure(
        judged,
        used.classes,
        coverage=settings.coverage,
        unlike_p=settings.unlike_p,
        seed=settings.seed,
    )


def _score_neighbors(
    material: Material, labeled: LabeledRows, used: Classifier, settings: ClassifyConfig
) -> dict[str, Any]:
    """Score the votes of neighbors, which the catalog has, on the same rows as a baseline."""
    names = [f"p_{name}" for name in used.classes]
    if missing := sorted(set(names).difference(material.votes.column_names)):
        return {"reason": f"the model of the catalog knows no {', '.join(missing)}"}
    votes = material.votes.select(names).to_pandas().to_numpy(dtype=np.float64)[labeled.rows]
    return score_votes(
        np.nan_to_num(votes), labeled.codes, material.keys[labeled.rows], settings.seed
    )


def headlines(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a classification that a user reads first, by name."""
    lines: dict[str, Any] = {
        "classifier": metrics["classifier"],
        "detections": metrics["classified"]["detections"],
        "sources": metrics["classified"]["sources"],
        "unlike all labeled sources": metrics["classified"]["sources_unlike"],
        "judged on": metrics["judged"],
    }
    if (found := metrics.get("sources")) is None:
        return lines
    return lines | {
        "balanced accuracy, sources": _with_error(found, "balanced_accuracy"),
        "balanced accuracy, detections": _with_error(metrics["detections"], "balanced_accuracy"),
        "calibration error, sources": _with_error(found, "ece"),
        f"coverage of sets, sources ({found['coverage_wanted']:.0%} wanted)": (
            f"{found['coverage']:.3f}"
        ),
    }


def count_unlike(table: pa.Table) -> int:
    """Count the rows that are unlike all labeled sources."""
    return int(pc.sum(table["class_unlike"]).as_py() or 0)


def _with_error(found: Mapping[str, Any], name: str) -> str:
    return f"{found[name]:.3f} +- {found[f'{name}_error']:.3f}"
