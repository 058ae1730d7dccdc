"""Measure how well a representation predicts column density, slope, temperature and hardness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

from raypipe.catalog.hardness import HARDNESS_PAIRS, hardness_ratios, has_band_counts
from raypipe.config import EvaluateConfig
from raypipe.evaluation.classification import BOOSTING
from raypipe.evaluation.validation import (
    FloatArray,
    IntArray,
    TextArray,
    bootstrap_sums,
    grouped_folds,
)

MIN_ROWS = 50
"""Fewest rows with a value for which a coefficient of determination is computed."""

CSC_NH_UNIT_LOG_CM2 = 20.0
"""The CSC's `powlaw_nh` is in 1e20 cm^-2."""


@dataclass(frozen=True)
class Target:
    """Hold a quantity to predict: its values (n,), NaN if unknown, and their definition."""

    values: FloatArray
    definition: str


def regression_targets(frame: pd.DataFrame) -> dict[str, Target | None]:
    """Collect the quantities to predict, None for those without a column of numbers.

    `log_nh` (log10 cm^-2) and `photon_index` come from the simulator's truth, else from the CSC's
    power-law fits; `log_kt` (log10 keV) from `kt_kev`; hardness ratios from the counts.
    """
    targets: dict[str, Target | None] = {
        "log_nh": _column(frame, "log_nh"),
        "photon_index": _column(frame, "photon_index") or _column(frame, "powlaw_gamma"),
        "log_kt": _logarithm(frame, "kt_kev", 0.0, "log10(kt_kev)"),
    }
    if targets["log_nh"] is None:
        targets["log_nh"] = _logarithm(
            frame, "powlaw_nh", CSC_NH_UNIT_LOG_CM2, "20 + log10(powlaw_nh)"
        )
    ratios = hardness_ratios(frame) if has_band_counts(frame) else None
    for name, (harder, softer) in HARDNESS_PAIRS.items():
        definition = f"({harder} - {softer}) / ({harder} + {softer}) of net counts"
        values = None if ratios is None else ratios[name].to_numpy()
        targets[name] = None if values is None else Target(values, definition)
    return targets


def regress(
    features: FloatArray,
    targets: dict[str, Target | None],
    sources: TextArray,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Cross-validate predictions of each target by kNN and gradient boosting.

    `features` (n, d), `sources` (n,). The entry of a target has `knn` and `boosting`, each with the
    coefficient of determination `r2` and `r2_error`, and the `reason` if it could not be measured.
    """
    return {
        name: _regress_one(features, target, sources, config) for name, target in targets.items()
    }


def r_squared(
    values: FloatArray, predicted: FloatArray, sources: TextArray, seed: int
) -> dict[str, float]:
    """Compute R², 1 - (residual / total sum of squares), with its error over resampled sources."""
    # The total sum of squares of each resampling follows from its moments: sum v^2 - (sum v)^2 / n.
    centered = values - values.mean()
    residual = (values - predicted) ** 2
    moments = np.column_stack([np.ones(len(values)), centered, centered**2, residual])
    rows, first, second, residuals = bootstrap_sums(moments, sources, seed).T
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = 1 - residuals / (second - first**2 / rows)
    resampled = resampled[np.isfinite(resampled)]
    return {
        "r2": float(1 - residual.sum() / (centered**2).sum()),
        "r2_error": float(resampled.std(ddof=1)),
    }


def _regress_one(
    features: FloatArray, target: Target | None, sources: TextArray, config: EvaluateConfig
) -> dict[str, Any]:
    unmeasured: dict[str, Any] = {"r2": None, "r2_error": None}
    rows = (
        np.array([], dtype=np.int64)
        if target is None
        else np.flatnonzero(np.isfinite(target.values))
    )
    section: dict[str, Any] = {
        "target": None if target is None else target.definition,
        "n_rows": len(rows),
        "n_sources": len(set(sources[rows].tolist())),
        "reason": None,
    }
    if target is None:
        section["reason"] = "no such column in the catalog or the labels"
    elif len(rows) < MIN_ROWS or section["n_sources"] < config.folds:
        section["reason"] = f"only {len(rows)} rows have a value; at least {MIN_ROWS} are needed"
    elif np.ptp(target.values[rows]) == 0:
        section["reason"] = "all rows have the same value"
    if target is None or section["reason"]:
        return section | {"knn": unmeasured, "boosting": unmeasured}
    values = target.values[rows]
    predictions = cross_predict_values(features[rows], values, sources[rows], config)
    return section | {
        name: r_squared(values, predicted, sources[rows], config.seed)
        for name, predicted in predictions.items()
    }


def value_folds(
    values: FloatArray, sources: TextArray, config: EvaluateConfig
) -> list[tuple[IntArray, IntArray]]:
    """Return folds that are stratified by quintile, so that each has values of the whole range."""
    quintile = np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values)
    return grouped_folds(quintile, sources, config.folds, config.seed)


def cross_predict_values(
    features: FloatArray, values: FloatArray, sources: TextArray, config: EvaluateConfig
) -> dict[str, FloatArray]:
    """Predict the value of each row by kNN and boosting on other sources, (n,) each."""
    predictions = {"knn": np.empty(len(values)), "boosting": np.empty(len(values))}
    for train, test in value_folds(values, sources, config):
        neighbors = KNeighborsRegressor(min(config.neighbors, len(train)), weights="distance")
        models = {
            "knn": neighbors,
            "boosting": HistGradientBoostingRegressor(random_state=config.seed, **BOOSTING),
        }
        for name, model in models.items():
            predictions[name][test] = model.fit(features[train], values[train]).predict(
                features[test]
            )
    return predictions


def _column(frame: pd.DataFrame, name: str) -> Target | None:
    if name not in frame or not frame[name].notna().any():
        return None
    if not pd.api.types.is_numeric_dtype(frame[name]):
        return None
    return Target(frame[name].to_numpy(dtype=np.float64), name)


def _logarithm(frame: pd.DataFrame, name: str, offset: float, definition: str) -> Target | None:
    column = _column(frame, name)
    if column is None:
        return None
    positive = np.where(column.values > 0, column.values, np.nan)
    return Target(offset + np.log10(positive), definition)
