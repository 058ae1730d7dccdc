from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from raypipe.catalog.sources import combine
from raypipe.model.covariance import pack, unpack

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


@given(st.integers(0, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_triangles_come_back(rows: int, size: int, seed: int) -> None:
    half = np.random.default_rng(seed).normal(size=(rows, size, size))
    symmetric = half + half.transpose(0, 2, 1)
    assert unpack(pack(symmetric).astype(np.float64)) == pytest.approx(symmetric, rel=1e-6)
