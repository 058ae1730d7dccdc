"""Simulated sources whose plasma is made from tables of AtomDB."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raypipe.cli import BAD_USAGE, DONE, main
from raypipe.errors import UsageError
from raypipe.physics.absorption import transmission
from raypipe.physics.energy import EnergyGrid
from raypipe.physics.plasma import thermal_plasma
from raypipe.simulation import draw_survey, simulate
from raypipe.simulation.populations import CLASSES, Sources, draw_population, photon_flux
from tests.unit.apec_tables import write_tables

GRID = EnergyGrid()
WITH_PLASMA = {"CV", "HM-STAR", "LM-STAR", "YSO"}
LINE_KEV = 0.6536
"""The only line of the tables."""


def sources_of(name: str, n: int) -> Sources:
    drawn = CLASSES[name].draw(np.random.default_rng(1), n)
    return Sources.assemble(np.full(n, name), [(np.arange(n), drawn)])


def test_the_spectra_of_stars_are_those_of_the_tables(tmp_path: Path) -> None:
    write_tables(tmp_path)
    stars = sources_of("YSO", 5)
    p = stars.parameters
    first, second = (
        thermal_plasma(p[kt], p["abundance"], GRID, str(tmp_path)) for kt in ("kt_kev", "kt2_kev")
    )
    expected = (first + p["second_share"][:, None] * second) * transmission(p["nh_1e22"], GRID)
    np.testing.assert_allclose(photon_flux(stars, GRID, str(tmp_path)), expected, rtol=1e-9)
    assert GRID.mid_kev[np.argmax(first[0])] == pytest.approx(LINE_KEV, abs=GRID.width_kev)


def test_classes_without_plasma_stay_as_they_are(tmp_path: Path) -> None:
    write_tables(tmp_path)
    sources = draw_population(np.random.default_rng(2), 60)
    own, read = (photon_flux(sources, GRID, each) for each in (None, str(tmp_path)))
    differs = np.any(own != read, axis=1)
    np.testing.assert_array_equal(differs, np.isin(sources.model, sorted(WITH_PLASMA)))


def test_a_survey_draws_from_the_tables_and_records_them(tmp_path: Path) -> None:
    write_tables(tmp_path)
    survey = tmp_path / "survey"
    setting = f"simulate.apec_dir={tmp_path}"
    given = ["simulate", "--out", str(survey), "--detections", "20", "--set", setting]
    assert main(given) == DONE
    description = json.loads((survey / "survey.json").read_text())
    assert description["apec_tables"] == ["apec_v3.0.9_coco.fits", "apec_v3.0.9_line.fits"]
    truth = pq.read_table(survey / "truth.parquet").to_pandas()
    own = draw_survey(20)
    differs = ~np.isclose(np.stack(list(truth["model_counts"])), own.model_counts).all(axis=1)
    np.testing.assert_array_equal(differs, np.isin(truth["class"], sorted(WITH_PLASMA)))


def test_a_survey_without_tables_says_so(tmp_path: Path) -> None:
    simulate(tmp_path / "survey", detections=2)
    assert json.loads((tmp_path / "survey" / "survey.json").read_text())["apec_tables"] is None


def test_a_folder_without_tables_is_bad_usage_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["simulate", "--out", str(tmp_path / "survey"), "--detections", "2", "--set"]
    assert main([*given, f"simulate.apec_dir={tmp_path}"]) == BAD_USAGE
    assert f"{tmp_path}: 0 files apec_v3*_coco.fits; one is needed" in capsys.readouterr().err
    assert not (tmp_path / "survey").exists()


def test_a_broken_table_is_found_before_anything_is_written(tmp_path: Path) -> None:
    write_tables(tmp_path)
    (tmp_path / "apec_v3.0.9_coco.fits").write_bytes(b"SIMPLE")
    with pytest.raises(UsageError, match=r"apec_v3.0.9_coco.fits: not a table of APEC"):
        simulate(tmp_path / "survey", detections=2, apec_dir=tmp_path)
    assert not (tmp_path / "survey").exists()


def test_tables_that_no_source_needs_are_remarked_on(
    tmp_path: Path, shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tables(tmp_path)
    catalog = shared_data / "catalog" / "csc20_detections.parquet"
    with caplog.at_level(logging.WARNING, "raypipe"):
        simulate(tmp_path / "survey", detections=2, catalog=catalog, apec_dir=tmp_path)
    assert "no source of this survey has a plasma" in caplog.text
