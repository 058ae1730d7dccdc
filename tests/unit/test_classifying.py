"""Classify sources of known classes: features, forests, calibration, sets, likeness, saving."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import RandomForestClassifier

from raypipe.classifying.apply import classify_rows
from raypipe.classifying.calibration import calibration_errors
from raypipe.classifying.classifier import Classifier, judge
from raypipe.classifying.features import GROUPS, Features, features_of, galactic_latitude
from raypipe.classifying.forest import Forest, grow
from raypipe.classifying.measure import judged_by_others, measure, measure_left_out
from raypipe.classifying.saved import classifier_bytes, read_classifier
from raypipe.classifying.training import ClassNamesError, Trained, labeled_rows, train_classifier
from raypipe.config import ClassifyConfig
from raypipe.errors import RaypipeError, UsageError

CLASSES = ("AGN", "LM-STAR", "YSO")
FAST = ClassifyConfig(trees=50)


def blobs(
    sources: int = 300, detections: int = 2, seed: int = 0, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw latents (n, 3) of three overlapping classes, with their codes and source keys."""
    rng = np.random.default_rng(seed)
    code = rng.choice(3, sources, p=[0.6, 0.1, 0.3])
    middle = np.array([[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0]])[code]
    of_source = middle + spread * rng.normal(size=(sources, 3))
    z = np.repeat(of_source, detections, axis=0)
    z = z + 0.3 * rng.normal(size=z.shape)
    return z, np.repeat(code, detections), np.repeat(np.arange(sources) * 7 + 3, detections)


def as_features(z: np.ndarray, group: str = "spectrum") -> Features:
    names = tuple(f"z{i}" for i in range(z.shape[1]))
    return Features(names, (group,) * len(names), z.astype(np.float32))


def trained(seed: int = 0, sources: int = 300) -> Trained:
    z, codes, keys = blobs(sources, seed=seed)
    return train_classifier(
        as_features(z), z, codes, keys, CLASSES, FAST, model_id="m", context="all"
    )


@pytest.fixture(scope="module")
def known() -> Trained:
    return trained()


def test_galactic_latitudes_are_those_of_known_places() -> None:
    # The Galactic center, the north Galactic pole, and no position.
    ra, dec = np.array([266.405, 192.859, np.nan]), np.array([-28.936, 27.128, 5.0])
    latitude = galactic_latitude(ra, dec)
    assert latitude[:2] == pytest.approx([0.0, 90.0], abs=0.01)
    assert np.isnan(latitude[2])


def test_context_can_be_left_out_and_extended() -> None:
    frame = pd.DataFrame(
        {"z0": [0.1], "ra": [10.0], "dec": [-5.0], "nh_gal": [3.0], "gmag": [17.5], "flux_b": [0.0]}
    )
    with_context = features_of(frame, columns=["gmag"])
    assert {"abs_b", "log_nh_gal", "gmag"} <= set(with_context.names)
    without = features_of(frame, context="none", columns=["gmag"])
    assert "context" not in without.groups
    assert set(with_context.names) - set(without.names) == {"abs_b", "log_nh_gal", "gmag"}
    assert np.isfinite(with_context.select(["log_flux_b"]).values).all()


def test_a_context_column_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"context_columns.*gmag"):
        features_of(pd.DataFrame({"z0": [0.1]}), columns=["gmag"])


def test_the_flux_of_the_csc_stands_in_where_raypipe_has_measured_none() -> None:
    own = features_of(pd.DataFrame({"flux_b": [1e-14], "flux_aper90_b": [1e-12]}))
    csc = features_of(pd.DataFrame({"flux_aper90_b": [1e-12]}))
    assert own.select(["log_flux_b"]).values[0, 0] == pytest.approx(-14)
    assert csc.select(["log_flux_b"]).values[0, 0] == pytest.approx(-12)


