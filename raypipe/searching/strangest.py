"""Rank the detections that are hardest to explain: far out in latent space, or badly fit.

Both rankings are significances: standard deviations of a normal distribution with the same tail
probability. They account for noise, so that a faint detection, whose few counts prove little, does
not rank high.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri_exp
from scipy.stats import chi2, gamma, norm

from raypipe.model.latent_population import Population
from raypipe.searching.batched_gaussians import Float64, Posteriors, Rows, log_determinant_and_chi2

_MOST_SIGMAS = 37.0
"""Largest value reported: beyond it the tail probability underflows in double precision."""


def far_sigmas(known: Posteriors, population: Population) -> Float64:
    """Significance with which detections lie outside the population, (n,), in sigmas.

    The squared distance to the nearest component of the population's mixture, in units of the
    component's covariance plus the detection's posterior one, is chi-squared distributed, with as
    many degrees of freedom as latents, for spectra of that component. Taking the nearest component
    makes the distance smaller and the significance conservative. Latents without errors count as
    exact.
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
    """Significance with which the fit is bad, (n,), in sigmas.

    The Cash statistic of few counts is skewed: its tail is taken from the gamma distribution with
    its expectation and variance, which follows from `fit_zscore` = (cash - expected) / deviation.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = ((cash - cash_expected) / fit_zscore) ** 2
        # A gamma distribution of mean m and variance v has shape m^2 / v and scale v / m.
        tail = gamma.logsf(cash, cash_expected**2 / variance, scale=variance / cash_expected)
    usable = np.isfinite(variance) & (variance > 0) & (cash_expected > 0)
    return np.where(usable, sigmas_of(tail), fit_zscore)


def sigmas_of(log_tail: Float64) -> Float64:
    """Convert the logarithm of a tail probability to standard deviations of a normal."""
    # A tail probability of 1 would give minus infinity: keep its logarithm just below 0.
    return np.minimum(-ndtri_exp(np.minimum(log_tail, -1e-300)), _MOST_SIGMAS)


def chance_sigmas(n: int) -> float:
    """The number of sigmas that chance exceeds once, on average, among n detections."""
    return float(norm.isf(1.0 / max(n, 2)))


def most(sigmas: Float64, score: Float64, k: int) -> Rows:
    """Return the rows of the k largest sigmas, ties ordered by `score`, NaN last."""
    order = np.lexsort((-np.nan_to_num(score, nan=-np.inf), -np.nan_to_num(sigmas, nan=-np.inf)))
    return order[:k].astype(np.int64)
