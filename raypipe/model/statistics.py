"""The Cash statistic, its expectation and its variance."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlogy

FloatArray = npt.NDArray[np.float64]

MU_MIN = 1e-6
"""Fewest counts a model may expect of a bin: a count where none can be is strange, not infinite."""

_TABLE_MU_MIN, _TABLE_MU_MAX = 1e-12, 2000.0
_NO_MU = 1e-13
"""Stands for no expected counts in logarithms: below the table, where all moments are zero."""


def cash(counts: npt.ArrayLike, mu: npt.ArrayLike) -> FloatArray:
    """Cash statistic of each bin, 2 (mu - n + n ln(n / mu)), zero where n = mu.

    Cash (1979, ApJ 228, 939) in the form of XSPEC's cstat. `counts` and `mu`, the expected counts,
    broadcast against each other; the logarithm takes no mu below MU_MIN.
    """
    n = np.asarray(counts, dtype=np.float64)
    expected = np.asarray(mu, dtype=np.float64)
    return np.asarray(2.0 * (expected - n + xlogy(n, n) - xlogy(n, np.maximum(expected, MU_MIN))))


def cash_moments(mu: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Expectation and variance of the Cash statistic of a bin with `mu` expected counts.

    The sums over the Poisson distribution that Kaastra (2017, A&A 605, A51) approximates,
    tabulated once and interpolated in log mu; above 2,000 counts the first terms of their
    expansion, 1 + 1 / (6 mu) and 2 + 2 / (3 mu). Both are zero where no count is expected.
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
    """Covariance of a bin's Cash statistic with its counts, where `mu` counts are expected.

    Sums over the Poisson distribution as in `cash_moments`. It is mu times the slope of the
    expectation with mu: near zero for bright bins, most of the variance for faint ones.
    """
    expected = np.asarray(mu, dtype=np.float64)
    log_mu, _, _, covariance = _moment_table()
    x = np.log(np.maximum(expected, _NO_MU))
    bright = -1.0 / (6.0 * np.maximum(expected, _TABLE_MU_MAX))
    return np.where(expected > _TABLE_MU_MAX, bright, np.interp(x, log_mu, covariance, left=0.0))


@cache
def _moment_table() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    log_mu = np.linspace(np.log(_TABLE_MU_MIN), np.log(_TABLE_MU_MAX), 1600)
    mean, variance, covariance = (np.empty_like(log_mu) for _ in range(3))
    for i, mu in enumerate(np.exp(log_mu)):
        reach = 12.0 * np.sqrt(mu) + 20.0
        n = np.arange(max(0, int(mu - reach)), int(mu + reach) + 1)
        probability = np.exp(xlogy(n, mu) - mu - gammaln(n + 1.0))
        value = cash(n, mu)
        mean[i] = probability @ value
        variance[i] = probability @ (value - mean[i]) ** 2
        covariance[i] = probability @ ((value - mean[i]) * (n - mu))
    return log_mu, mean, variance, covariance