def test_a_forest_of_arrays_gives_the_probabilities_of_scikit_learn() -> None:
    z, codes, _ = blobs()
    values = z.astype(np.float32)
    values[::5, 0] = np.nan
    fitted = RandomForestClassifier(20, min_samples_leaf=3, random_state=0).fit(values, codes)
    forest = Forest.of(fitted, 3)
    rng = np.random.default_rng(1)
    new = rng.normal(size=(500, 3)).astype(np.float32) * 2
    new[rng.random(new.shape) < 0.2] = np.nan
    assert forest.problem(3) is None
    assert forest.predict(new) == pytest.approx(fitted.predict_proba(new), abs=1e-6)


def test_what_groups_add_sums_to_the_probability() -> None:
    z, codes, _ = blobs()
    fitted = RandomForestClassifier(20, min_samples_leaf=3, random_state=0).fit(z, codes)
    forest = Forest.of(fitted, 3)
    shares, added = forest.explain(z.astype(np.float32), np.array([0, 1, 1]), 2)
    root = forest.value[forest.roots].mean(axis=0)
    assert root + added.sum(axis=1) == pytest.approx(shares, abs=1e-6)


def test_joined_forests_give_their_mean_and_ask_for_their_own_features() -> None:
    z, codes, _ = blobs()
    columns = (np.array([0, 2]), np.array([1]))
    weights = np.ones(len(z))
    parts = [grow(z[:, own], codes, weights, 3, trees=8, seed=1) for own in columns]
    joined = Forest.joined(parts, columns)
    assert joined.problem(3) is None
    new = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    each = [part.predict(new[:, own]) for part, own in zip(parts, columns, strict=True)]
    assert joined.predict(new) == pytest.approx(np.mean(each, axis=0), abs=1e-9)


def test_one_half_of_the_trees_sees_latents_and_the_other_half_fits() -> None:
    z, codes, keys = blobs()
    values = np.hstack([z, z[:, :1]]).astype(np.float32)
    names, groups = ("z0", "powlaw_gamma", "z1", "abs_b"), ("spectrum",) * 3 + ("context",)
    features = Features(names, groups, values)
    found = train_classifier(features, z, codes, keys, CLASSES, FAST, model_id="m", context="all")
    for forest in found.classifier.forests:
        asked = asked_by_tree(forest)
        half = len(asked) // 2
        assert set.union(*asked[:half]) == {0, 2, 3}
        assert set.union(*asked[half:]) == {1, 3}
    for kept in (["z0", "z1", "abs_b"], ["powlaw_gamma", "abs_b"]):
        (every,) = features.select(kept).views()
        assert every.tolist() == list(range(len(kept)))


def asked_by_tree(forest: Forest) -> list[set[int]]:
    ends = [*forest.roots[1:], len(forest.feature)]
    return [
        set(forest.feature[first:end].tolist()) - {-1}
        for first, end in zip(forest.roots, ends, strict=True)
    ]


def test_an_answer_rests_on_the_group_that_tells_the_classes_apart() -> None:
    z, codes, keys = blobs()
    noise = np.random.default_rng(5).normal(size=(len(z), 2))
    features = Features(
        ("z0", "z1", "z2", "log_flux_b", "abs_b"),
        ("spectrum",) * 3 + ("flux", "context"),
        np.hstack([z, noise]).astype(np.float32),
    )
    found = train_classifier(features, z, codes, keys, CLASSES, FAST, model_id="m", context="all")
    answers = judge(found.classifier.detections, found.raw, np.full(3, 1 / 3), 0.9)
    shares = dict(zip(GROUPS, answers.rests_on.mean(axis=0), strict=True))
    assert shares["spectrum"] > 0.7
    assert shares["variability"] == 0


