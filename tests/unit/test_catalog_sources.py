from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from raypipe.catalog.sources import combine
from raypipe.model.covariance import inverses, pack, solve, unpack

LATENTS = 4


def information(rng: np.random.Generator, n: int, strength: float) -> np.ndarray:
    slopes = rng.normal(size=(n, 6, LATENTS)) * strength ** rng.uniform(-1, 1, (n, 1, LATENTS))
    return np.einsum("nij,nik->njk", slopes, slopes)


def observe(
    rng: np.random.Generator, truth: np.ndarray, told: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Most probable latents and their covariance, of normal observations of `truth`."""
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(told), rng.normal(size=truth.shape))
    covariance = np.linalg.inv(told + np.eye(LATENTS))
    score = np.einsum("nij,nj->ni", told, truth) + noise
    return np.einsum("nij,nj->ni", covariance, score), covariance


def test_two_detections_are_worth_one_of_both_exposures() -> None:
    rng = np.random.default_rng(1)
    told = information(rng, 2, 3.0)
    z, covariance = observe(rng, rng.normal(size=(1, LATENTS)).repeat(2, 0), told)
    both = combine(z, covariance, np.array([0]))
    alone = combine(z, covariance, np.array([0, 1]))
    assert np.allclose(alone.z, z)
    assert np.allclose(alone.z_cov, covariance)
    assert np.allclose(both.z_cov[0], np.linalg.inv(told.sum(0) + np.eye(LATENTS)))
    score = np.einsum("nij,nj->i", np.linalg.inv(covariance), z)
    assert np.allclose(both.z[0], both.z_cov[0] @ score)
    assert (both.z_std[0] < alone.z_std).all()
    assert np.isnan(alone.p_value).all()
    assert (alone.dof == 0).all()


def test_constant_sources_have_uniform_p_values_and_variable_ones_small() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(2, 6, 3000)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    truth = rng.normal(size=(len(sizes), LATENTS)).repeat(sizes, 0)
    told = information(rng, len(truth), 5.0)
    combined = combine(*observe(rng, truth, told), starts)
    judged = combined.dof > 0
    assert judged.mean() > 0.9
    assert kstest(combined.p_value[judged], "uniform").pvalue > 0.01
    moved = truth + rng.normal(size=truth.shape)
    changed = combine(*observe(rng, moved, told), starts)
    assert np.median(changed.p_value[judged]) < 0.01


def test_faint_detections_say_nothing_of_variability() -> None:
    rng = np.random.default_rng(3)
    told = information(rng, 10, 1.0) * 1e-4
    combined = combine(*observe(rng, rng.normal(size=(10, LATENTS)), told), np.array([0, 5]))
    assert (combined.dof == 0).all()
    assert np.isnan(combined.p_value).all()
    assert (np.abs(combined.z) < 0.5).all()


@pytest.mark.parametrize("fault", ["latents", "covariance", "singular"])
def test_a_detection_without_usable_latents_says_nothing(fault: str) -> None:
    """Its source is what the others make it; a source of nothing else is NaN; the rest stays."""
    rng = np.random.default_rng(4)
    told = information(rng, 6, 4.0)
    z, covariance = observe(rng, rng.normal(size=(6, LATENTS)), told)
    starts = np.array([0, 2, 5])
    sound = combine(np.delete(z, [1, 5], 0), np.delete(covariance, [1, 5], 0), np.array([0, 1]))
    for row in (1, 5):
        if fault == "latents":
            z[row] = np.nan
        else:
            covariance[row] = np.nan if fault == "covariance" else 0.0
    combined = combine(z, covariance, starts)
    assert combined.used.tolist() == [True, False, True, True, True, False]
    for name in ("z", "z_err", "z_std", "z_cov", "chi2", "dof", "p_value"):
        one, other = getattr(combined, name), getattr(sound, name)
        assert np.array_equal(one[:2], other, equal_nan=name in ("chi2", "p_value")), name
        assert name == "dof" or np.isnan(one[2]).all(), name
    assert combined.dof[2] == 0


@pytest.mark.parametrize("function", [inverses, lambda m: solve(m, np.ones((len(m), LATENTS)))])
def test_a_singular_matrix_costs_its_own_row(
    function: Callable[[np.ndarray], np.ndarray],
) -> None:
    rng = np.random.default_rng(5)
    matrices = information(rng, 4, 3.0)
    before = function(matrices)
    matrices[1], matrices[3, 0, 0] = 0.0, np.nan
    after = function(matrices)
    assert after[[0, 2]] == pytest.approx(before[[0, 2]], rel=1e-8)
    assert np.isnan(after[1]).all()
    assert np.isnan(after[3]).any()


@given(st.integers(0, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_triangles_come_back(rows: int, size: int, seed: int) -> None:
    half = np.random.default_rng(seed).normal(size=(rows, size, size))
    symmetric = half + half.transpose(0, 2, 1)
    assert unpack(pack(symmetric).astype(np.float64)) == pytest.approx(symmetric, rel=1e-6)
