"""Turn the votes of a forest into calibrated probabilities, and measure their calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import logsumexp

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LEAST = 1e-4
"""Smallest vote whose logarithm is taken."""
_RIDGE, _BIAS_RIDGE = 10.0, 5.0
"""Weights, in sources, that draw the matrix to unity and the biases to the known shares."""
BINS = 10
"""Bins of probability, of equal width, in reliability diagrams and calibration errors."""
BOOTSTRAP_DRAWS = 400


@dataclass(frozen=True)
class Calibration:
    """Calibrate votes v of a forest whose classes weigh the same: softmax(ln v @ matrix + bias).

    This is Dirichlet calibration (Kull et al. 2019, NeurIPS 32), regularized toward the votes
    themselves if there are few sources. It restores the shares of the classes among the labeled
    sources, `shares` (classes,). `matrix` is (classes, classes), `bias` (classes,).
    """

    matrix: FloatArray
    bias: FloatArray
    shares: FloatArray

    @classmethod
    def fit(cls, votes: FloatArray, codes: IntArray, weights: FloatArray) -> Calibration:
        """Minimize the log loss of votes (n, classes) that the forest gave to unseen sources.

        `codes` (n,) are the true classes and `weights` (n,) those of the rows; with weights that
        sum to 1 per source, all sources count the same.
        """
        k = votes.shape[1]
        sums = np.bincount(codes, weights, minlength=k)
        shares = (sums + 0.5) / (sums + 0.5).sum()
        logs, prior = np.log(np.maximum(votes, _LEAST)), np.log(shares)
        truth = np.eye(k)[codes]

        def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
            matrix, bias = parameters[: k * k].reshape(k, k), parameters[k * k :]
            scores = logs @ matrix + bias
            log_p = scores - logsumexp(scores, axis=1, keepdims=True)
            turn, off = matrix - np.eye(k), bias - prior
            value = -(weights * log_p[np.arange(len(codes)), codes]).sum()
            value += 0.5 * (_RIDGE * (turn**2).sum() + _BIAS_RIDGE * (off**2).sum())
            slack = weights[:, None] * (np.exp(log_p) - truth)
            gradient = np.concatenate(
                [(logs.T @ slack + _RIDGE * turn).ravel(), slack.sum(axis=0) + _BIAS_RIDGE * off]
            )
            return float(value), gradient

        start = np.concatenate([np.eye(k).ravel(), prior])
        best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
        return cls(best[: k * k].reshape(k, k), best[k * k :], shares)

    def apply(self, votes: FloatArray) -> FloatArray:
        """Return probabilities (n, classes) in a population with the shares of the labeled one."""
        scores = np.log(np.maximum(votes, _LEAST)) @ self.matrix + self.bias
        return np.asarray(np.exp(scores - logsumexp(scores, axis=1, keepdims=True)))

    def for_shares(self, probabilities: FloatArray, shares: FloatArray) -> FloatArray:
        """Convert `probabilities` of `apply` to a population with other class shares."""
        odds = probabilities * (shares / self.shares)
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def prior_shares(
    prior: str | Mapping[str, float], classes: tuple[str, ...], labeled: FloatArray
) -> FloatArray:
    """Return the class shares that a setting describes: "labeled", "equal", or a mapping.

    Classes that a mapping leaves out divide the rest as among the labeled sources. Raises
    ValueError for a class that the labels lack.
    """
    if prior == "labeled":
        return labeled
    if isinstance(prior, str):
        return np.full(len(classes), 1 / len(classes))
    if unknown := sorted(set(prior).difference(classes)):
        raise ValueError(f"no labeled source is of class {', '.join(unknown)}")
    given = np.array([prior.get(name, np.nan) for name in classes], dtype=np.float64)
    kept = np.isnan(given)
    rest = max(0.0, 1.0 - np.nansum(given))
    given[kept] = rest * labeled[kept] / max(labeled[kept].sum(), 1e-12)
    return np.asarray(given / given.sum())


def calibration_errors(
    probabilities: FloatArray, codes: IntArray, sources: IntArray, seed: int
) -> dict[str, Any]:
    """Measure the expected calibration error of probabilities (n, classes), with errors.

    `ece` is the mean over classes of the mean distance, over bins of probability, between the mean
    probability and the share of rows that are of the class (classwise ECE, Kull et al. 2019).
    `ece_top` compares the largest probability with how often its class is right. All sources weigh
    the same. The errors are standard deviations over resampled sources. `ece_of_perfect` and
    `ece_top_of_perfect` are the averages that exactly right probabilities would have with as few
    sources: no ECE can be expected to be smaller.
    """
    from raypipe.classifying.forest import source_weights

    weights = source_weights(sources)
    rng = np.random.default_rng(seed)
    _, inverse = np.unique(sources, return_inverse=True)
    n_sources = int(inverse.max()) + 1
    truth = np.eye(probabilities.shape[1])[codes]
    drawn: list[tuple[float, float]] = []
    perfect: list[tuple[float, float]] = []
    for _ in range(BOOTSTRAP_DRAWS):
        again = rng.multinomial(n_sources, np.full(n_sources, 1 / n_sources))[inverse]
        drawn.append(_errors(probabilities, truth, weights * again))
        perfect.append(_errors(probabilities, _drawn_truth(probabilities, inverse, rng), weights))
    value, spread = _errors(probabilities, truth, weights), np.std(drawn, axis=0, ddof=1)
    least = np.mean(perfect, axis=0)
    answer: dict[str, Any] = {}
    for i, name in enumerate(("ece", "ece_top")):
        answer |= {name: value[i], f"{name}_error": spread[i], f"{name}_of_perfect": least[i]}
    return answer


def _drawn_truth(
    probabilities: FloatArray, inverse: IntArray, rng: np.random.Generator
) -> FloatArray:
    """Draw classes (n, classes) by the probabilities, the same number for all rows of a source."""
    chance = rng.random(int(inverse.max()) + 1)[inverse]
    code = (probabilities.cumsum(axis=1) < chance[:, None]).sum(axis=1)
    return np.asarray(np.eye(probabilities.shape[1])[code.clip(max=probabilities.shape[1] - 1)])


def _errors(
    probabilities: FloatArray, truth: FloatArray, weights: FloatArray
) -> tuple[float, float]:
    """Return the classwise and the top-label calibration error."""
    by_class = [_distance(p, t, weights) for p, t in zip(probabilities.T, truth.T, strict=True)]
    top = probabilities.argmax(axis=1)
    rows = np.arange(len(top))
    return float(np.mean(by_class)), _distance(probabilities[rows, top], truth[rows, top], weights)


def _distance(probability: FloatArray, true: FloatArray, weights: FloatArray) -> float:
    bin_of = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(bin_of, weights * (probability - true), minlength=BINS)
    return float(np.abs(gap).sum() / weights.sum())


def reliability(
    probabilities: FloatArray, codes: IntArray, sources: IntArray
) -> list[dict[str, float]]:
    """Return predicted and true frequencies in bins of probability, over all classes.

    `sources` is the sum of the weights of the probabilities in the bin, in units of sources.
    """
    from raypipe.classifying.forest import source_weights

    truth = np.eye(probabilities.shape[1])[codes].ravel()
    flat = probabilities.ravel()
    weights = np.repeat(source_weights(sources), probabilities.shape[1])
    bin_of = np.minimum((flat * BINS).astype(np.int64), BINS - 1)
    total, predicted, observed = (
        np.bincount(bin_of, weights * each, minlength=BINS)
        for each in (np.ones_like(flat), flat, truth)
    )
    return [
        {
            "from": i / BINS,
            "to": (i + 1) / BINS,
            "predicted": float(predicted[i] / total[i]),
            "observed": float(observed[i] / total[i]),
            "sources": float(total[i]),
        }
        for i in np.flatnonzero(total > 0)
    ]
