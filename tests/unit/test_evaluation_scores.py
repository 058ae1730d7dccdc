"""The cores of evaluation on latents whose answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from raypipe.catalog.hardness import hardness_ratios
from raypipe.config import EvaluateConfig
from raypipe.evaluation.classification import classify, predict_knn, score_probabilities
from raypipe.evaluation.clustering import cluster_scores, map_clusters, merge_compact
from raypipe.evaluation.regression import (
    Target,
    r_squared,
    regress,
    regression_targets,
)
from raypipe.evaluation.validation import (
    bootstrap_sums,
    grouped_folds,
    labeled_rows,
    limit,
    score_classes,
    sources_of,
)

CLASSES = np.array(["AGN", "CV", "HM-STAR", "HMXB", "LM-STAR", "LMXB", "NS", "YSO"], dtype=object)
SETTINGS = EvaluateConfig(neighbors=5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def population(separation: float, per_class: int = 40, seed: int = 0) -> Any:
    """Latents of 8 classes on a simplex, two detections a source."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(8), per_class)
    features = rng.normal(size=(len(codes), 8)) + separation * np.eye(8)[codes]
    sources = np.array([f"source {i // 2}" for i in range(len(codes))], dtype=object)
    return features, CLASSES[codes], sources


def test_separated_classes_are_told_apart_perfectly() -> None:
    features, classes, sources = population(separation=30.0)
    scores = classify(features, classes, sources, SETTINGS)
    clusters = cluster_scores(features, classes, sources, SETTINGS)
    assert scores["knn"]["balanced_accuracy"] == 1.0
    assert scores["boosting"]["balanced_accuracy"] > 0.98
    assert clusters["all_classes"]["balanced_accuracy"] == pytest.approx(1.0, abs=0.02)
    assert clusters["agn_compact"]["balanced_accuracy"] == pytest.approx(1.0, abs=0.02)
    assert scores["classes"] == list(CLASSES)


def test_latents_without_classes_score_as_a_guess_does() -> None:
    features, classes, sources = population(separation=0.0, per_class=60)
    features += np.random.default_rng(1).normal(size=(1, 8))
    scores = classify(features, classes, sources, SETTINGS)
    clusters = cluster_scores(features, classes, sources, SETTINGS)
    for value in (
        scores["knn"]["balanced_accuracy"],
        scores["boosting"]["balanced_accuracy"],
        clusters["all_classes"]["balanced_accuracy"],
    ):
        assert value == pytest.approx(1 / 8, abs=0.06)
    assert clusters["agn_compact"]["balanced_accuracy"] == pytest.approx(0.5, abs=0.15)


def test_a_source_seen_twice_does_not_help() -> None:
    """Identical detections of one source: a split by row would score 1."""
    rng = np.random.default_rng(2)
    n_sources = 160
    features = np.repeat(rng.normal(size=(n_sources, 8)), 4, axis=0)
    classes = CLASSES[np.repeat(rng.integers(8, size=n_sources), 4)]
    sources = np.repeat([f"s{i}" for i in range(n_sources)], 4).astype(object)
    scores = classify(features, classes, sources, EvaluateConfig(neighbors=3))
    assert scores["knn"]["balanced_accuracy"] < 0.3
    assert scores["boosting"]["balanced_accuracy"] < 0.3


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 11), min_size=30, max_size=80),
    st.integers(2, 5),
    st.integers(0, 2**31 - 1),
)
def test_folds_never_share_a_source(groups: list[int], folds: int, seed: int) -> None:
    groups = [*groups, *range(12)]
    sources = np.array([f"s{group}" for group in groups], dtype=object)
    strata = np.array(groups) % 2
    judged = []
    for train, test in grouped_folds(strata, sources, folds, seed):
        assert not set(sources[train]) & set(sources[test])
        judged.extend(test.tolist())
    assert sorted(judged) == list(range(len(groups)))
    reference = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    expected = reference.split(np.zeros((len(strata), 1)), strata, groups=sources)
    for found, wanted in zip(grouped_folds(strata, sources, folds, seed), expected, strict=True):
        np.testing.assert_array_equal(found[1], wanted[1])


def test_of_many_rows_some_are_drawn_in_their_order() -> None:
    rows = np.arange(100, 200)
    np.testing.assert_array_equal(limit(rows, 100, 0), rows)
    drawn = limit(rows, 10, 0)
    assert len(set(drawn.tolist())) == 10
    assert set(drawn.tolist()) <= set(rows.tolist())
    np.testing.assert_array_equal(drawn, np.sort(drawn))
    np.testing.assert_array_equal(drawn, limit(rows, 10, 0))


