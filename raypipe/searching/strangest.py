"""The detections hardest to explain: far out in latent space, and badly fit; bright before faint.

Both are told in standard deviations of a normal of the same tail probability, so that what noise
does to faint spectra is no distinction: what few counts say does not reach far.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri_exp
from scipy.stats import chi2, gamma, norm

from raypipe.model.population import Population
from raypipe.searching.elimination import Float64, Posteriors, Rows, log_determinant_and_chi2

_MOST_SIGMAS = 37.0
"""Beyond this a tail probability is no double any more."""


def far_sigmas(known: Posteriors, population: Population) -> Float64:
    """How significantly detections lie outside the population, (n,), in sigmas.

    The squared distance from the nearest component of the population's mixture, in units of its
    covariance and the detection's posterior one together, is chi squared with as many degrees of
    freedom as latents if the spectrum comes from there; from the nearest it is less, so the figure
    is on the safe side. Latents without errors count as exact.
    """
    if not np.isfinite(known.triangles).all():
        exact = np.where(np.isfinite(known.triangles).all(axis=0), known.triangles, 0.0)
        known = Posteriors(known.z, exact.astype(np.float32))
    nearest = np.full(len(known), np.inf, np.float32)
    for mean, factor in zip(population.means, population.precisions_cholesky, strict=True):
        _, squares = log_determinant_and_chi2(known, factor, factor.T @ mean)
        np.minimum(nearest, squares, out=nearest)
    return sigmas_of(chi2.logsf(nearest.astype(np.float64), len(known.z)))


def fit_sigmas(cash: Float64, cash_expected: Float64, fit_zscore: Float64) -> Float64:
    """How significantly the fit is bad, (n,), in sigmas.

    The Cash statistic of few counts is skewed: its tail is that of the gamma distribution with its
    expectation and variance, the latter as `fit_zscore` = (cash - expected) / deviation tells.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = ((cash - cash_expected) / fit_zscore) ** 2
        tail = gamma.logsf(cash, cash_expected**2 / variance, scale=variance / cash_expected)
    usable = np.isfinite(variance) & (variance > 0) & (cash_expected > 0)
    return np.where(usable, sigmas_of(tail), fit_zscore)


def sigmas_of(log_tail: Float64) -> Float64:
    """Standard deviations beyond which a normal has this tail probability, given as its log."""
    return np.minimum(-ndtri_exp(np.minimum(log_tail, -1e-300)), _MOST_SIGMAS)


def chance_sigmas(n: int) -> float:
    """What one of n detections reaches by chance: that many sigmas are expected once."""
    return float(norm.isf(1.0 / max(n, 2)))


def most(sigmas: Float64, score: Float64, k: int) -> Rows:
    """Rows of the k largest, those alike in order of `score`, NaN last."""
    order = np.lexsort((-np.nan_to_num(score, nan=-np.inf), -np.nan_to_num(sigmas, nan=-np.inf)))
    return order[:k].astype(np.int64)
