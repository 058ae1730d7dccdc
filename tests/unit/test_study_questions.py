"""The pure cores of the study's questions on data whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from raypipe.config import EvaluateConfig
from raypipe.errors import UsageError
from raypipe.evaluation.baselines import (
    Representation,
    csc_representation,
    fits_representation,
    hardness_representation,
)
from raypipe.evaluation.questions.clusters import judge_halves
from raypipe.evaluation.questions.directions import informative, name_direction
from raypipe.evaluation.questions.epochs import log_overlaps, measure_recall
from raypipe.evaluation.questions.few_labels import draw_sources, measure_few_labels
from raypipe.evaluation.questions.material import Material, one_per_source
from raypipe.evaluation.questions.quantities import predictive, score_pulls
from raypipe.evaluation.questions.robustness import measure_robustness, slices_of
from raypipe.evaluation.questions.sky import compare_samples, measure_sky
from raypipe.evaluation.questions.supervised import predict_classes, predict_values
from raypipe.evaluation.questions.time_domain import measure_time_domain, variability_of
from raypipe.evaluation.real_rows import real_rows
from raypipe.evaluation.validation import labeled_rows
from raypipe.model.covariance import pack
from raypipe.searching.batched_gaussians import Posteriors
from raypipe.searching.neighbors import Posterior, nearest


def material(
    frame: pd.DataFrame, real: pd.DataFrame | None = None, **representations: np.ndarray
) -> Material:
    found = [Representation("latents", "model", frame[["z0", "z1"]].to_numpy())]
    found += [Representation(name, name, each) for name, each in representations.items()]
    return Material(frame, found, real, None, None, EvaluateConfig(folds=2, mixture_components=4))


def latent_frame(n: int = 400, seed: int = 0, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    covariance = np.tile(0.01 * np.eye(2), (n, 1, 1))
    return pd.DataFrame(
        {
            "detection_id": [f"sim:{i}.0.1" for i in range(n)],
            "name": [f"source {i // 2}" for i in range(n)],
            "z0": z[:, 0],
            "z1": z[:, 1],
            "z_cov": list(pack(covariance)),
            "total_counts": rng.integers(20, 5000, n),
            **columns,
        }
    )


def test_rows_of_a_real_table_are_found_by_what_a_detection_was_drawn_from(tmp_path: Any) -> None:
    table = pd.DataFrame(
        {
            "obsid": [1, 2, 3],
            "obi": [0, 0, 0],
            "region_id": [5, 6, 7],
            "var_prob_b": [0.1, 0.2, 0.3],
        }
    )
    table.to_parquet(tmp_path / "real.parquet")
    drawn = pd.DataFrame({"catalog_detection": ["3.0.7", None, "1.0.5", "9.9.9"]})
    found = real_rows(drawn, tmp_path / "real.parquet")["var_prob_b"]
    assert found.tolist() == pytest.approx([0.3, np.nan, 0.1, np.nan], nan_ok=True)
    own = pd.DataFrame({"obsid": [2], "obi": [0], "region_id": [6]})
    assert real_rows(own, tmp_path / "real.parquet")["var_prob_b"].tolist() == [0.2]
    with pytest.raises(UsageError, match="no row is one of"):
        real_rows(pd.DataFrame({"catalog_detection": ["9.9.9"]}), tmp_path / "real.parquet")


def test_a_table_without_the_key_is_refused(tmp_path: Any) -> None:
    pd.DataFrame({"obsid": [1], "obi": [0]}).to_parquet(tmp_path / "real.parquet")
    with pytest.raises(UsageError, match="no column region_id"):
        real_rows(pd.DataFrame({"catalog_detection": ["1.0.5"]}), tmp_path / "real.parquet")


def test_one_row_per_source_is_drawn() -> None:
    sources = np.array(["a", "a", "b", "c", "c", "c"], dtype=object)
    drawn = [one_per_source(sources, np.random.default_rng(seed)) for seed in range(20)]
    assert all(sources[rows].tolist() == ["a", "b", "c"] for rows in drawn)
    assert {int(rows[0]) for rows in drawn} == {0, 1}


def test_variability_that_only_counts_explain_is_not_credited_to_latents() -> None:
    frame = latent_frame(1000)
    rng = np.random.default_rng(1)
    counts = np.log10(frame["total_counts"])
    frame["z0"] = counts + 0.1 * rng.normal(size=len(frame))
    real = pd.DataFrame(
        {
            "obs_flux_aper90_b": 10.0 ** rng.normal(-13, 0.5, len(frame)),
            "src_cnts_aper90_b": frame["total_counts"],
            "var_prob_b": counts + 0.1 * rng.normal(size=len(frame)),
            "var_inter_prob_b": frame["z1"] + 0.1 * rng.normal(size=len(frame)),
        }
    )
    answer = measure_time_domain(material(frame, real))["quantities"]
    within, between = answer["var_prob_b"], answer["var_inter_prob_b"]
    assert within["free"]["latents"]["excess"] > 0.3
    assert within["free"]["flux_and_counts"]["excess"] > 0.3
    assert within["given_flux_and_counts"]["latents"]["excess"] < 0.15
    assert between["free"]["flux_and_counts"]["excess"] < 0.1
    assert between["given_flux_and_counts"]["latents"]["excess"] > 0.3
    assert between["by_latent"][1]["excess"] > between["by_latent"][0]["excess"] + 0.5
    assert within["n_sources"] == 500


def test_ratios_of_variability_columns_are_formed() -> None:
    table = pd.DataFrame({"var_sigma_b": [1.0, 0.0], "var_mean_b": [10.0, 10.0]})
    found = variability_of(table)["sigma_over_mean"]
    assert found.tolist() == pytest.approx([-1.0, np.nan], nan_ok=True)


def test_without_variability_the_reason_is_said() -> None:
    assert "--catalog" in measure_time_domain(material(latent_frame()))["reason"]


def test_equal_samples_have_no_distance_and_shifted_ones_have() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=500)
    same = compare_samples(rng.permutation(real), real)
    assert same["ks"] == 0.0
    moved = compare_samples(real + 0.3, real)
    assert moved["difference"] == pytest.approx(0.3)
    assert moved["difference_width"] == pytest.approx(0.0, abs=1e-9)
    assert moved["ks"] > moved["ks_noise"]


def test_the_sky_is_compared_by_class() -> None:
    flux = 10.0 ** np.linspace(-14, -12, 400)
    classes = np.array(["AGN", "YSO"] * 200, dtype=object)
    frame = latent_frame(400, flux_s=flux, flux_m=flux, flux_h=3 * flux)
    frame["class"] = classes
    real = pd.DataFrame(
        {
            "obs_flux_aper90_s": np.where(classes == "AGN", flux, 10 * flux),
            "obs_flux_aper90_m": flux,
            "obs_flux_aper90_h": 3 * flux,
        }
    )
    answer = measure_sky(material(frame, real))["by_class"]
    assert answer["AGN"]["flux_s"]["difference"] == pytest.approx(0.0)
    assert answer["YSO"]["flux_s"]["difference"] == pytest.approx(-1.0)
    assert answer["AGN"]["hard_hm"]["catalog"] == pytest.approx([0.5] * 5)


def test_clusters_that_are_classes_are_mapped_perfectly() -> None:
    classes = np.array(["AGN", "NS"] * 100, dtype=object)
    sources = np.array([f"s{i // 4}-{i % 2}" for i in range(200)], dtype=object)
    labeled = labeled_rows(classes, sources, 2)
    perfect = judge_halves(labeled.codes, labeled, 2, 0)
    assert perfect["balanced_accuracy"] == pytest.approx(1.0)
    assert perfect["adjusted_mutual_information"] == pytest.approx(1.0)
    assert perfect["by_class"]["NS"] == pytest.approx(
        {"n_sources": 50, "completeness": 1.0, "completeness_error": 0.0, "purity": 1.0}
    )
    rng = np.random.default_rng(0)
    guess = judge_halves(rng.integers(0, 2, 200), labeled, 2, 0)
    assert guess["balanced_accuracy"] == pytest.approx(0.5, abs=0.1)
    assert guess["adjusted_mutual_information"] == pytest.approx(0.0, abs=0.03)


def test_neighbors_of_draws_widen_the_prediction() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(-3, 3, 800)
    known, values = truth[:400, None], truth[:400]
    sharp = truth[400:, None, None]
    mean, spread = predictive(known, values, sharp, 10)
    assert np.abs(mean - truth[400:]).mean() < 0.05
    _, wider = predictive(known, values, sharp + rng.normal(size=(400, 8, 1)), 10)
    assert wider.mean() > 5 * spread.mean()


def test_pulls_of_right_errors_have_unit_width() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2.0, 4000)
    values = rng.normal(size=4000) * spread
    scores = score_pulls(values, np.zeros(4000), spread)
    assert scores["width"] == pytest.approx(1.0, abs=0.05)
    assert scores["median"] == pytest.approx(0.0, abs=0.05)
    assert scores["within_1"] == pytest.approx(0.683, abs=0.02)
    assert score_pulls(values, np.zeros(4000), spread / 2)["width"] == pytest.approx(2, abs=0.1)


def test_labels_are_drawn_by_source_and_the_judged_ones_stay_apart() -> None:
    classes = np.array(["AGN"] * 300 + ["NS"] * 60, dtype=object)
    sources = np.array([f"s{i // 3}" for i in range(360)], dtype=object)
    labeled = labeled_rows(classes, sources, 2)
    train, test = draw_sources(labeled, 10, np.random.default_rng(0))
    chosen = {
        name: set(sources[train][labeled.codes[train] == c])
        for c, name in enumerate(labeled.classes)
    }
    assert {name: len(each) for name, each in chosen.items()} == {"AGN": 10, "NS": 10}
    assert not set(sources[train]) & set(sources[test])
    everyone = draw_sources(labeled, None, np.random.default_rng(0))
    assert len(set(sources[everyone[0]])) == 70 + 14


def test_more_labels_do_not_harm_separated_classes() -> None:
    frame = latent_frame(400)
    classes = np.array(["AGN", "NS"], dtype=object)[(np.arange(400) // 2) % 2]
    frame["class"] = classes
    frame["z0"] += np.where(classes == "NS", 6.0, 0.0)
    rows = measure_few_labels(material(frame))["by_representation"]["latents"]
    assert [row["labels"] for row in rows] == [10, 30, 100, None]
    assert rows[0]["linear_balanced_accuracy"] > 0.95
    assert rows[-1]["knn_balanced_accuracy"] > 0.95
    assert rows[-1]["most_labels"] == 70


def test_overlaps_rank_as_the_search_does() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3))
    root = rng.normal(size=(50, 3, 3)) * 0.3
    covariances = root @ root.transpose(0, 2, 1) + 0.05 * np.eye(3)
    ours = np.argsort(-log_overlaps(z[0], covariances[0], z[1:], covariances[1:]))[:5] + 1
    known = Posteriors(z.T.astype(np.float32), pack(covariances).T)
    theirs = nearest(Posterior(z[0], covariances[0]), known, 5, np.array([0]))
    assert ours.tolist() == theirs.rows.tolist()


def test_other_epochs_of_the_same_place_are_found() -> None:
    frame = latent_frame(200)
    frame["z0"], frame["z1"] = (np.repeat(frame[name][::2].to_numpy(), 2) for name in ("z0", "z1"))
    same = measure_recall(material(frame))
    assert same["recall_1"] > 0.95
    assert same["n_queries"] == 100
    assert same["chance_1"] == pytest.approx(1 / 199)
    mixed = measure_recall(material(latent_frame(200)))
    assert mixed["recall_1"] < 0.1


def test_slices_divide_the_rows() -> None:
    frame = latent_frame(400, theta=np.linspace(0, 10, 400))
    frame["total_counts"] = np.repeat([10, 100, 1000, 9000], 100)
    found = slices_of(material(frame))
    assert [each.rows.sum() for each in found["counts"]] == [100] * 4
    assert found["counts"][-1].label == "5,000 and above"
    assert [each.rows.sum() for each in found["off-axis angle, arcmin"]] == [100] * 4


def test_headlines_fall_where_the_latents_say_nothing() -> None:
    frame = latent_frame(800)
    classes = np.array(["AGN", "NS"], dtype=object)[(np.arange(800) // 2) % 2]
    bright = np.arange(800) >= 400
    frame["class"] = classes
    frame["total_counts"] = np.where(bright, 1000, 30)
    frame["z0"] += np.where((classes == "NS") & bright, 6.0, 0.0)
    frame["fit_zscore"] = np.random.default_rng(0).normal(size=800)
    faint, clear = measure_robustness(material(frame))["by_condition"]["counts"]
    assert clear["knn"]["value"] > faint["knn"]["value"] + 3 * faint["knn"]["error"]
    assert clear["fit_zscore"]["value"] == pytest.approx(0.0, abs=0.2)


def test_informative_directions_weigh_spread_by_error() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(4000, 3)) * np.array([1.0, 1.0, 3.0])
    noise = np.diag([0.01, 1.0, 9.0])
    assert np.abs(informative(latents, noise)[0]).argmax() == 0
    assert np.abs(informative(latents, None)[0]).argmax() == 2


def test_a_direction_is_named_after_what_it_follows() -> None:
    values = np.linspace(0, 1, 200)
    noise = np.random.default_rng(0).normal(size=200)
    named = name_direction(values, {"log_nh": -(values**3), "photon_index": noise})
    assert named["name"] == "-log_nh"
    assert named["correlations"]["log_nh"] == pytest.approx(-1.0)
    assert name_direction(values, {"photon_index": noise})["name"] is None


def test_columns_of_catalogs_are_representations() -> None:
    frame = pd.DataFrame({"powlaw_gamma": [1.0, 2.0, np.nan], "powlaw_nh": [1.0, 10.0, 100.0]})
    fits = fits_representation(frame)
    assert fits is not None
    assert fits.features.shape == (3, 2)
    assert np.isfinite(fits.features).all()
    assert fits.note.startswith("17%")
    assert fits_representation(pd.DataFrame({"z0": [1.0]})) is None
    real = pd.DataFrame({f"obs_flux_aper90_{band}": [1.0, 2.0, 3.0] for band in "smh"})
    real["obs_flux_aper90_h"] = [1.0, 4.0, 0.0]
    csc = csc_representation(real)
    assert csc is not None
    assert csc.features.shape == (3, 3)
    bands = {f"counts_{band}": [5] for band in "smh"}
    assert hardness_representation(pd.DataFrame(bands)).kind == "hardness"


def test_networks_on_whole_spectra_learn_what_is_there() -> None:
    rng = np.random.default_rng(0)
    classes = np.array(["AGN", "NS"], dtype=object)[(np.arange(600) // 2) % 2]
    sources = np.array([f"s{i // 2}" for i in range(600)], dtype=object)
    slope = rng.uniform(-1, 1, 600) + np.where(classes == "NS", 3.0, 0.0)
    spectra = slope[:, None] * np.linspace(-1, 1, 16) + 0.1 * rng.normal(size=(600, 16))
    settings = EvaluateConfig(folds=2)
    labeled = labeled_rows(classes, sources, 2)
    assert (predict_classes(spectra, labeled, settings) == labeled.codes).mean() > 0.9
    predicted = predict_values(spectra, slope, sources, settings)
    assert np.corrcoef(predicted, slope)[0, 1] > 0.95
