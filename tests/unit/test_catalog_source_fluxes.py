"""The flux of a source from those of its detections, for few counts as for many."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gamma

from raypipe.catalog.source_fluxes import combine_fluxes

ONE_SIGMA = 0.158655, 0.5, 0.841345


def _observed(counts: np.ndarray, exposure: np.ndarray) -> tuple[np.ndarray, ...]:
    """Limits of the posterior of a flux for counts in an exposure, prior flat in its logarithm."""
    low, middle, high = (gamma.ppf(p, counts) / exposure for p in ONE_SIGMA)
    return middle, low, high


def test_two_observations_are_one_of_both_exposures() -> None:
    value, low, high = _observed(np.array([7.0, 300.0]), np.array([2e13, 9e14]))
    combined = combine_fluxes(value, low, high, np.array([0]))
    expected = _observed(np.array([307.0]), np.array([9.2e14]))
    for one, other in zip(combined, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_a_source_of_one_detection_keeps_its_flux() -> None:
    value, low, high = _observed(np.array([4.0, 1e5]), np.array([1e13, 1e13]))
    combined = combine_fluxes(value, low, high, np.array([0, 1]))
    for one, other in zip(combined, (value, low, high), strict=True):
        assert one == pytest.approx(other, rel=2e-3)


def test_few_counts_do_not_bias_the_mean() -> None:
    """Many observations of 3 counts each: an average with 1 / variance would be too low."""
    rng = np.random.default_rng(0)
    flux, exposure, number = 2e-14, 1.5e14, 4000
    counts = rng.poisson(flux * exposure, number).astype(float)
    counts = counts[counts > 0]
    middle, low, high = _observed(counts, np.full(len(counts), exposure))
    value, lolim, hilim = (
        float(each[0]) for each in combine_fluxes(middle, low, high, np.array([0]))
    )
    assert value == pytest.approx(counts.mean() / exposure, rel=0.01)
    assert hilim / lolim == pytest.approx(np.exp(2 / np.sqrt(counts.sum())), rel=0.01)


def test_upper_limits_alone_make_an_upper_limit() -> None:
    counts, exposure = np.array([0.7, 0.5]), np.array([1e14, 3e14])
    value = gamma.ppf(0.5, counts) / exposure
    limit = gamma.ppf(0.9, counts + 1.0) / exposure
    combined = combine_fluxes(value, np.zeros(2), limit, np.array([0]))
    middle, low, high = (float(each[0]) for each in combined)
    assert low == 0.0
    assert high == pytest.approx(gamma.ppf(0.9, 2.2) / 4e14, rel=1e-2)
    assert middle < high < limit.max()


def test_what_is_not_measured_is_left_out() -> None:
    value, low, high = _observed(np.array([50.0, 80.0, 9.0]), np.full(3, 1e14))
    value[1] = low[1] = high[1] = np.nan
    combined = combine_fluxes(value, low, high, np.array([0, 1, 2]))
    assert [np.isnan(each).tolist() for each in combined] == [[False, True, False]] * 3
    both = combine_fluxes(value[:2], low[:2], high[:2], np.array([0]))
    assert both[0] == pytest.approx(value[:1], rel=2e-3)
