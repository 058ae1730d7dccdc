"""Score fits: compare the Cash statistic with its expectation and with that of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.model.statistics import cash

FloatArray = npt.NDArray[np.float64]

_MU_MIN = 1e-6
_OUTLIER_ZSCORE = 3.0


@dataclass(frozen=True)
class TruthScores:
    """Hold scores that only a simulation can have, (n,) each, summed over bins.

    `truth_cash` is the Cash statistic of the true expected counts on the observed ones.
    `divergence` is twice the Kullback-Leibler divergence of the model's expected counts from the
    true ones, which is the Cash statistic of the model on counts without noise: it never rewards
    fitting noise. Both are NaN for rows without a truth.
    """

    truth_cash: FloatArray
    divergence: FloatArray | None


def score_truth(
    counts: npt.ArrayLike, true_counts: npt.ArrayLike, model_counts: npt.ArrayLike | None
) -> TruthScores:
    """Compare observed counts, and a model's expected counts, with the true expected counts.

    `counts`, the true expected counts and, if known, those of the model are (n, bins), all in the
    source region with background. Rows whose true counts are NaN have no truth.
    """
    truth_cash = cash(counts, np.maximum(true_counts, _MU_MIN)).sum(axis=1)
    if model_counts is None:
        return TruthScores(truth_cash, None)
    divergence = cash(true_counts, np.maximum(model_counts, _MU_MIN)).sum(axis=1)
    return TruthScores(truth_cash, divergence)


def score_reconstruction(frame: pd.DataFrame, truth: TruthScores | None) -> dict[str, Any]:
    """Average the Cash statistic per bin, its expectation and the truth's, by decade of counts.

    `frame` has `cash`, `cash_expected`, `fit_zscore`, `total_counts` and `n_bins`, the number of
    channel bins over which each row's statistic is summed; averages are over detections.
    `excess_cash_per_bin` is the model's value minus the truth's. Latents that are fitted to a
    detection's own counts follow its noise, so that a perfect model lies below zero by up to its
    number of parameters divided by the number of bins. Its z-scores have mean 0 and width 1.
    """
    overall = _score_rows(frame, truth, np.ones(len(frame), dtype=bool))
    decades = np.floor(np.log10(np.maximum(frame["total_counts"].to_numpy(np.float64), 1)))
    by_counts = [
        {"counts_min": 10 ** int(decade), "counts_max": 10 ** (int(decade) + 1)}
        | _score_rows(frame, truth, decades == decade)
        for decade in np.unique(decades)
    ]
    return (
        {"n_bins": _mean(frame["n_bins"].to_numpy(np.float64))} | overall | {"by_counts": by_counts}
    )


def _score_rows(frame: pd.DataFrame, truth: TruthScores | None, rows: Any) -> dict[str, Any]:
    chosen = frame.loc[rows]
    statistic = chosen["cash"].to_numpy(np.float64)
    n_bins = chosen["n_bins"].to_numpy(np.float64)
    scores: dict[str, Any] = {
        "n_rows": len(chosen),
        "cash_per_bin": _mean(statistic / n_bins),
        "cash_expected_per_bin": _mean(chosen["cash_expected"].to_numpy(np.float64) / n_bins),
        "fit_zscore": _zscores(chosen["fit_zscore"].to_numpy(np.float64)),
        "truth_cash_per_bin": None,
        "excess_cash_per_bin": None,
        "excess_cash_per_bin_error": None,
        "divergence_per_bin": None,
    }
    if truth is None:
        return scores
    excess = (statistic - truth.truth_cash[rows]) / n_bins
    excess = excess[np.isfinite(excess)]
    scores["truth_cash_per_bin"] = _mean(truth.truth_cash[rows] / n_bins)
    scores["excess_cash_per_bin"] = _mean(excess)
    if len(excess) > 1:
        scores["excess_cash_per_bin_error"] = float(excess.std(ddof=1) / np.sqrt(len(excess)))
    if truth.divergence is not None:
        scores["divergence_per_bin"] = _mean(truth.divergence[rows] / n_bins)
    return scores


def _zscores(values: FloatArray) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return {"mean": _mean(values), "width": None, "robust_width": None, "beyond_3": None}
    low, high = np.quantile(values, [0.1587, 0.8413])
    return {
        "mean": _mean(values),
        "width": float(values.std(ddof=1)),
        "robust_width": float(high - low) / 2,
        "beyond_3": float((np.abs(values) > _OUTLIER_ZSCORE).mean()),
    }


def _mean(values: FloatArray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