def test_rare_classes_are_left_out_and_named() -> None:
    features, classes, sources = population(separation=30.0)
    classes[classes == "NS"] = "AGN"
    classes[:3] = "NS"
    scores = classify(features, classes, sources, SETTINGS)
    assert scores["left_out"] == {"NS": 2}
    assert "NS" not in scores["classes"]
    assert scores["n_rows"] == len(classes) - 3


@pytest.mark.parametrize(
    ("classes", "reason"),
    [([None] * 30, "no row has a class"), (["AGN"] * 30, "fewer than two classes")],
)
def test_what_cannot_be_measured_says_why(classes: list[Any], reason: str) -> None:
    features = np.random.default_rng(0).normal(size=(30, 8))
    sources = np.array([f"s{i}" for i in range(30)], dtype=object)
    column = np.array(classes, dtype=object)
    scores = classify(features, column, sources, SETTINGS)
    clusters = cluster_scores(features, column, sources, SETTINGS)
    for section in (scores["knn"], scores["boosting"], clusters["all_classes"]):
        assert section["balanced_accuracy"] is None
        assert reason in section["reason"]


def test_balanced_accuracy_error_and_confusion_of_a_known_case() -> None:
    codes = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 1, 1, -1])
    sources = np.array(list("abcdef"), dtype=object)
    scores = score_classes(codes, predicted, sources, ("AGN", "CV"), seed=0)
    assert scores["recall"] == {"AGN": 0.75, "CV": 0.5}
    assert scores["balanced_accuracy"] == 0.625
    assert scores["confusion"] == {"classes": ["AGN", "CV"], "matrix": [[3, 1], [0, 1]]}
    assert scores["unassigned"] == 1
    assert 0.1 < scores["balanced_accuracy_error"] < 0.4


def test_error_resamples_sources_not_rows() -> None:
    """400 rows of 10 sources, all right or all wrong: as uncertain as 10 coins."""
    right = np.repeat([0, 1] * 5, 40)
    sources = np.repeat([f"s{i}" for i in range(10)], 40).astype(object)
    codes = np.zeros(400, dtype=np.int64)
    scores = score_classes(codes, np.where(right, 0, -1), sources, ("AGN",), seed=0)
    assert scores["balanced_accuracy"] == 0.5
    assert scores["balanced_accuracy_error"] == pytest.approx(0.158, abs=0.02)
    sums = bootstrap_sums(np.column_stack([np.ones(400), right]), sources, 0)
    assert np.all(sums[:, 0] == 400)
    assert np.all(sums[:, 1] % 40 == 0)


def test_knn_votes_do_not_favor_the_frequent_class() -> None:
    rng = np.random.default_rng(3)
    offset = np.array([1.5, 0.0])
    features = rng.normal(size=(315, 2))
    features[300:] += offset
    codes = np.repeat([0, 1], [300, 15])
    rare = rng.normal(size=(200, 2)) + offset
    predicted = predict_knn(features, codes, rare, EvaluateConfig(neighbors=15))
    assert (predicted == 1).mean() > 0.6


def test_clusters_stand_for_the_class_with_the_largest_share_of_its_own() -> None:
    clusters = np.array([0] * 10 + [1] * 90 + [0] * 5)
    codes = np.array([0] * 100 + [1] * 5)
    assert map_clusters(clusters, codes, components=3).tolist() == [1, 0, -1]


def test_compact_objects_are_binaries_and_neutron_stars() -> None:
    merged = merge_compact(np.array([*CLASSES, None], dtype=object))
    assert merged.tolist() == [
        "AGN", None, None, "compact", None, "compact", "compact", None, None,
    ]  # fmt: skip


def test_catalog_probabilities_are_judged_as_they_are() -> None:
    classes = np.array(["AGN", "AGN", "YSO", "YSO"], dtype=object)
    frame = pd.DataFrame(
        {"p_AGN": [0.9, 0.2, 0.2, 0.7], "p_NS": [0.0, 0.5, 0.0, 0.0], "p_YSO": [0.1, 0.3, 0.8, 0.3]}
    )
    sources = np.array(list("abcd"), dtype=object)
    settings = EvaluateConfig(folds=2)
    known = ("AGN", "NS", "YSO")
    scores = score_probabilities(frame, known, classes, sources, settings)
    assert scores["balanced_accuracy"] == 0.5
    assert scores["confusion"]["matrix"] == [[1, 0], [1, 1]]
    assert scores["unassigned"] == 1
    assert scores["log_loss"] == pytest.approx(-np.log([0.9, 0.2, 0.8, 0.3]).mean())
    missing = score_probabilities(frame[["p_AGN"]], known, classes, sources, settings)
    assert missing["reason"] == "the catalog has no columns p_YSO"
    few = score_probabilities(frame, known, classes, sources, SETTINGS)
    assert few["balanced_accuracy"] is None


