"""Make representations to compare with, and the rows of the table that compares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from raypipe.catalog.hardness import HARDNESS_PAIRS, hardness_ratios
from raypipe.config import EvaluateConfig
from raypipe.evaluation.classification import classify
from raypipe.evaluation.clustering import (
    PUBLISHED_AGN_COMPACT,
    PUBLISHED_EIGHT_CLASSES,
    PUBLISHED_REFERENCE,
    cluster_scores,
)
from raypipe.evaluation.regression import Target, regress
from raypipe.evaluation.selection import HELD_OUT, BinnedSpectra, latents_of
from raypipe.evaluation.validation import FloatArray, TextArray, fitting_threads

PCA_COMPONENTS = 8
"""Components of the PCA baselines: the default number of latents of a model."""

MIN_PCA_ROWS = 50
"""Fewest spectra for a PCA."""

CLASSIFIERS = ("knn", "boosting")
R2_TARGETS = ("log_nh", "photon_index", "log_kt", *HARDNESS_PAIRS)


@dataclass(frozen=True)
class Representation:
    """Hold numbers that represent spectra: `features` (n, d), with their name and origin.

    `kind` is "model", "pca" or "hardness"; `note` has what a reader must know to compare them.
    """

    name: str
    kind: str
    features: FloatArray
    model_id: str | None = None
    preset: str | None = None
    note: str = ""


def min_max_rates(spectra: BinnedSpectra) -> FloatArray:
    """Scale the net count rates of each spectrum to 0-1, (n, bins); the exposure cancels."""
    net = (spectra.counts - spectra.background).astype(np.float64)
    low = net.min(axis=1, keepdims=True)
    span = np.maximum(net.max(axis=1, keepdims=True) - low, 1e-12)
    rates: FloatArray = (net - low) / span
    return rates


def root_shares(spectra: BinnedSpectra) -> FloatArray:
    """Return the square root of the share of the counts in each bin, (n, bins)."""
    counts = spectra.counts.astype(np.float64)
    shares: FloatArray = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0))
    return shares


def pca_representations(
    spectra: BinnedSpectra, fitted_to: BinnedSpectra | None, seed: int
) -> list[Representation]:
    """Compute a PCA of two scalings of the spectra.

    It is fitted to `fitted_to`, the training spectra of the model, if they are given, else to the
    judged spectra. Neither uses classes or quantities, but the latter favors the baseline.
    """
    training = spectra if fitted_to is None else fitted_to
    note = "fitted to the judged spectra" if fitted_to is None else "fitted to training spectra"
    representations = []
    for name, scale in (("min-max rates", min_max_rates), ("sqrt shares", root_shares)):
        pca = PCA(PCA_COMPONENTS, random_state=seed).fit(scale(training))
        features = pca.transform(scale(spectra))
        label = f"PCA-{PCA_COMPONENTS} of {name}"
        representations.append(Representation(label, "pca", features, note=note))
    return representations


def model_representation(frame: pd.DataFrame, model_id: str, preset: str | None) -> Representation:
    """Return the latents of a catalog's rows; the note counts rows that the model has seen."""
    note = ""
    if "split" in frame:
        seen = int((~frame["split"].isin(HELD_OUT)).sum())
        note = f"{seen} of the detections are of sources it was trained on" if seen else ""
    name = f"latents ({preset or model_id})"
    return Representation(name, "model", latents_of(frame), model_id, preset, note)


def hardness_representation(frame: pd.DataFrame) -> Representation:
    """Return the three hardness ratios, 0 if a ratio has no counts."""
    features = np.nan_to_num(hardness_ratios(frame).to_numpy())
    return Representation("hardness ratios", "hardness", features)


FIT_COLUMNS = (
    ("powlaw_gamma", False),
    ("powlaw_nh", True),
    ("bb_kt", True),
    ("bb_nh", True),
    ("brems_kt", True),
    ("brems_nh", True),
)
"""Columns of the CSC's spectral fits, as raypipe names its own, and whether to take logarithms."""

CSC_FLUXES = tuple(f"obs_flux_aper90_{band}" for band in "smh")


def fits_representation(frame: pd.DataFrame) -> Representation | None:
    """Return the parameters of the catalog's own physical fits; None if it has none of them."""
    columns = _fit_columns(frame)
    if not columns:
        return None
    return Representation("physical fits", "fits", _completed(columns), note=_missing(columns))


