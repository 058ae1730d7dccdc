"""Ask how well physical quantities follow from latents, from posterior draws and from rivals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from raypipe.config import EvaluateConfig
from raypipe.evaluation.baselines import root_shares
from raypipe.evaluation.questions.material import Material, unmeasured
from raypipe.evaluation.questions.supervised import SUPERVISED, predict_values
from raypipe.evaluation.regression import (
    MIN_ROWS,
    cross_predict_values,
    r_squared,
    regression_targets,
    value_folds,
)
from raypipe.evaluation.validation import (
    FloatArray,
    TextArray,
    bootstrap_sums,
    fitting_threads,
    limit,
)

MOST_ROWS = 20_000
"""Most rows with a value: errors are then some 0.003 in R2, and more rows only take time."""

DRAWS = 8
"""Draws from the posterior of each detection."""

POSTERIOR = "posterior draws"


def measure_quantities(material: Material) -> dict[str, Any]:
    """Regress hardness ratios, log N_H, photon index and log kT on every representation.

    Each of `quantities` has `definition`, `n_rows` (the number of rows with a value, of which at
    most `MOST_ROWS` are drawn and judged) and `by_representation`. There, `r2` and `mae` have
    errors over resampled sources; they are those of boosting for representations, and of a network
    on whole spectra for `SUPERVISED`. Latents and posterior draws also have `pulls` of predictions
    by nearest neighbors: mean and width of (true - predicted) / spread, and the shares within 1 and
    2 spreads, which are 0.68 and 0.95 if the spread of the neighbors' values is a good error.
    """
    targets = {
        name: target for name, target in regression_targets(material.frame).items() if target
    }
    if not targets:
        return unmeasured("neither labels nor the catalog have a quantity to predict")
    quantities: dict[str, Any] = {}
    with fitting_threads(len(material.frame)):
        for name, target in targets.items():
            known = np.isfinite(target.values)
            section = {"definition": target.definition, "n_rows": int(known.sum())}
            rows = limit(np.flatnonzero(known), MOST_ROWS, material.settings.seed)
            folds = material.settings.folds
            if len(rows) < MIN_ROWS or len(set(material.sources[rows].tolist())) < folds:
                section |= unmeasured(f"only {len(rows)} rows have a value")
            elif np.ptp(target.values[rows]) == 0:
                section |= unmeasured("all rows have the same value")
            else:
                section |= {"reason": None} | _of_one(material, name, rows, target.values[rows])
            quantities[name] = section
    return {"reason": None, "quantities": quantities}


def predictive(
    known: FloatArray, values: FloatArray, draws: FloatArray, neighbors: int
) -> tuple[FloatArray, FloatArray]:
    """Return mean and spread (m,) of the values that the draws of each row predict.

    `known` (n, latents) are the latents of rows with `values` (n,), and `draws` (m, draws, latents)
    are from the posteriors of other rows. Each draw predicts the values of the nearest known
    latents; the values from all draws of a row together are the prediction for the row.
    """
    k = min(neighbors, len(known))
    near = cKDTree(known).query(draws.reshape(-1, draws.shape[2]), k)[1]
    found = values[near].reshape(len(draws), -1)
    return found.mean(axis=1), found.std(axis=1)


def score_pulls(values: FloatArray, mean: FloatArray, spread: FloatArray) -> dict[str, float]:
    """Describe the pulls (value - mean) / spread, whose mean and width should be 0 and 1."""
    pulls = (values - mean) / np.maximum(spread, 1e-9)
    low, middle, high = np.quantile(pulls, [0.16, 0.5, 0.84])
    return {
        "median": float(middle),
        "width": float((high - low) / 2),
        "within_1": float((np.abs(pulls) <= 1).mean()),
        "within_2": float((np.abs(pulls) <= 2).mean()),
    }


def _of_one(
    material: Material, name: str, rows: npt.NDArray[np.int64], values: FloatArray
) -> dict[str, Any]:
    sources, settings = material.sources[rows], material.settings

    def score(predicted: FloatArray) -> dict[str, float]:
        return _score(values, predicted, sources, settings.seed)

    found: dict[str, Any] = {}
    for each in material.representations:
        # A hardness ratio of counts is no prediction of itself.
        if each.kind == "hardness" and name.startswith("hard_"):
            continue
        predicted = cross_predict_values(each.features[rows], values, sources, settings)
        found[each.name] = score(predicted["boosting"])
    latents = material.latents[rows]
    found[material.representations[0].name]["pulls"] = _neighbors(
        latents, latents[:, None, :], values, sources, settings
    )["pulls"]
    if material.covariances is not None:
        draws = posterior_draws(latents, material.covariances[rows], settings.seed)
        drawn = _neighbors(latents, draws, values, sources, settings)
        found[POSTERIOR] = score(drawn["mean"]) | {"pulls": drawn["pulls"]}
    if material.spectra is not None:
        full = root_shares(material.spectra)[rows]
        found[SUPERVISED] = score(predict_values(full, values, sources, settings))
    return {"by_representation": found}


def posterior_draws(latents: FloatArray, covariances: FloatArray, seed: int) -> FloatArray:
    """Draw from the normal posterior of each row, (n, DRAWS, latents); NaN counts as no scatter."""
    rng = np.random.default_rng(seed)
    widths, axes = np.linalg.eigh(np.nan_to_num(covariances))
    steps = rng.normal(size=(len(latents), DRAWS, latents.shape[1]))
    scaled = steps * np.sqrt(np.maximum(widths, 0.0))[:, None, :]
    return np.asarray(latents[:, None, :] + np.einsum("nij,ndj->ndi", axes, scaled))


def _neighbors(
    latents: FloatArray,
    draws: FloatArray,
    values: FloatArray,
    sources: TextArray,
    settings: EvaluateConfig,
) -> dict[str, Any]:
    mean, spread = np.empty(len(values)), np.empty(len(values))
    for train, test in value_folds(values, sources, settings):
        mean[test], spread[test] = predictive(
            latents[train], values[train], draws[test], settings.neighbors
        )
    return {"mean": mean, "pulls": score_pulls(values, mean, spread)}


def _score(
    values: FloatArray, predicted: FloatArray, sources: TextArray, seed: int
) -> dict[str, float]:
    off = np.abs(values - predicted)
    sums = bootstrap_sums(np.column_stack([np.ones(len(off)), off]), sources, seed)
    resampled = sums[:, 1] / sums[:, 0]
    return r_squared(values, predicted, sources, seed) | {
        "mae": float(off.mean()),
        "mae_error": float(resampled.std(ddof=1)),
    }
