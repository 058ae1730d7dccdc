"""Neighbors in latent space against brute force, and what their ranking must not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from raypipe.model.covariance import pack
from raypipe.searching import neighbors
from raypipe.searching.batched_gaussians import Posteriors, log_determinant_and_chi2
from raypipe.searching.neighbors import Posterior, log_bayes_factors, nearest

NOBODY = np.array([], dtype=np.int64)


def _posteriors(n: int, seed: int, latents: int = 8) -> Posteriors:
    """Posteriors of detections that say from next to nothing to very much, drawn consistently."""
    rng = np.random.default_rng(seed)
    brightness = 10 ** rng.uniform(-2, 4, n)
    slopes = rng.normal(size=(n, latents, latents)) * 10 ** rng.uniform(-2, 0, (n, 1, latents))
    information = brightness[:, None, None] * slopes @ np.swapaxes(slopes, 1, 2)
    covariance = np.linalg.inv(information + np.eye(latents))
    truth = rng.normal(size=(n, latents))
    root = np.linalg.cholesky(information + 1e-9 * np.eye(latents))
    score = information @ truth[..., None] + root @ rng.normal(size=(n, latents, 1))
    z = (covariance @ score)[..., 0]
    return Posteriors(
        np.ascontiguousarray(z.T, np.float32), np.ascontiguousarray(pack(covariance).T, np.float32)
    )


def _query(known: Posteriors, row: int) -> Posterior:
    one = known.take(np.array([row]))
    return Posterior(one.z[:, 0].astype(np.float64), one.covariance[0])


def _overlaps(query: Posterior, known: Posteriors) -> np.ndarray:
    return np.array(
        [
            multivariate_normal(mean, covariance + query.covariance).logpdf(query.z)
            for mean, covariance in zip(known.z.T.astype(float), known.covariance, strict=True)
        ]
    )


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 300),
    seed=st.integers(0, 10_000),
    k=st.integers(1, 40),
    latents=st.integers(1, 8),
    guesses=st.integers(1, 50),
    excluded=st.integers(0, 3),
)
def test_the_neighbors_are_those_of_brute_force(
    n: int, seed: int, k: int, latents: int, guesses: int, excluded: int
) -> None:
    known = _posteriors(n, seed, latents)
    left_out = np.arange(min(excluded, n))
    query = _query(known, seed % n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_GUESSES", guesses)
        found = nearest(query, known, k, left_out)
    overlaps = _overlaps(query, known)
    overlaps[left_out] = -np.inf
    best = np.argsort(-overlaps, kind="stable")[: min(k, n - len(left_out))]
    assert set(found.rows).isdisjoint(left_out)
    assert overlaps[found.rows] == pytest.approx(overlaps[best], abs=1e-9)
    assert found.log_overlap == pytest.approx(overlaps[best], abs=1e-9)


def test_blocks_give_what_double_precision_gives() -> None:
    """More rows than a block, and a last one that is not full."""
    known = _posteriors(9000, 5)
    rng = np.random.default_rng(0)
    u, y = rng.normal(size=(8, 5)), rng.normal(size=5)
    determinant, square = log_determinant_and_chi2(known, u, y)
    spread = np.eye(5) + u.T @ known.covariance @ u
    residual = y - known.z.T.astype(float) @ u
    expected = (residual * np.linalg.solve(spread, residual[..., None])[..., 0]).sum(1)
    assert determinant == pytest.approx(np.linalg.slogdet(spread)[1], rel=1e-4, abs=1e-4)
    assert square == pytest.approx(expected, rel=1e-3, abs=1e-3)
    rows = np.array([8999, 3, 4500])
    for some, all_rows in zip(
        log_determinant_and_chi2(known, u, y, rows), (determinant, square), strict=True
    ):
        assert some == pytest.approx(all_rows[rows], rel=1e-5, abs=1e-5)


def test_a_rotation_of_latent_space_changes_nothing() -> None:
    known = _posteriors(400, 11)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    turned_covariance = rotation @ known.covariance @ rotation.T
    turned = Posteriors(
        np.ascontiguousarray(rotation @ known.z, np.float32),
        np.ascontiguousarray(pack(turned_covariance).T, np.float32),
    )
    for row in range(0, 400, 40):
        one, other = (nearest(_query(each, row), each, 5, NOBODY) for each in (known, turned))
        assert one.log_overlap == pytest.approx(other.log_overlap, abs=1e-2)
        assert one.distance == pytest.approx(other.distance, abs=1e-2)


def test_the_bayes_factor_is_the_integral_of_its_definition() -> None:
    """One latent, where the integral can be done by numbers."""
    known = _posteriors(20, 3, latents=1)
    grid = np.linspace(-30, 30, 200_001)
    prior = multivariate_normal(0, 1).pdf(grid)

    def density(row: int) -> Any:
        query = _query(known, row)
        return multivariate_normal(query.z, query.covariance).pdf(grid)

    near = prior > 1e-280
    for row in range(0, 20, 3):
        factors = log_bayes_factors(_query(known, row), known)
        for other in range(20):
            product = density(row)[near] * density(other)[near] / prior[near]
            assert factors[other] == pytest.approx(
                np.log(np.trapezoid(product, grid[near])), abs=1e-3
            )


def test_the_bayes_factor_is_symmetric_and_says_nothing_of_who_says_nothing() -> None:
    known = _posteriors(60, 8)
    factors = np.stack([log_bayes_factors(_query(known, row), known) for row in range(60)])
    assert factors == pytest.approx(factors.T, abs=1e-3)
    silent = Posterior(np.zeros(8), np.eye(8))
    assert log_bayes_factors(silent, known) == pytest.approx(0.0, abs=1e-3)


def test_who_is_known_badly_is_not_near_everything() -> None:
    """A faint detection at the query's own place comes after a bright one beside it."""
    query = Posterior(np.full(8, 0.5), 0.01 * np.eye(8))
    z = np.stack([np.full(8, 0.5), np.full(8, 0.55)], axis=1).astype(np.float32)
    covariance = np.stack([0.9 * np.eye(8), 0.01 * np.eye(8)])
    known = Posteriors(z, np.ascontiguousarray(pack(covariance).T))
    found = nearest(query, known, 2, NOBODY)
    assert found.rows.tolist() == [1, 0]
    assert found.distance[0] > found.distance[1]
    assert found.euclidean[0] > found.euclidean[1]


def test_without_errors_rank_is_by_plain_distance() -> None:
    known = _posteriors(50, 2)
    blind = replace(known, triangles=np.full_like(known.triangles, np.nan))
    without = Posterior(known.z[:, 7].astype(float), np.full((8, 8), np.nan))
    plain = np.linalg.norm(known.z.T - known.z[:, 7], axis=1)
    for query, rows in ((without, blind), (without, known), (_query(known, 7), blind)):
        found = nearest(query, rows, 4, np.array([7]))
        assert found.rows.tolist() == np.argsort(plain)[1:5].tolist()
        assert np.isnan(found.log_overlap).all()
        assert np.isnan(found.log_bayes_factor).all()


def test_rows_without_errors_are_no_neighbors_of_who_has_them() -> None:
    known = _posteriors(30, 4)
    known.triangles[:, 5] = np.nan
    known.z[:, 6] = np.nan
    found = nearest(_query(known, 0), known, 100, np.array([0]))
    assert sorted(found.rows) == sorted(set(range(1, 30)) - {5, 6})
