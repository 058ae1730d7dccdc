from __future__ import annotations

import numpy as np
import pytest

from raypipe.evaluation.classification import measure_reliability
from raypipe.model.latent_population import Population, sharpened

CLASSES = np.array(["AGN", "CV", "YSO"], dtype=object)


def draw(rng: np.random.Generator, n: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Latents of three overlapping classes of very different size, and their classes."""
    codes = rng.choice(3, n, p=[0.8, 0.15, 0.05])
    centers = np.zeros((3, 4))
    centers[1, 0], centers[2, 1] = 1.5, 1.5
    return centers[codes] + rng.normal(size=(n, 4)) * spread, codes


@pytest.fixture(scope="module")
def population() -> Population:
    z, codes = draw(np.random.default_rng(0), 6000, 1.0)
    return Population.fit(z, CLASSES[codes], np.arange(len(z)), references=6000, seed=0)


def test_probabilities_are_calibrated(population: Population) -> None:
    z, codes = draw(np.random.default_rng(1), 6000, 1.0)
    reliability = measure_reliability(population.class_probabilities(z), codes)
    assert reliability["calibration_error"] < 0.05
    assert sum(each["n"] for each in reliability["bins"]) == 3 * 6000
    for temperature in 0.5, 2.0:
        other = sharpened(population.class_probabilities(z), temperature)
        error = measure_reliability(other, codes)["calibration_error"]
        assert error > 1.3 * reliability["calibration_error"]


def test_the_density_scheme_finds_classes_too(population: Population) -> None:
    z, codes = draw(np.random.default_rng(2), 3000, 0.5)
    p = population.class_probabilities(z, scheme="density")
    assert p.sum(axis=1) == pytest.approx(1.0)
    recalls = [(p.argmax(1) == code)[codes == code].mean() for code in range(3)]
    assert min(recalls) > 0.4
    centers = np.array([[0.0, 0, 0, 0], [3.0, 0, 0, 0], [0, 3.0, 0, 0]])
    p = population.class_probabilities(centers, scheme="density")
    assert p.argmax(1).tolist() == [0, 1, 2]


def test_a_class_without_members_in_a_component_has_no_probability_there() -> None:
    rng = np.random.default_rng(3)
    near, far = rng.normal(size=(400, 2)), rng.normal(size=(400, 2)) + 30.0
    labels = np.array(["AGN"] * 200 + ["CV"] * 200 + ["YSO"] * 400, dtype=object)
    z = np.concatenate([near, far])
    population = Population.fit(z, labels, np.arange(800), references=800, seed=0)
    p = population.class_probabilities(np.array([[30.0, 30.0], [0.0, 0.0]]), scheme="density")
    assert p[0].tolist() == [0.0, 0.0, 1.0]
    assert p[1, 2] == 0.0
    assert p[1, :2] == pytest.approx(0.5, abs=0.2)


def test_reliability_of_what_is_always_right() -> None:
    codes = np.array([0, 1, 1, 0])
    sure = measure_reliability(np.eye(2)[codes], codes)
    assert sure["calibration_error"] == 0.0
    wrong = measure_reliability(np.eye(2)[1 - codes], codes)
    assert wrong["calibration_error"] == 1.0


def test_cross_validated_accuracy_is_that_on_new_sources(population: Population) -> None:
    z, codes = draw(np.random.default_rng(3), 6000, 1.0)
    right = population.class_probabilities(z).argmax(axis=1) == codes
    recalls = [right[codes == code].mean() for code in range(3)]
    assert population.balanced_accuracy() == pytest.approx(np.mean(recalls), abs=0.03)


def test_cross_validation_does_not_let_a_source_vote_on_itself() -> None:
    """Detections of one source lie together, and class is drawn by lot: nothing can be learned."""
    rng = np.random.default_rng(4)
    z = np.repeat(rng.normal(size=(150, 4)) * 5, 4, axis=0) + rng.normal(size=(600, 4)) * 1e-3
    labels = np.repeat(CLASSES[:2][rng.integers(2, size=150)], 4)
    sources = np.repeat(np.arange(150), 4)
    alike = Population.fit(z, labels, sources, references=600, seed=0).balanced_accuracy()
    naive = Population.fit(z, labels, np.arange(600), references=600, seed=0).balanced_accuracy()
    assert alike is not None
    assert naive is not None
    assert alike == pytest.approx(0.5, abs=0.1)
    assert naive > alike + 0.05


def test_too_few_members_have_no_accuracy() -> None:
    z = np.random.default_rng(5).normal(size=(12, 4))
    labels = np.array(["AGN"] * 9 + ["CV"] * 3, dtype=object)
    few = Population.fit(z, labels, np.arange(12), references=12, seed=0)
    assert few.balanced_accuracy() is None
