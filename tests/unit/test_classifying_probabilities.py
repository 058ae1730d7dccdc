"""Probabilities of classes: calibration, priors, and conformal sets."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.classifying.calibration import Calibration, calibration_errors, prior_shares
from raypipe.classifying.conformal import Conformal, nonconformity
from raypipe.classifying.forest import source_weights


def test_the_calibration_error_of_true_probabilities_is_that_of_perfect_ones() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 3000)
    codes = (p.cumsum(axis=1) < rng.random((3000, 1))).sum(axis=1)
    found = calibration_errors(p, codes, np.arange(3000), 0)
    assert found["ece"] == pytest.approx(found["ece_of_perfect"], abs=3 * found["ece_error"])
    sharpened = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert calibration_errors(sharpened, codes, np.arange(3000), 0)["ece_top"] > 0.1


def test_probabilities_follow_the_prior() -> None:
    labeled = np.array([0.8, 0.2])
    calibration = Calibration(np.eye(2), np.log(labeled), labeled)
    even = np.array([[0.5, 0.5]])
    p = calibration.apply(even)
    assert p[0] == pytest.approx(labeled)
    assert calibration.for_shares(p, np.array([0.5, 0.5]))[0] == pytest.approx([0.5, 0.5])
    assert calibration.for_shares(p, np.array([0.1, 0.9]))[0] == pytest.approx([0.1, 0.9])


def test_a_prior_may_state_some_classes_only() -> None:
    labeled = np.array([0.5, 0.4, 0.1])
    names = ("A", "B", "C")
    assert prior_shares("labeled", names, labeled) == pytest.approx(labeled)
    assert prior_shares("equal", names, labeled) == pytest.approx([1 / 3] * 3)
    assert prior_shares({"A": 0.9}, names, labeled) == pytest.approx([0.9, 0.08, 0.02])
    with pytest.raises(ValueError, match="QSO"):
        prior_shares({"QSO": 0.9}, names, labeled)


def test_conformal_p_values_are_those_of_the_definition() -> None:
    scores = np.array([0.1, 0.5, 0.9, 0.2, 0.2])
    codes = np.array([0, 0, 0, 1, 1])
    fitted = Conformal.fit(scores, codes, np.ones(5), 2)
    p = fitted.p_values(np.array([[0.5, 0.2], [1.0, 0.3], [0.0, 0.0]]))
    assert p == pytest.approx(np.array([[3 / 4, 1], [1 / 4, 1 / 3], [1, 1]]))


def test_conformal_p_values_are_those_of_crepes() -> None:
    crepes = pytest.importorskip("crepes.base")
    rng = np.random.default_rng(0)
    scores, codes = rng.random(80), rng.integers(0, 3, 80)
    new = rng.random((40, 3))
    ours = Conformal.fit(scores, codes, np.ones(80), 3).p_values(new)
    for k in range(3):
        theirs = crepes.ConformalClassifier().fit(scores[codes == k])
        assert ours[:, k] == pytest.approx(theirs.predict_p(new[:, [k]], smoothing=False)[:, 0])


def test_detections_of_a_source_count_as_one_in_a_calibration() -> None:
    scores = np.concatenate([np.full(100, 0.9), np.linspace(0, 0.5, 9)])
    keys = np.concatenate([np.zeros(100, int), np.arange(1, 10)])
    fitted = Conformal.fit(scores, np.zeros(109, int), source_weights(keys), 1)
    assert fitted.p_values(np.array([[0.9]]))[0, 0] == pytest.approx(2 / 11)


def test_nonconformity_compares_with_the_best_other_class() -> None:
    found = nonconformity(np.array([[0.7, 0.2, 0.1]]))
    assert found[0] == pytest.approx([0.2 - 0.7, 0.7 - 0.2, 0.7 - 0.1])