def test_no_source_votes_on_itself() -> None:
    """Noise is not learned: a labeled source is judged by a forest that has not seen it."""
    rng = np.random.default_rng(0)
    keys = np.repeat(np.arange(200), 4)
    z = np.repeat(rng.normal(size=(200, 3)), 4, axis=0)
    codes = np.repeat(rng.integers(0, 2, 200), 4)
    found = train_classifier(
        as_features(z), z, codes, keys, ("A", "B"), FAST, model_id="m", context="all"
    )
    assert np.mean(found.raw.votes.argmax(axis=1) == codes) == pytest.approx(0.5, abs=0.12)
    again = found.classifier.raw(as_features(z), z, keys)
    assert again.votes == pytest.approx(found.raw.votes)
    as_new = found.classifier.raw(as_features(z), z, keys + 10_000)
    assert np.mean(as_new.votes.argmax(axis=1) == codes) > 0.8


def test_probabilities_hold_for_new_sources(known: Trained) -> None:
    z, codes, keys = blobs(2000, seed=9)
    raw = known.classifier.raw(as_features(z), z, keys + 10**6)
    calibration = known.classifier.detections.calibration
    errors = calibration_errors(calibration.apply(raw.votes), codes, keys, 0)
    assert errors["ece"] < 0.03
    wrong = calibration_errors(raw.votes, codes, keys, 0)
    assert errors["ece"] < 0.6 * wrong["ece"]


def test_sets_hold_the_class_as_often_as_they_promise_class_by_class(known: Trained) -> None:
    z, codes, keys = blobs(3000, seed=4)
    raw = known.classifier.raw(as_features(z), z, keys + 10**6)
    answers = judge(known.classifier.detections, raw, np.full(3, 1 / 3), 0.9)
    for code in range(3):
        rows = codes == code
        assert answers.in_set[rows, code].mean() > 0.84
    assert answers.in_set.sum(axis=1).mean() < 2


def test_a_rare_class_is_not_drowned(known: Trained) -> None:
    judged = judged_by_others(known.raw, *_labels(known), known.fold)
    found = measure(judged, CLASSES, coverage=0.9, unlike_p=0.01, seed=0)
    rare = found["classes"]["LM-STAR"]
    assert rare["recall"] > 0.75
    assert found["balanced_accuracy"] >= found["balanced_accuracy_labeled"]
    assert found["ece"] < 0.04
    assert found["coverage"] == pytest.approx(0.9, abs=0.05)


def _labels(found: Trained) -> tuple[np.ndarray, np.ndarray]:
    _, codes, keys = blobs()
    return codes, keys


def test_what_is_far_from_all_classes_is_unlike_them(known: Trained) -> None:
    z, _, keys = blobs(500, seed=2)
    far = z + np.array([0.0, 0.0, 9.0])
    near = known.classifier.raw(as_features(z), z, keys + 10**6)
    away = known.classifier.raw(as_features(far), far, keys + 10**6)
    p_near = known.classifier.detections.strange.p_values(near.strange)
    p_away = known.classifier.detections.strange.p_values(away.strange)
    assert (p_near <= 0.05).mean() < 0.1
    assert (p_away <= 0.05).mean() > 0.9


def test_a_class_that_was_left_out_stands_out_if_it_lies_apart() -> None:
    z, codes, keys = blobs()
    z[codes == 2] += 20
    fold = keys % 5
    found = measure_left_out(as_features(z), z, codes, keys, fold, CLASSES, unlike_p=0.01, seed=0)
    assert found["YSO"]["auc"] > 0.95
    assert found["YSO"]["found_at_5_percent"] > 0.9
    assert all(each["found"] <= each["found_at_5_percent"] for each in found.values())
    assert found["AGN"]["auc"] < found["YSO"]["auc"]


