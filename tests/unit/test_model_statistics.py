from __future__ import annotations

import numpy as np
import pytest

from raypipe.model.statistics import cash, cash_covariance, cash_moments


def test_cash_is_zero_at_the_counts_and_nowhere_below() -> None:
    counts = np.array([0.0, 1.0, 7.0, 1e5])
    assert cash(counts, counts) == pytest.approx(0.0, abs=1e-9)
    assert (cash(counts, counts + 0.3) > 0).all()
    assert cash(0.0, 2.5) == pytest.approx(5.0)


@pytest.mark.parametrize("mu", [0.003, 0.1, 0.7, 2.5, 8.0, 40.0, 900.0, 5000.0])
def test_moments_agree_with_random_draws(mu: float) -> None:
    draws = cash(np.random.default_rng(0).poisson(mu, 400_000), mu)
    mean, variance = cash_moments(mu)
    assert mean == pytest.approx(draws.mean(), abs=5 * draws.std() / 400_000**0.5)
    assert variance == pytest.approx(draws.var(), rel=0.05)


@pytest.mark.parametrize("mu", [0.003, 0.1, 0.7, 2.5, 8.0, 40.0, 900.0, 5000.0])
def test_covariance_is_the_slope_of_the_expectation(mu: float) -> None:
    """d E[cash] / d mu = cov(cash, n) / mu, for the slope of cash itself averages to zero."""
    step = 0.02
    above, below = cash_moments(mu * (1 + step))[0], cash_moments(mu * (1 - step))[0]
    assert cash_covariance(mu) == pytest.approx((above - below) / (2 * step), rel=0.02, abs=2e-3)


def test_moments_agree_with_the_published_approximation() -> None:
    """Kaastra (2017), equations 8 and 11 and onward, for 0 < mu < 0.5 and mu > 10."""
    faint = np.array([0.05, 0.2, 0.4])
    published = -0.25 * faint**3 + 1.38 * faint**2 - 2 * faint * np.log(faint)
    assert cash_moments(faint)[0] == pytest.approx(published, rel=0.01)
    bright = np.array([12.0, 50.0, 300.0])
    assert cash_moments(bright)[0] == pytest.approx(
        1 + 0.1649 / bright + 0.226 / bright**2, rel=2e-3
    )
