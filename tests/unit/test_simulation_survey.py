"""Surveys in memory: counts, truth, repeatability, sources from a real table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from scipy import stats

from raypipe.errors import UsageError
from raypipe.simulation.catalog_population import FLUX_COLUMN, best_models
from raypipe.simulation.populations import CLASSES, PARAMETERS
from raypipe.simulation.survey import Survey, draw_batch, draw_batches, draw_survey
from raypipe.simulation.survey_plan import BATCH, plan_survey
from raypipe.simulation.targets import catalog_name
from raypipe.simulation.visits import fitting_instruments


@pytest.fixture(scope="module")
def survey() -> Survey:
    return draw_survey(1500, seed=4)


def test_counts_are_log_uniform_within_the_limits(survey: Survey) -> None:
    counts = survey.table["source_counts"]
    uniform = np.log(counts / 50) / np.log(100)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    source = survey.model_counts - survey.background_model_counts
    in_band = survey.instruments[0].channels_in_band
    np.testing.assert_allclose(source[:, in_band].sum(axis=1), counts, rtol=1e-3)


def test_drawn_counts_are_poisson_around_what_was_expected(survey: Survey) -> None:
    for drawn, expected in (
        (survey.counts, survey.model_counts),
        (
            survey.background_counts,
            survey.background_model_counts
            * (survey.table["background_backscal"] / survey.table["backscal"])[:, None],
        ),
    ):
        total = expected.sum(axis=1)
        pulls = (drawn.sum(axis=1) - total) / np.sqrt(total)
        assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls))
        assert pulls.std() == pytest.approx(1.0, abs=0.1)
        per_channel = expected.sum(axis=0)
        seen = per_channel > 50
        deviation = (drawn.sum(axis=0) - per_channel)[seen] / np.sqrt(per_channel[seen])
        assert np.mean(deviation**2) == pytest.approx(1.0, abs=0.25)


def test_background_reaches_from_negligible_to_dominating(survey: Survey) -> None:
    share = survey.table["background_share"]
    assert np.quantile(share, 0.05) < 0.02
    assert np.quantile(share, 0.95) > 0.5
    ratio = survey.table["background_backscal"] / survey.table["backscal"]
    assert np.all((ratio >= 15) & (ratio <= 25))


def test_exposures_fluxes_and_regions_are_realistic(survey: Survey) -> None:
    exposure = survey.table["exposure_s"]
    assert np.all((exposure >= 1e3) & (exposure <= 250e3))
    assert 15e3 < np.median(exposure) < 50e3
    assert np.all(np.isfinite(survey.table["flux_b"]))
    assert np.quantile(survey.table["flux_b"], 0.5) == pytest.approx(3e-13, rel=0.9)
    assert np.all(survey.table["backscal"] <= 1e-3 * (1 + 1e-9))


def test_flux_and_exposure_give_the_counts(survey: Survey) -> None:
    """A power law with the stated band flux gives the stated counts, within its unknown shape."""
    rate_per_flux = survey.table["source_counts"] / (
        survey.table["exposure_s"] * survey.table["flux_b"]
    )
    assert np.all((rate_per_flux > 1e10) & (rate_per_flux < 5e11))


def test_every_class_and_instrument_occurs(survey: Survey) -> None:
    names, counts = np.unique(survey.table["class"].astype(str), return_counts=True)
    assert set(names) == set(CLASSES)
    assert counts.min() > 100
    assert len(np.unique(survey.table["instrument"])) == len(survey.instruments)


def test_some_sources_are_detected_several_times(survey: Survey) -> None:
    table = pd.DataFrame(survey.table)
    sources = table.groupby("name")
    assert 1.2 < len(table) / len(sources) < 1.4
    for column in ("class", "ra", "dec", *PARAMETERS):
        assert (sources[column].nunique() <= 1).all()
    spread = sources["flux_b"].agg(["max", "min"])
    assert np.median(spread["max"] / spread["min"]) < 2


def test_names_hold_the_position() -> None:
    assert catalog_name(10.630253, 41.327479) == "2CXO J004231.2+411938"
    assert catalog_name(359.9999, -0.5) == "2CXO J235959.9-003000"


def test_identity_is_unique(survey: Survey) -> None:
    ids = survey.table["detection_id"]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"sim:\d+\.0\.1", each) for each in ids)


def test_a_seed_means_one_survey_whatever_the_order_of_batches() -> None:
    plan = plan_survey(2 * BATCH + 10, seed=9)
    last = draw_batch(plan, 2)
    in_order = list(draw_batches(plan_survey(2 * BATCH + 10, seed=9)))[2]
    np.testing.assert_array_equal(last.counts, in_order.counts)
    np.testing.assert_array_equal(last.background_counts, in_order.background_counts)
    assert len(last) == 10
    other = draw_batch(plan_survey(2 * BATCH + 10, seed=10), 2)
    assert not np.array_equal(last.counts, other.counts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detections": 0}, "detections"),
        ({"detections": 5, "seed": -1}, "seed"),
        ({"detections": 5, "counts_min": 0.0}, "counts"),
        ({"detections": 5, "counts_min": 60.0, "counts_max": 50.0}, "counts"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_survey(**arguments)  # type: ignore[arg-type]


def test_sources_of_a_real_table(shared_data: Path) -> None:
    path = shared_data / "catalog/csc20_detections.parquet"
    survey = draw_survey(1200, seed=2, catalog=path, counts_min=60, counts_max=900)
    real = pd.read_parquet(path)
    identity = real[["obsid", "obi", "region_id"]].astype(str)
    real["catalog_detection"] = identity.agg(".".join, axis=1)
    drawn = pd.DataFrame(survey.table)
    keys = ["name", "catalog_detection"]
    assert not real.duplicated(keys).any()
    original = drawn[keys].merge(real, how="left", on=keys, indicator=True)
    assert (original["_merge"] == "both").all()
    known = original["muwclass_true_class"].notna()
    assert (drawn["class"][known] == original["muwclass_true_class"][known]).all()
    assert drawn["class"][~known].isna().all()
    counts = original["src_cnts_aper90_b"].clip(60, 900)
    np.testing.assert_allclose(drawn["source_counts"], counts)
    power_laws = drawn["model"] == "powlaw"
    assert 0.2 < power_laws.mean() < 0.9
    np.testing.assert_allclose(
        drawn["photon_index"][power_laws], original["powlaw_gamma"][power_laws]
    )
    np.testing.assert_allclose(
        drawn["nh_1e22"][power_laws], (original["powlaw_nh"][power_laws] / 100).clip(1e-3)
    )
    assert drawn["photon_index"][~power_laws].isna().all()
    first = drawn[drawn["name"] == "2CXO J033250.1-274135"]
    np.testing.assert_allclose(first["ra"], 53.2088, atol=1e-3)
    np.testing.assert_allclose(first["dec"], -27.6931, atol=1e-3)
    again = drawn["name"].value_counts()
    assert again.max() - again.min() <= 1


def test_counts_and_flux_of_a_real_row_agree(shared_data: Path) -> None:
    """The exposure follows from both, as far as there are responses and exposures for it."""
    path = shared_data / "catalog/csc20_detections.parquet"
    drawn = pd.DataFrame(draw_survey(1000, seed=3, catalog=path).table)
    real = pd.read_parquet(path)
    identity = real[["obsid", "obi", "region_id"]].astype(str).agg(".".join, axis=1)
    real = real.assign(catalog_detection=identity)[["name", "catalog_detection", FLUX_COLUMN]]
    flux = drawn.merge(real, how="left", on=["name", "catalog_detection"])[FLUX_COLUMN]
    known = flux.to_numpy() > 0
    dex = np.log10(drawn["flux_b"].to_numpy()[known] / flux.to_numpy()[known])
    assert np.mean(np.abs(dex) < 1e-3) > 0.97
    assert np.abs(dex).max() < 1.0
    at_limit = np.isin(drawn["exposure_s"].to_numpy()[known], (1e3, 250e3))
    assert at_limit[np.abs(dex) > 1e-3].all()


def test_an_instrument_is_replaced_only_where_its_exposure_is_impossible() -> None:
    exposures = np.array([[10.0, 50.0], [500.0, 50.0], [1.0, 0.1], [np.nan, np.nan]])
    drawn = np.array([1, 0, 1, 1])
    kept = fitting_instruments(drawn, exposures, (5.0, 100.0))
    assert kept.tolist() == [1, 1, 0, 1]


def test_the_best_credible_fit_is_taken() -> None:
    table = pd.DataFrame(
        {
            "powlaw_gamma": [1.7, 9.9, 1.7, np.nan],
            "powlaw_nh": [1.0, 1.0, 1.0, np.nan],
            "powlaw_stat": [1.1, 0.5, 1.3, np.nan],
            "bb_kt": [0.5, 0.5, 300.0, np.nan],
            "bb_nh": [1.0, 1.0, 1.0, np.nan],
            "bb_stat": [1.2, 1.2, 0.1, np.nan],
            "brems_kt": [5.0, 5.0, 5.0, np.nan],
            "brems_nh": [1.0, 1.0, 1.0, np.nan],
            "brems_stat": [1.3, 1.4, 1.2, np.nan],
        }
    )
    assert best_models(table).fillna("none").tolist() == ["powlaw", "bb", "brems", "none"]


def test_a_table_without_the_columns_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pd.DataFrame({"name": ["a"], "ra": [1.0], "bb_kt": [1.0]}).to_parquet(path)
    with pytest.raises(UsageError, match=r"columns missing: dec, obsid.*powlaw_gamma"):
        plan_survey(10, catalog=path)
    with pytest.raises(UsageError, match="no such file"):
        plan_survey(10, catalog=tmp_path / "absent.parquet")


@pytest.mark.parametrize("ending", ["csv", "fits", "vot"])
def test_a_table_in_any_format_keeps_its_classes(tmp_path: Path, ending: str) -> None:
    fit = {
        f"{name}_{suffix}": 1.0 for name in ("bb", "brems", "powlaw") for suffix in ("nh", "stat")
    }
    fit |= {"bb_kt": 0.5, "brems_kt": 5.0, "powlaw_gamma": 1.7}
    rows = [
        {"name": f"2CXO {i}", "ra": "03:32:50.1", "dec": "-27:41:35", "obsid": i, "obi": 0}
        | {"region_id": 1, "true_class": label, "src_cnts_aper90_b": 100.0, **fit}
        for i, label in enumerate(("AGN", "", "YSO"))
    ]
    path = tmp_path / f"table.{ending}"
    Table(rows).write(path, **({"format": "votable"} if ending == "vot" else {}))
    drawn = pd.DataFrame(draw_survey(3, catalog=path).table).set_index("name")
    assert drawn["class"].replace({np.nan: None}).to_dict() == {
        "2CXO 0": "AGN", "2CXO 1": None, "2CXO 2": "YSO",
    }  # fmt: skip
    np.testing.assert_allclose(drawn["ra"], 53.2088, atol=1e-3)
