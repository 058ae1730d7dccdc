from __future__ import annotations

import numpy as np
import pytest

from raypipe.errors import UsageError
from raypipe.latents.deconvolution import Likelihoods, Mixture, choose_mixture, fit_mixture

TRUTH = Mixture(
    weights=np.array([0.6, 0.4]),
    means=np.array([[-1.5, 0.0], [1.5, 0.5]]),
    covariances=np.stack([np.diag([0.2, 0.5]), np.array([[0.3, 0.1], [0.1, 0.2]])]),
)


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True components, noisy values, and the covariance of each row's noise."""
    rng = np.random.default_rng(seed)
    component = rng.choice(2, n, p=TRUTH.weights)
    roots = np.linalg.cholesky(TRUTH.covariances)
    true = TRUTH.means[component] + np.einsum(
        "nij,nj->ni", roots[component], rng.normal(size=(n, 2))
    )
    sigma = rng.uniform(0.1, 1.5, (n, 2))
    noise = np.einsum("ni,ij->nij", sigma**2, np.eye(2))
    return component, true + sigma * rng.normal(size=(n, 2)), noise


def test_the_mixture_of_the_true_values_is_found_under_errors_of_all_sizes() -> None:
    _, values, noise = drawn(4000)
    found = fit_mixture(Likelihoods.of_measurements(values, noise), 2, seed=0)
    assert found.weights == pytest.approx(TRUTH.weights, abs=0.05)
    assert found.means == pytest.approx(TRUTH.means, abs=0.12)
    assert found.covariances == pytest.approx(TRUTH.covariances, abs=0.12)


def test_probabilities_are_those_of_the_true_mixture() -> None:
    component, values, noise = drawn(4000, seed=1)
    shares = TRUTH.responsibilities(Likelihoods.of_measurements(values, noise))[:, 1]
    by_hand = np.stack(
        [
            weight
            * np.exp(-0.5 * np.einsum("ni,nij,nj->n", d, np.linalg.inv(total), d))
            / np.sqrt(np.linalg.det(total))
            for weight, mean, cov in zip(TRUTH.weights, TRUTH.means, TRUTH.covariances, strict=True)
            for d, total in [(values - mean, cov + noise)]
        ],
        axis=1,
    )
    assert shares == pytest.approx(by_hand[:, 1] / by_hand.sum(axis=1), abs=1e-9)
    for low in (0.1, 0.5, 0.8):
        rows = (shares > low) & (shares < low + 0.2)
        assert component[rows].mean() == pytest.approx(shares[rows].mean(), abs=0.1)


def test_the_prior_of_posteriors_counts_once() -> None:
    rng = np.random.default_rng(0)
    noise = np.einsum("ni,ij->nij", rng.uniform(0.2, 2.0, (50, 2)) ** 2, np.eye(2))
    values = rng.normal(size=(50, 2))
    covariance = np.linalg.inv(np.linalg.inv(noise) + np.eye(2))
    mean = np.einsum("nij,njk,nk->ni", covariance, np.linalg.inv(noise), values)
    posteriors = Likelihoods.of_posteriors(mean, covariance)
    measured = Likelihoods.of_measurements(values, noise)
    assert posteriors.information == pytest.approx(measured.information)
    assert posteriors.score == pytest.approx(measured.score)


def test_the_number_of_components_is_that_of_the_truth() -> None:
    _, values, noise = drawn(3000, seed=2)
    assert len(choose_mixture(Likelihoods.of_measurements(values, 0.1 * noise), 16, seed=0)) == 2


def test_the_same_seed_gives_the_same_mixture() -> None:
    _, values, noise = drawn(500)
    rows = Likelihoods.of_measurements(values, noise)
    first, second = (fit_mixture(rows, 3, seed=5) for _ in range(2))
    assert (first.means == second.means).all()
    assert (first.weights == second.weights).all()


def test_too_many_components_are_refused() -> None:
    _, values, noise = drawn(50)
    with pytest.raises(UsageError, match="6 clusters: expected 1 to 5 for 50 rows"):
        fit_mixture(Likelihoods.of_measurements(values, noise), 6, seed=0)
