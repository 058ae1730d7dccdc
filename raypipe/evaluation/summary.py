"""Write the origin of the metrics, and summarize the figures that matter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from raypipe.config import EvaluateConfig
from raypipe.evaluation.clustering import (
    PUBLISHED_AGN_COMPACT,
    PUBLISHED_EIGHT_CLASSES,
    PUBLISHED_REFERENCE,
)
from raypipe.evaluation.validation import sources_of
from raypipe.store.run_record import made_by

_NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Headline:
    """Hold a figure that matters: its name, its value as text, and a note that explains it."""

    label: str
    value: str
    note: str

    @property
    def is_measured(self) -> bool:
        """Return whether there is a value."""
        return self.value != _NOT_MEASURED


def describe_making(settings: EvaluateConfig) -> dict[str, Any]:
    """Return the versions and settings behind the metrics."""
    return made_by() | {"config": {"evaluate": settings.model_dump()}}


def describe_data(frame: pd.DataFrame, rows: str, why: str, labels: str | None) -> dict[str, Any]:
    """Describe the judged rows: selection, reason, number, labels and fingerprint."""
    classes = frame["class"].value_counts() if "class" in frame else pd.Series(dtype=np.int64)
    return {
        "rows": rows,
        "rows_reason": why,
        "n_rows": len(frame),
        "n_sources": len(set(sources_of(frame).tolist())),
        "labels": labels,
        "classes": {str(name): int(count) for name, count in sorted(classes.items())},
        "fingerprint": fingerprint(frame),
    }


COUNTS = ("total_counts", "counts_s", "counts_m", "counts_h")


def fingerprint(frame: pd.DataFrame) -> str:
    """Return a SHA-256 of detections: ids, sources, classes and counts, whatever their order.

    Ids alone do not identify detections: those of all simulated surveys are alike.
    """
    rows = pd.DataFrame({"id": frame["detection_id"].astype(str), "source": sources_of(frame)})
    if "class" in frame:
        rows["class"] = frame["class"].astype("string").fillna("")
    for name in COUNTS:
        if name in frame:
            rows[name] = frame[name].astype(np.float64)
    hashes = pd.util.hash_pandas_object(rows, index=False).to_numpy()
    return hashlib.sha256(np.sort(hashes).tobytes()).hexdigest()


def published() -> dict[str, Any]:
    """Return published figures of clusters in a latent space, for real CSC sources."""
    return {
        "reference": PUBLISHED_REFERENCE,
        "cluster_balanced_accuracy": PUBLISHED_EIGHT_CLASSES,
        "cluster_agn_compact_balanced_accuracy": PUBLISHED_AGN_COMPACT,
    }


def summarize(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the figures that matter, each with `value`, `error`, and a `reason` if it is None."""
    reconstruction = metrics["reconstruction"]
    classification = metrics["classification"]
    log_nh = metrics["regression"]["log_nh"]
    zscores = reconstruction["fit_zscore"]
    summary = {
        "excess_cash_per_bin": _figure(
            reconstruction["excess_cash_per_bin"],
            reconstruction["excess_cash_per_bin_error"],
            reconstruction["reason"],
        ),
        "divergence_per_bin": _figure(
            reconstruction["divergence_per_bin"], None, reconstruction["reason"]
        ),
        "fit_zscore_mean": _figure(zscores["mean"], None, "no fit"),
        "fit_zscore_width": _figure(zscores["width"], None, "fewer than two fits"),
    }
    for name in ("knn", "boosting"):
        scores = classification[name]
        summary[f"{name}_balanced_accuracy"] = _figure(
            scores["balanced_accuracy"], scores["balanced_accuracy_error"], scores["reason"]
        ) | {"n_classes": len(classification["classes"])}
    best = log_nh["boosting"]
    summary["r2_log_nh"] = _figure(best["r2"], best["r2_error"], log_nh["reason"])
    return summary


def headlines(metrics: Mapping[str, Any]) -> list[Headline]:
    """Format the three figures that matter, for the last lines of a run and for the report."""
    summary = summarize(metrics)
    return [_reconstruction_headline(summary), _class_headline(summary), _nh_headline(summary)]


def _figure(value: float | None, error: float | None, reason: str | None) -> dict[str, Any]:
    return {"value": value, "error": error, "reason": reason if value is None else None}


def _text(figure: Mapping[str, Any], digits: int, sign: str = "") -> str:
    if figure["value"] is None:
        return _NOT_MEASURED
    text = f"{figure['value']:{sign}.{digits}f}"
    return text if figure["error"] is None else f"{text} ± {figure['error']:.{digits}f}"


def _reconstruction_headline(summary: Mapping[str, Any]) -> Headline:
    excess = summary["excess_cash_per_bin"]
    if excess["value"] is not None:
        note = "the model's Cash statistic less that of the truth; below 0 if fits follow noise"
        divergence = summary["divergence_per_bin"]
        if divergence["value"] is not None:
            note += f". Free of noise, the divergence from the truth is {_text(divergence, 4)}"
        return Headline("Excess Cash per bin", _text(excess, 4, "+"), note)
    mean, width = summary["fit_zscore_mean"], summary["fit_zscore_width"]
    spread = width["reason"] or f"their width is {_text(width, 2)}"
    note = f"{spread}; mean 0 and width 1: spectra are explained to within their noise"
    return Headline("Mean of the Cash z-scores", _text(mean, 2, "+"), mean["reason"] or note)


def _class_headline(summary: Mapping[str, Any]) -> Headline:
    knn, boosting = summary["knn_balanced_accuracy"], summary["boosting_balanced_accuracy"]
    if knn["value"] is None:
        return Headline("Balanced accuracy", _text(knn, 3), knn["reason"])
    n_classes = knn["n_classes"]
    note = (
        f"nearest neighbors; gradient boosting {_text(boosting, 3)}; "
        f"a guess gives {1 / n_classes:.3f}"
    )
    return Headline(f"Balanced accuracy, {n_classes} classes", _text(knn, 3), note)


def _nh_headline(summary: Mapping[str, Any]) -> Headline:
    r2 = summary["r2_log_nh"]
    note = r2["reason"] or "gradient boosting; 1: column density fully determined, 0: not at all"
    return Headline("R² of log N_H", _text(r2, 3), note)