def csc_representation(real: pd.DataFrame) -> Representation | None:
    """Return flux ratios and fits of the real detections' own columns; None if none is there."""
    columns = _fit_columns(real)
    if all(name in real for name in CSC_FLUXES):
        soft, medium, hard = (_numeric(real, name) for name in CSC_FLUXES)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns += [
                (medium - soft) / (medium + soft),
                (hard - medium) / (hard + medium),
                (hard - soft) / (hard + soft),
            ]
    if not columns:
        return None
    return Representation("CSC columns", "csc", _completed(columns), note=_missing(columns))


def _numeric(frame: pd.DataFrame, name: str) -> FloatArray:
    column = pd.to_numeric(frame[name], errors="coerce")
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _fit_columns(frame: pd.DataFrame) -> list[FloatArray]:
    columns = []
    for name, is_logarithmic in FIT_COLUMNS:
        if name in frame and frame[name].notna().any():
            values = _numeric(frame, name)
            columns.append(np.log10(np.maximum(values, 1e-4)) if is_logarithmic else values)
    return columns


def _completed(columns: list[FloatArray]) -> FloatArray:
    """Put columns beside each other, each of unit variance, with its median for what is missing."""
    filled = [
        np.where(np.isfinite(each), each, np.nanmedian(each[np.isfinite(each)])) for each in columns
    ]
    return np.column_stack([each / max(float(each.std()), 1e-12) for each in filled])


def _missing(columns: list[FloatArray]) -> str:
    share = np.mean([~np.isfinite(each) for each in columns])
    return f"{share:.0%} of the values are missing: medians stand for them" if share else ""


def score_representation(
    representation: Representation,
    classes: TextArray,
    targets: dict[str, Target | None],
    sources: TextArray,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Score clusters, classes and quantities of one representation, all on the same rows."""
    features = representation.features
    with fitting_threads(len(features)):
        return {
            "clustering": cluster_scores(features, classes, sources, config),
            "classification": classify(features, classes, sources, config),
            "regression": regress(features, targets, sources, config),
        }


def comparison_row(
    representation: Representation,
    scores: dict[str, Any],
    reconstruction: dict[str, Any] | None,
) -> dict[str, Any]:
    """Make a row of the comparison table; figures that were not measured are None.

    Keys: `representation`, `kind`, `model_id`, `preset`, `dimensions`, `note`; `cash_per_bin`,
    `excess_cash_per_bin`, `divergence_per_bin`; `cluster_balanced_accuracy`,
    `cluster_agn_compact_balanced_accuracy`, `knn_balanced_accuracy`,
    `boosting_balanced_accuracy`, each with `_error`; `r2_<quantity>` with `_error`, by boosting
    (of hardness ratios not for themselves).
    """
    row: dict[str, Any] = {
        "representation": representation.name,
        "kind": representation.kind,
        "model_id": representation.model_id,
        "preset": representation.preset,
        "dimensions": representation.features.shape[1],
        "note": representation.note,
    }
    for key in ("cash_per_bin", "excess_cash_per_bin", "divergence_per_bin"):
        row[key] = None if reconstruction is None else reconstruction[key]
    clustering = scores["clustering"]
    for name, task in (("cluster", "all_classes"), ("cluster_agn_compact", "agn_compact")):
        _put(row, f"{name}_balanced_accuracy", clustering[task], "balanced_accuracy")
    for name in CLASSIFIERS:
        _put(row, f"{name}_balanced_accuracy", scores["classification"][name], "balanced_accuracy")
    own = set(HARDNESS_PAIRS) if representation.kind == "hardness" else set()
    for name in R2_TARGETS:
        if name not in own:
            _put(row, f"r2_{name}", scores["regression"][name]["boosting"], "r2")
    return row


def published_row() -> dict[str, Any]:
    """Make a row of the comparison table from published figures, which are of other data."""
    return {
        "representation": f"published ({PUBLISHED_REFERENCE})",
        "kind": "published",
        "model_id": None,
        "preset": None,
        "dimensions": 8,
        "note": "real CSC sources: another sample than the rows above",
        "cluster_balanced_accuracy": PUBLISHED_EIGHT_CLASSES,
        "cluster_agn_compact_balanced_accuracy": PUBLISHED_AGN_COMPACT,
    }


def _put(row: dict[str, Any], name: str, scores: dict[str, Any], key: str) -> None:
    row[name] = scores[key]
    row[f"{name}_error"] = scores[f"{key}_error"]