def test_rows_and_sources_are_classified_in_any_order(known: Trained) -> None:
    z, _, keys = blobs(40, seed=3)
    order = np.random.default_rng(0).permutation(len(z))
    prior = np.full(3, 1 / 3)

    def run(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = classify_rows(
            known.classifier, as_features(z[rows]), z[rows], keys[rows], (prior, prior), 0.9
        )
        assert len(found.keys) == 40
        return found.detections.probabilities, found.sources.probabilities

    straight, mixed = run(np.arange(len(z))), run(order)
    assert mixed[0] == pytest.approx(straight[0][order])
    assert mixed[1] == pytest.approx(straight[1])


def test_labels_that_cannot_teach_are_refused() -> None:
    keys = np.arange(12)
    usable = np.ones(12, bool)
    with pytest.raises(UsageError, match="no detection with latents has a class"):
        labeled_rows(np.full(12, None, object), keys, usable, 5)
    with pytest.raises(UsageError, match=r"AGN \(12\).*add labels"):
        labeled_rows(np.full(12, "AGN", object), keys, usable, 5)
    some = np.array(["AGN"] * 5 + ["YSO"] * 5 + ["CV"] * 2, object)
    found = labeled_rows(some, keys, usable, 5)
    assert (found.classes, found.left_out) == (("AGN", "YSO"), {"CV": 2})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("agn", "differs from AGN only by upper and lower case"),
        ("cluster_3", "p_cluster_3 is a column of raypipe cluster"),
        ("A|B", "class_set separates classes by"),
        ("A\tB", "a control character"),
    ],
)
def test_classes_that_cannot_name_columns_are_refused(name: str, reason: str) -> None:
    labels = np.array(["AGN"] * 5 + [name] * 5, object)
    with pytest.raises(ClassNamesError, match=reason):
        labeled_rows(labels, np.arange(10), np.ones(10, bool), 5)


def test_a_saved_classifier_answers_the_same(known: Trained, tmp_path: Path) -> None:
    file = tmp_path / "classifier.safetensors"
    file.write_bytes(classifier_bytes(known.classifier))
    again, _ = read_classifier(file)
    z, _, keys = blobs(50, seed=8)
    for each in (keys, keys + 10**6):
        one, two = (c.raw(as_features(z), z, each) for c in (known.classifier, again))
        assert np.array_equal(one.votes, two.votes)
        assert np.array_equal(one.strange, two.strange)
    one, two = (
        judge(c.sources, known.raw, np.full(3, 1 / 3), 0.9) for c in (known.classifier, again)
    )
    assert np.array_equal(one.probabilities, two.probabilities)
    assert np.array_equal(one.in_set, two.in_set)


def _changed(known: Classifier, file: Path, name: str, change: object) -> None:
    file.write_bytes(classifier_bytes(known))
    tensors = load_file(file)
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    tensors[name] = change(tensors[name].copy())  # type: ignore[operator]
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, file, metadata)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("forest.0.left", lambda v: np.zeros_like(v), "leads back"),
        ("forest.0.right", lambda v: v + len(v), "does not exist"),
        ("forest.1.feature", lambda v: v + 100, "does not exist"),
        ("forest.1.threshold", lambda v: v * np.nan, "impossible"),
        ("forest.0.roots", lambda v: v - 1, "does not exist"),
        ("forest.0.value", lambda v: v[:, :2], "other classes"),
        ("density.0.precision_factors", lambda v: -v, "impossible"),
        ("known", lambda v: v[::-1], "not in order"),
        ("detections.conformal.starts", lambda v: v + 1, "out of order"),
        ("sources.bias", lambda v: v * np.nan, "impossible"),
    ],
)
def test_a_hostile_classifier_is_refused(
    known: Trained, tmp_path: Path, name: str, change: object, says: str
) -> None:
    file = tmp_path / "hostile.safetensors"
    _changed(known.classifier, file, name, change)
    with pytest.raises(RaypipeError, match=says):
        read_classifier(file)


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    for data in (b"", b"\xff" * 64, json.dumps({"a": 1}).encode()):
        file.write_bytes(data)
        with pytest.raises(UsageError, match="not a classifier"):
            read_classifier(file)
    save_file({"weights": np.zeros(3)}, file)
    with pytest.raises(UsageError, match=r"other\.safetensors: not a classifier"):
        read_classifier(file)


def test_a_classifier_of_impossible_size_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypipe.classifying.saved.MOST_BYTES", 10)
    file = tmp_path / "large.safetensors"
    file.write_bytes(b"0" * 11)
    with pytest.raises(RaypipeError, match="more than a classifier has"):
        read_classifier(file)
