"""Ask how the main figures depend on counts, off-axis angle, response, epoch and background."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.evaluation.classification import cross_predict, predict_knn
from raypipe.evaluation.clustering import ROWS_PER_COMPONENT, fit_clusters, map_clusters
from raypipe.evaluation.questions.epochs import measure_recall
from raypipe.evaluation.questions.material import Material, numbers
from raypipe.evaluation.regression import (
    MIN_ROWS,
    cross_predict_values,
    r_squared,
    regression_targets,
)
from raypipe.evaluation.validation import (
    FloatArray,
    IntArray,
    LabeledRows,
    fitting_threads,
    grouped_folds,
    labeled_rows,
    score_classes,
)

COUNT_EDGES = (0, 20, 50, 158, 500, 1580, 5000, np.inf)
QUANTILES = (0.25, 0.5, 0.75)
FEWEST_OF_CLASS = 3
"""Fewest sources of a class in a slice for the class to count there."""

MOST_RESPONSES = 12
"""Most responses, each of which stands for a zone of a chip, that are slices of their own."""


@dataclass(frozen=True)
class Slice:
    """Hold the rows (n,) of one range of a condition."""

    label: str
    rows: npt.NDArray[np.bool_]


def measure_robustness(material: Material) -> dict[str, Any]:
    """Measure the main figures in slices of each condition, and find sources at other epochs.

    Predictions are those of the whole catalog, cross-validated; slices only choose which of them
    are judged. The figures are the balanced accuracy of kNN and of clusters, R2 of log N_H by
    boosting, and mean and width of the Cash z-scores. The accuracy in a slice is the mean over the
    classes that have at least `FEWEST_OF_CLASS` sources there; `classes` is the number of these,
    which matters when you compare slices. `same_source` is the recall of other detections of a
    source (`epochs.measure_recall`).
    """
    with fitting_threads(len(material.frame)):
        headlines = _headlines(material)
    by_condition = {
        name: [
            {"slice": each.label, "n_rows": int(each.rows.sum())}
            | {title: judge(each.rows) for title, judge in headlines.items()}
            for each in slices
        ]
        for name, slices in slices_of(material).items()
    }
    return {
        "reason": None,
        "by_condition": by_condition,
        "same_source": measure_recall(material),
    }


def slices_of(material: Material) -> dict[str, list[Slice]]:
    """Divide the rows by counts, off-axis angle, response, epoch and share of background.

    Counts have fixed ranges, the other numbers are divided into quarters; a condition for which the
    catalog has no column is left out.
    """
    frame = material.frame
    counts = numbers(frame, "total_counts")
    found = {} if counts is None else {"counts": _ranges(counts, COUNT_EDGES, "{:g}-{:g}")}
    off_axis = numbers(frame, "off_axis_arcmin")
    off_axis = numbers(frame, "theta") if off_axis is None else off_axis
    mjd = numbers(frame, "mjd_start")
    shares = background_shares(material)
    for name, values in (
        ("off-axis angle, arcmin", off_axis),
        ("epoch, MJD", mjd),
        ("background share", shares),
    ):
        if values is not None and np.nanmax(values) > np.nanmin(values):
            edges = (-np.inf, *np.nanquantile(values, QUANTILES), np.inf)
            found[name] = _ranges(values, edges, "{:.3g} to {:.3g}")
    if "rmf_id" in frame and frame["rmf_id"].notna().any():
        common = frame["rmf_id"].value_counts().index[:MOST_RESPONSES]
        found["response"] = [
            Slice(str(each)[:12], (frame["rmf_id"] == each).to_numpy(dtype=bool)) for each in common
        ]
    return {name: slices for name, slices in found.items() if len(slices) > 1}


def background_shares(material: Material) -> FloatArray | None:
    """Return the expected share of background among the counts, (n,); None if unknown."""
    names = ("counts_b", "background_counts_b", "background_scale")
    columns = [numbers(material.frame, name) for name in names]
    if any(each is None for each in columns):
        return None
    counts, background, scale = (np.asarray(each) for each in columns)
    return np.asarray(np.clip(background * scale / np.maximum(counts, 1.0), 0.0, 1.0))


def _ranges(values: FloatArray, edges: tuple[float, ...], form: str) -> list[Slice]:
    found = []
    for low, high in itertools.pairwise(edges):
        rows = (values >= low) & (values < high)
        if rows.any():
            label = form.format(low, high)
            if np.isinf(low):
                label = f"below {high:.3g}"
            elif np.isinf(high):
                label = f"{low:,.0f} and above" if low >= 1000 else f"{low:.3g} and above"
            found.append(Slice(label, rows))
    return found


Judge = Callable[[npt.NDArray[np.bool_]], Mapping[str, Any] | None]


def _headlines(material: Material) -> dict[str, Judge]:
    judges: dict[str, Judge] = {}
    labeled = labeled_rows(material.classes, material.sources, material.settings.folds)
    if labeled.reason is None:
        kept = material.latents[labeled.rows]
        by_knn = cross_predict(predict_knn, kept, labeled, material.settings)
        judges["knn"] = _class_judge(labeled, by_knn, material)
        judges["clusters"] = _class_judge(labeled, _by_clusters(material, labeled), material)
    log_nh = regression_targets(material.frame)["log_nh"]
    if log_nh is not None and np.isfinite(log_nh.values).sum() >= MIN_ROWS:
        known = np.flatnonzero(np.isfinite(log_nh.values))
        values, sources = log_nh.values[known], material.sources[known]
        predicted = cross_predict_values(
            material.latents[known], values, sources, material.settings
        )["boosting"]

        def judge_nh(rows: npt.NDArray[np.bool_]) -> Mapping[str, Any] | None:
            here = rows[known]
            if here.sum() < MIN_ROWS:
                return None
            seed = material.settings.seed
            found = r_squared(values[here], predicted[here], sources[here], seed)
            return {"value": found["r2"], "error": found["r2_error"]}

        judges["r2_log_nh"] = judge_nh
    zscores = numbers(material.frame, "fit_zscore")
    if zscores is not None:

        def judge_fit(rows: npt.NDArray[np.bool_]) -> Mapping[str, Any] | None:
            here = zscores[rows & np.isfinite(zscores)]
            if len(here) < MIN_ROWS:
                return None
            error = float(here.std(ddof=1) / np.sqrt(len(here)))
            return {"value": float(here.mean()), "error": error, "width": float(here.std(ddof=1))}

        judges["fit_zscore"] = judge_fit
    return judges


def _by_clusters(material: Material, labeled: LabeledRows) -> IntArray:
    settings = material.settings
    most = max(1, len(material.latents) // ROWS_PER_COMPONENT)
    components = min(settings.mixture_components, most)
    clusters = fit_clusters(material.latents, components, settings.seed)[labeled.rows]
    predicted = np.full(len(clusters), -1, dtype=np.int64)
    for train, test in grouped_folds(labeled.codes, labeled.sources, settings.folds, settings.seed):
        meaning = map_clusters(clusters[train], labeled.codes[train], components)
        predicted[test] = meaning[clusters[test]]
    return predicted


def _class_judge(labeled: LabeledRows, predicted: IntArray, material: Material) -> Judge:
    def judge(rows: npt.NDArray[np.bool_]) -> Mapping[str, Any] | None:
        here = np.flatnonzero(rows[labeled.rows])
        codes, sources = labeled.codes[here], labeled.sources[here]
        enough = [
            code
            for code in np.unique(codes)
            if len(set(sources[codes == code].tolist())) >= FEWEST_OF_CLASS
        ]
        if len(enough) < 2:
            return None
        kept = np.isin(codes, enough)
        names = tuple(labeled.classes[code] for code in enough)
        new_code = np.full(len(labeled.classes) + 1, -1)
        new_code[enough] = np.arange(len(enough))
        scores = score_classes(
            new_code[codes[kept]],
            new_code[predicted[here][kept]],
            sources[kept],
            names,
            material.settings.seed,
        )
        return {
            "value": scores["balanced_accuracy"],
            "error": scores["balanced_accuracy_error"],
            "classes": len(names),
        }

    return judge