def test_a_column_that_begins_with_p_is_no_class_of_the_model() -> None:
    classes = np.array(["AGN", "AGN", "YSO", "YSO"], dtype=object)
    frame = pd.DataFrame({"p_AGN": [0.9, 0.8, 0.2, 0.1], "p_YSO": [0.1, 0.2, 0.8, 0.9]})
    sources = np.array(list("abcd"), dtype=object)
    settings = EvaluateConfig(folds=2)
    matched = frame.assign(p_any=1.0, p_i=[1.0, 0.9, 1.0, 0.9], p_note="text")
    alone, beside = (
        score_probabilities(each, ("AGN", "YSO"), classes, sources, settings)
        for each in (frame, matched)
    )
    assert alone == beside
    assert alone["balanced_accuracy"] == 1.0


def test_regression_finds_what_is_there_and_nothing_else() -> None:
    features, _, sources = population(separation=0.0, per_class=60)
    noise = np.random.default_rng(4).normal(size=len(features))
    targets = {
        "log_nh": Target(21 + features[:, 0], "log_nh"),
        "photon_index": Target(noise, "photon_index"),
        "log_kt": None,
        "hard_ms": Target(np.ones(len(features)), "constant"),
        "hard_hm": Target(np.where(np.arange(len(features)) < 20, 1.0, np.nan), "sparse"),
    }
    scores = regress(features, targets, sources, SETTINGS)
    assert scores["log_nh"]["boosting"]["r2"] > 0.9
    assert scores["log_nh"]["boosting"]["r2_error"] < 0.05
    assert scores["photon_index"]["boosting"]["r2"] < 0.1
    assert scores["log_kt"]["reason"] == "no such column in the catalog or the labels"
    assert scores["hard_ms"]["reason"] == "all rows have the same value"
    assert "only 20 rows" in scores["hard_hm"]["reason"]


def test_r_squared_of_a_known_case() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0])
    sources = np.array(list("abcd"), dtype=object)
    assert r_squared(values, values, sources, 0)["r2"] == 1.0
    assert r_squared(values, np.full(4, 1.5), sources, 0)["r2"] == pytest.approx(0.0)


def test_hardness_ratios_subtract_the_background() -> None:
    frame = pd.DataFrame(
        {
            "counts_s": [30, 5, 0],
            "counts_m": [60, 10, 0],
            "counts_h": [20, 8, 0],
            "background_counts_s": [100, 100, 0],
            "background_counts_m": [100, 0, 0],
            "background_counts_h": [0, 0, 0],
            "background_scale": [0.1, 0.1, np.nan],
        }
    )
    ratios = hardness_ratios(frame)
    assert ratios["hard_ms"].tolist()[:2] == pytest.approx([(50 - 20) / 70, 1.0])
    assert ratios["hard_hm"].iloc[0] == pytest.approx((20 - 50) / 70)
    assert ratios.iloc[2].isna().all()
    assert ratios.iloc[:2].abs().to_numpy().max() <= 1.0


def test_column_density_prefers_the_truth_and_knows_the_catalog_unit() -> None:
    frame = pd.DataFrame({"powlaw_nh": [100.0, 0.0], "powlaw_gamma": [1.7, np.nan]})
    targets = regression_targets(frame)
    assert targets["log_nh"] is not None
    assert targets["log_nh"].values.tolist() == pytest.approx([22.0, np.nan], nan_ok=True)
    assert targets["photon_index"] is not None
    assert targets["photon_index"].definition == "powlaw_gamma"
    truth = regression_targets(frame.assign(log_nh=[21.0, 23.0]))["log_nh"]
    assert truth is not None
    assert truth.definition == "log_nh"
    assert targets["hard_hs"] is None


def test_unnamed_detections_are_their_own_source() -> None:
    frame = pd.DataFrame(
        {"detection_id": ["a", "b", "c", "d"], "name": ["2CXO J1", None, " ", "2CXO J1"]}
    )
    assert sources_of(frame).tolist() == ["2CXO J1", "b", "c", "2CXO J1"]
    assert sources_of(frame[["detection_id"]]).tolist() == ["a", "b", "c", "d"]


def test_labeled_rows_without_enough_sources() -> None:
    classes = np.array(["AGN"] * 10 + ["YSO"] * 10, dtype=object)
    sources = np.array(["one"] * 10 + [f"s{i}" for i in range(10)], dtype=object)
    labeled = labeled_rows(classes, sources, folds=3)
    assert labeled.left_out == {"AGN": 1}
    assert labeled.reason is not None
