"""Mutual information of samples whose information is known."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.evaluation.mutual_information import measure, mutual_information, normal_scores


def correlated(rho: float, n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)
    return x[:, None], y[:, None]


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_of_two_normal_variables_it_is_known(rho: float) -> None:
    x, y = correlated(rho)
    assert mutual_information(x, y) == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.05)


def test_of_many_columns_it_is_that_of_the_one_that_matters() -> None:
    x, y = correlated(0.8, n=4000)
    many = np.hstack([x, np.random.default_rng(1).normal(size=(4000, 2))])
    found = measure(many, y, permutations=10, subsamples=5)
    assert found.excess == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.1)


def test_of_discrete_variables_it_is_the_sum_over_frequencies() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, 6000)
    y = np.where(rng.random(6000) < 0.7, x, rng.integers(0, 3, 6000))
    joint = np.histogram2d(x, y, bins=3)[0] / 6000
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    truth = (joint * np.log(joint / product)).sum()
    found = mutual_information(x[:, None].astype(float), y[:, None].astype(float))
    assert found == pytest.approx(truth, abs=0.01)


def test_a_class_and_a_continuous_variable_share_at_most_the_entropy_of_the_class() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 2000)
    x = label * 10.0 + rng.normal(size=2000)
    found = mutual_information(x[:, None], label[:, None].astype(float))
    assert found == pytest.approx(np.log(2), abs=0.02)


def test_normal_scores_change_no_information() -> None:
    x, y = correlated(0.8)
    squeezed = normal_scores(np.exp(5 * y))
    assert mutual_information(x, squeezed) == pytest.approx(-0.5 * np.log(0.36), abs=0.05)
    assert normal_scores(np.array([[1.0], [1.0], [2.0]]))[:, 0][0] < 0.01


def test_a_common_cause_is_no_information_once_it_is_the_condition() -> None:
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(2500, 1))
    x = cause + 0.3 * rng.normal(size=(2500, 1))
    y = cause + 0.3 * rng.normal(size=(2500, 1))
    free = measure(x, y, permutations=20, subsamples=5)
    given = measure(x, y, cause, permutations=20, subsamples=5)
    assert free.p_value < 0.05
    assert free.excess > 0.5
    assert given.excess == pytest.approx(0.0, abs=0.06)


def test_information_beyond_the_condition_is_found() -> None:
    rng = np.random.default_rng(0)
    cause, own = rng.normal(size=(2, 2500, 1))
    x, y = cause + own, own + 0.5 * rng.normal(size=(2500, 1))
    given = measure(x, y, cause, permutations=20, subsamples=5)
    # Given the cause, x is `own`, of which y knows as much as a correlation of 1 / sqrt(1.25).
    assert given.value == pytest.approx(-0.5 * np.log(1 - 1 / 1.25), abs=0.15)
    assert given.p_value < 0.05


def test_the_error_is_that_of_repeated_samples() -> None:
    values = [mutual_information(*correlated(0.6, n=600, seed=seed)) for seed in range(40)]
    found = measure(*correlated(0.6, n=600), permutations=2, subsamples=40)
    assert found.error == pytest.approx(np.std(values), rel=0.5)


def test_independent_samples_are_rarely_significant() -> None:
    p_values = [
        measure(*correlated(0.0, n=200, seed=seed), permutations=19, subsamples=2).p_value
        for seed in range(40)
    ]
    assert np.mean(np.array(p_values) <= 0.05) < 0.15


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        mutual_information(np.zeros((4, 1)), np.zeros((4, 1)))
