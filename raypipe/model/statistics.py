"""Compute the Cash statistic, its expectation, its variance and its covariance with counts."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlogy

FloatArray = npt.NDArray[np.float64]

MU_MIN = 1e-6
"""Fewest counts that a model may expect per bin, so that an impossible count has a finite cost."""

_TABLE_MU_MIN, _TABLE_MU_MAX, _TABLE_SIZE = 1e-12, 2000.0, 1600
"""Range of expected counts of the table of moments, and the number of its entries."""

_NO_MU = 1e-13
"""Stands for no expected counts in logarithms: below the table, where all moments are zero."""

_REACH_SIGMAS, _REACH_COUNTS = 12.0, 20.0
"""Counts summed on both sides of mu: the Poisson probability beyond is below double precision."""


def cash(counts: npt.ArrayLike, mu: npt.ArrayLike) -> FloatArray:
    """Compute the Cash statistic per bin, 2 (mu - n + n ln(n / mu)), which is zero for n = mu.

    Cash (1979, ApJ 228, 939) in the form of XSPEC's cstat. `counts` and `mu`, the expected counts,
    broadcast against each other; in the logarithm, mu is at least MU_MIN.
    """
    n = np.asarray(counts, dtype=np.float64)
    expected = np.asarray(mu, dtype=np.float64)
    return np.asarray(2.0 * (expected - n + xlogy(n, n) - xlogy(n, np.maximum(expected, MU_MIN))))


def cash_moments(mu: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Compute expectation and variance of the Cash statistic of a bin with `mu` expected counts.

    They are sums over the Poisson distribution, which Kaastra (2017, A&A 605, A51) approximates;
    here they are tabulated once and interpolated in log mu. Above 2,000 counts they are the first
    terms of their expansion in 1 / mu, 1 + 1 / (6 mu) and 2 + 2 / (3 mu). Both are zero if no count
    is expected.
    """
    expected = np.asarray(mu, dtype=np.float64)
    log_mu, mean, variance, _ = _moment_table()
    x = np.log(np.maximum(expected, _NO_MU))
    bright = expected > _TABLE_MU_MAX
    large = np.maximum(expected, _TABLE_MU_MAX)
    return (
        np.where(bright, 1.0 + 1.0 / (6.0 * large), np.interp(x, log_mu, mean, left=0.0)),
        np.where(bright, 2.0 + 2.0 / (3.0 * large), np.interp(x, log_mu, variance, left=0.0)),
    )


def cash_covariance(mu: npt.ArrayLike) -> FloatArray:
    """Compute the covariance of a bin's Cash statistic with its counts, for `mu` expected counts.

    It is a sum over the Poisson distribution, as in `cash_moments`: near zero for bright bins; for
    faint ones, the statistic and the counts are almost fully correlated.
    """
    expected = np.asarray(mu, dtype=np.float64)
    log_mu, _, _, covariance = _moment_table()
    x = np.log(np.maximum(expected, _NO_MU))
    bright = -1.0 / (6.0 * np.maximum(expected, _TABLE_MU_MAX))
    return np.where(expected > _TABLE_MU_MAX, bright, np.interp(x, log_mu, covariance, left=0.0))


@cache
def _moment_table() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Tabulate log mu, expectation, variance and covariance by sums over the counts n."""
    log_mu = np.linspace(np.log(_TABLE_MU_MIN), np.log(_TABLE_MU_MAX), _TABLE_SIZE)
    mean, variance, covariance = (np.empty_like(log_mu) for _ in range(3))
    for i, mu in enumerate(np.exp(log_mu)):
        reach = _REACH_SIGMAS * np.sqrt(mu) + _REACH_COUNTS
        n = np.arange(max(0, int(mu - reach)), int(mu + reach) + 1)
        # ln P(n) = n ln mu - mu - ln n!, with the logarithm of n! because n! overflows above 170.
        probability = np.exp(xlogy(n, mu) - mu - gammaln(n + 1.0))
        value = cash(n, mu)
        mean[i] = probability @ value
        variance[i] = probability @ (value - mean[i]) ** 2
        covariance[i] = probability @ ((value - mean[i]) * (n - mu))
    return log_mu, mean, variance, covariance
