"""Labels, truth, baselines and the verb evaluate on a workspace whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from raypipe.catalog.labels import clean_classes, join_labels, read_labels, true_counts
from raypipe.errors import UsageError
from raypipe.evaluation.baselines import min_max_rates, pca_representations, root_shares
from raypipe.evaluation.evaluate import evaluate
from raypipe.evaluation.selection import BinnedSpectra, bin_true_counts, choose_rows, limit_rows
from raypipe.evaluation.summary import fingerprint, headlines
from raypipe.model.fit_scores import score_reconstruction, score_truth
from raypipe.model.statistics import cash, cash_moments
from raypipe.store.run_record import plain
from tests.unit.synthetic_workspace import BINS, RELEASE, Synthetic, make_workspace

FAST = {"evaluate": {"folds": 2, "mixture_components": 8, "neighbors": 5}}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    folder = tmp_path_factory.mktemp("synthetic")
    return make_workspace(folder, detections=240, presets=("folded", "paper"))


def fits_of(counts: np.ndarray, model: np.ndarray) -> pd.DataFrame:
    statistic = cash(counts, model).sum(axis=1)
    mean, variance = (moment.sum(axis=1) for moment in cash_moments(model))
    return pd.DataFrame(
        {
            "cash": statistic,
            "cash_expected": mean,
            "fit_zscore": (statistic - mean) / np.sqrt(variance),
            "total_counts": counts.sum(axis=1),
            "n_bins": np.full(len(counts), counts.shape[1]),
        }
    )


def test_the_truth_has_no_excess_and_unit_zscores() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 10, (600, 64))
    counts = rng.poisson(truth)
    scores = score_reconstruction(fits_of(counts, truth), score_truth(counts, truth, truth))
    assert scores["excess_cash_per_bin"] == pytest.approx(0.0, abs=1e-12)
    assert scores["divergence_per_bin"] == pytest.approx(0.0, abs=1e-12)
    assert scores["fit_zscore"]["width"] == pytest.approx(1.0, abs=0.1)
    assert scores["fit_zscore"]["mean"] == pytest.approx(0.0, abs=0.15)
    assert sum(row["n_rows"] for row in scores["by_counts"]) == 600


def test_a_wrong_model_has_an_excess_that_equals_its_divergence() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(2, 10, (2000, 64))
    model = truth * 1.3
    counts = rng.poisson(truth)
    scores = score_reconstruction(fits_of(counts, model), score_truth(counts, truth, model))
    expected = float(2 * (0.3 - np.log(1.3)) * truth.mean())
    assert scores["divergence_per_bin"] == pytest.approx(expected)
    assert scores["excess_cash_per_bin"] == pytest.approx(expected, rel=0.03)
    assert scores["fit_zscore"]["mean"] > 1


def test_rows_without_truth_do_not_count() -> None:
    truth = np.full((3, 4), 5.0)
    counts = np.full((3, 4), 5)
    frame = fits_of(counts, truth)
    truth[2] = np.nan
    scores = score_reconstruction(frame, score_truth(counts, truth, None))
    assert scores["excess_cash_per_bin"] == 0.0
    assert scores["divergence_per_bin"] is None


@pytest.mark.parametrize(
    ("splits", "chosen", "count"),
    [
        (["test"] * 60 + ["train"] * 40, "test", 60),
        (["test"] * 30 + ["unseen"] * 30 + ["train"] * 9, "test+unseen", 60),
        (["test"] * 6, "test", 6),
        (["unseen"] * 6, "unseen", 6),
        (["test"] * 10 + ["train"] * 90, "all", 100),
    ],
)
def test_which_rows_are_judged_is_said(splits: list[str], chosen: str, count: int) -> None:
    mask, rows, why = choose_rows(pd.DataFrame({"split": splits}))
    assert (rows, mask.sum()) == (chosen, count)
    assert why


CATALOG = pd.DataFrame(
    {
        "detection_id": ["csc2.1:1.0.5", "csc2.1:2.0.6", "csc2.1:3.0.7"],
        "obsid": [1, 2, 3],
        "obi": [0, 0, 0],
        "region_id": [5, 6, 7],
        "name": ["2CXO A", "2CXO A", None],
        "class": ["old", "old", "old"],
    }
)


def test_labels_join_on_the_first_key_that_matches() -> None:
    by_id = pd.DataFrame({"detection_id": ["csc2.1:2.0.6"], "class": ["AGN"], "log_nh": [21.5]})
    joined, keys = join_labels(CATALOG, by_id)
    assert keys == "detection_id"
    assert clean_classes(joined["class"]).tolist() == [None, "AGN", None]
    assert joined["log_nh"].tolist() == pytest.approx([np.nan, 21.5, np.nan], nan_ok=True)

    other_release = pd.DataFrame(
        {"detection_id": ["csc2.0:3.0.7"], "obsid": [3], "obi": [0], "region_id": [7.0],
         "class": ["NS"]}
    )  # fmt: skip
    joined, keys = join_labels(CATALOG, other_release)
    assert keys == "obsid, obi, region_id"
    assert clean_classes(joined["class"]).tolist() == [None, None, "NS"]


def test_labels_by_name_carry_the_class_alone() -> None:
    labels = pd.DataFrame(
        {"name": ["2CXO A", "2CXO A", None], "class": ["CV", "CV", "YSO"], "log_nh": [20, 21, 22]}
    )
    joined, keys = join_labels(CATALOG, labels)
    assert keys == "name"
    assert clean_classes(joined["class"]).tolist() == ["CV", "CV", None]
    assert "log_nh" not in joined


def test_labels_without_a_common_key_join_by_position(tmp_path: Path) -> None:
    placed = CATALOG.assign(ra=[10.0, 10.0, 200.0], dec=[-5.0, -5.01, 60.0])
    lines = ["RA,Dec,class,log_nh", "200.0003,60,NS,21", "10,-5.0001,CV,20", "90,0,AGN,22"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    joined, keys = join_labels(placed, read_labels(tmp_path / "labels.csv"))
    assert keys == "position, the nearest within 1 arcsec"
    assert clean_classes(joined["class"]).tolist() == ["CV", None, "NS"]
    assert "log_nh" not in joined


def test_labels_that_match_nothing_or_disagree_are_refused() -> None:
    with pytest.raises(UsageError, match="no row matches"):
        join_labels(CATALOG, pd.DataFrame({"name": ["2CXO Z"], "class": ["AGN"]}))
    twice = pd.DataFrame({"name": ["2CXO A", "2CXO A"], "class": ["AGN", "YSO"]})
    with pytest.raises(UsageError, match="2CXO A"):
        join_labels(CATALOG, twice)


def test_labels_are_read_from_csv_fits_and_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"obsid": [1], "obi": [0], "region_id": [5], "muwclass_true_class": ["NS"]}
    )
    table.to_csv(tmp_path / "labels.csv", index=False)
    table.to_parquet(tmp_path / "labels.parquet")
    Table.from_pandas(table).write(tmp_path / "labels.fits")
    for ending in ("csv", "parquet", "fits"):
        joined, _ = join_labels(CATALOG, read_labels(tmp_path / f"labels.{ending}"))
        assert clean_classes(joined["class"]).tolist() == ["NS", None, None], ending


@pytest.mark.parametrize("columns", ["name,flux\na,1", "class,flux\nAGN,1"])
def test_tables_that_are_no_labels_are_refused(tmp_path: Path, columns: str) -> None:
    (tmp_path / "labels.csv").write_text(columns + "\n")
    with pytest.raises(UsageError, match=r"labels\.csv"):
        read_labels(tmp_path / "labels.csv")


def test_true_counts_are_read_from_any_kind_of_list(tmp_path: Path) -> None:
    counts = [np.arange(1024.0), None]
    frame = pd.DataFrame({"detection_id": ["a", "b"], "model_counts": counts})
    frame.to_parquet(tmp_path / "lists.parquet")
    fixed = pa.array([None if row is None else row.tolist() for row in counts])
    fixed = fixed.cast(pa.list_(pa.float64(), 1024))
    pq.write_table(
        pa.table({"detection_id": frame["detection_id"], "model_counts": fixed}),
        tmp_path / "fixed.parquet",
    )
    for name in ("lists", "fixed"):
        rows = true_counts(read_labels(tmp_path / f"{name}.parquet"))
        assert rows is not None
        assert np.array_equal(rows[0], counts[0])
        assert rows[1] is None


def test_blank_classes_are_missing() -> None:
    column = pd.Series(["AGN", " YSO ", "", "nan", None, np.nan])
    assert clean_classes(column).tolist() == ["AGN", "YSO", None, None, None, None]


def test_true_counts_of_unlabeled_rows_are_none() -> None:
    frame = pd.DataFrame({"model_counts": [np.arange(3.0), None]})
    counts = true_counts(frame)
    assert counts is not None
    assert counts[0].tolist() == [0, 1, 2]
    assert counts[1] is None
    assert true_counts(frame[[]]) is None


def test_true_counts_are_summed_into_the_bins_of_each_response() -> None:
    binned = bin_true_counts([np.ones(1024), None], [BINS, BINS])
    assert binned[0].tolist() == [2.0] * 256
    assert np.isnan(binned[1]).all()
    with pytest.raises(ValueError, match="3 channels, expected 1024"):
        bin_true_counts([np.ones(3)], [BINS])


def test_scalings_of_spectra_and_a_pca_that_keeps_one_direction() -> None:
    rng = np.random.default_rng(0)
    tilt = rng.uniform(0.2, 2.0, 80)
    shape = np.linspace(0.5, 1.5, 32)[None] ** tilt[:, None]
    spectra = BinnedSpectra(shape * 1e6, np.zeros_like(shape))
    assert min_max_rates(spectra).min() == 0.0
    assert min_max_rates(spectra).max() == 1.0
    assert (root_shares(spectra) ** 2).sum(axis=1) == pytest.approx(1.0)
    for representation in pca_representations(spectra, None, seed=0):
        assert representation.features.shape == (80, 8)
        assert abs(np.corrcoef(representation.features[:, 0], tilt)[0, 1]) > 0.98
        assert representation.note == "fitted to the judged spectra"


def test_evaluate_measures_all_that_a_simulation_allows(synthetic: Synthetic) -> None:
    metrics = evaluate(synthetic.workspace, labels=synthetic.truth, config=FAST)
    name = f"evaluation/{RELEASE}/folded-test/metrics.json"
    text = synthetic.workspace.read_bytes(name).decode()
    assert json.loads(text) == metrics
    assert "NaN" not in text
    data = metrics["data"]
    assert data["rows"] == "test"
    assert data["n_rows"] < data["n_catalog_rows"] == 240
    assert data["labels"] == "truth.parquet, joined on detection_id"
    assert metrics["reconstruction"]["truth_cash_per_bin"] == pytest.approx(
        metrics["reconstruction"]["cash_per_bin"] - metrics["reconstruction"]["excess_cash_per_bin"]
    )
    assert metrics["reconstruction"]["divergence_per_bin"] > 0
    assert metrics["classification"]["knn"]["balanced_accuracy"] > 1 / 8
    assert metrics["regression"]["hard_hs"]["boosting"]["r2"] is not None
    names = [row["representation"] for row in metrics["comparison"]]
    assert names == [
        "latents (folded)",
        "latents (paper)",
        "PCA-8 of min-max rates",
        "PCA-8 of sqrt shares",
        "hardness ratios",
        "published (arXiv:2510.14102)",
    ]
    assert metrics["comparison"][2]["note"] == "fitted to training spectra"
    assert metrics["comparison"][1]["excess_cash_per_bin"] is not None
    assert [headline.value for headline in headlines(metrics)].count("not measured") == 0


def test_evaluate_without_truth_or_labels_says_why(tmp_path: Path) -> None:
    bare = make_workspace(tmp_path, detections=6, labels=False, seen=False)
    metrics = evaluate(str(tmp_path), config=FAST)
    assert metrics["data"] | {"rows": "test", "n_rows": 6, "labels": None} == metrics["data"]
    summary = metrics["summary"]
    assert "only simulations" in summary["excess_cash_per_bin"]["reason"]
    assert summary["knn_balanced_accuracy"]["reason"] == "no row has a class"
    assert summary["r2_log_nh"]["reason"] == "no such column in the catalog or the labels"
    assert summary["fit_zscore_width"]["value"] > 0
    headline = headlines(metrics)[0]
    assert headline.label == "Mean of the Cash z-scores"
    assert f"width is {summary['fit_zscore_width']['value']:.2f}" in headline.note
    assert "fewer than" in metrics["comparison_reason"]
    assert bare.models == [metrics["model_id"]]


def test_evaluate_refuses_labels_of_other_detections(synthetic: Synthetic, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("detection_id,class\nother:1.0.1,AGN\n")
    with pytest.raises(UsageError, match="no row matches"):
        evaluate(synthetic.workspace, labels=tmp_path / "labels.csv", config=FAST)


def test_fingerprint_is_that_of_detections_in_any_order() -> None:
    frame = pd.DataFrame({"detection_id": ["a", "b"], "class": ["AGN", None], "counts_s": [1, 2]})
    printed = fingerprint(frame)
    assert printed == fingerprint(frame[::-1].reset_index(drop=True))
    others = [
        frame[:1],
        frame.assign(name=["one source", "one source"]),
        frame.assign(**{"class": ["AGN", "YSO"]}),
        frame.assign(counts_s=[1, 3]),
    ]
    assert len({printed, *map(fingerprint, others)}) == 1 + len(others)
    assert fingerprint(frame.assign(z0=[0.1, 0.2])) == printed, "latents are those of a model"


def test_plain_values_are_json() -> None:
    value = {"a": np.float64("nan"), "b": np.array([1, 2]), "c": (np.int64(3), np.bool_(True))}
    assert json.dumps(plain(value), allow_nan=False) == '{"a": null, "b": [1, 2], "c": [3, true]}'


def test_a_whole_release_is_judged_by_a_sample_with_all_its_labels() -> None:
    catalog = pd.DataFrame({"class": [None] * 900 + ["AGN"] * 40 + [None] * 60})
    judged = np.arange(1000) >= 100
    kept, remark = limit_rows(catalog, judged, seed=0, most=200)
    assert kept.sum() == 200
    assert not kept[:100].any()
    assert kept[900:940].all()
    assert 50 < kept[100:500].sum() < 110
    assert remark == "; 200 of 900 drawn at random, those with a class first"
    assert limit_rows(catalog[[]], judged, seed=0, most=200)[0].sum() == 200
    everything, nothing_to_say = limit_rows(catalog, judged, seed=0, most=900)
    assert np.array_equal(everything, judged)
    assert nothing_to_say == ""
