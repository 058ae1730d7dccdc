"""Surveys on disk: files our reader and astropy take, truth, reruns."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from raypipe.cli import BAD_USAGE, main
from raypipe.discovery.discover import discover
from raypipe.errors import UsageError
from raypipe.ogip import read_spectrum
from raypipe.physics.energy import ERG_PER_KEV, EnergyGrid
from raypipe.simulation import draw_survey, simulate
from raypipe.simulation.fits_template import card
from raypipe.simulation.populations import PARAMETERS, Sources, photon_flux
from raypipe.simulation.survey_plan import BATCH

DETECTIONS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("survey")
    simulate(out, detections=DETECTIONS, seed=5)
    return out


def product(folder: Path, obsid: int, kind: str) -> Path:
    return folder / f"acisf{obsid:05d}_000N001_r0001_{kind}.fits.gz"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_detection_has_its_three_files_and_nothing_is_left_over(folder: Path) -> None:
    expected = {
        product(folder, obsid, kind).name
        for obsid in range(1, DETECTIONS + 1)
        for kind in ("pha3", "arf3", "rmf3")
    }
    assert {path.name for path in folder.iterdir()} == {*expected, "truth.parquet", "survey.json"}


def test_the_reader_reads_what_was_drawn(folder: Path) -> None:
    survey = draw_survey(DETECTIONS, seed=5)
    for i in range(DETECTIONS):
        spectrum = read_spectrum(product(folder, i + 1, "pha3"))
        assert spectrum.warnings == ()
        np.testing.assert_array_equal(spectrum.counts, survey.counts[i])
        assert spectrum.background_counts is not None
        np.testing.assert_array_equal(spectrum.background_counts, survey.background_counts[i])
        assert spectrum.exposure_s == survey.table["exposure_s"][i]
        assert spectrum.background_scale == pytest.approx(
            survey.table["backscal"][i] / survey.table["background_backscal"][i], rel=1e-12
        )
        assert spectrum.arf is not None
        np.testing.assert_array_equal(spectrum.arf.area_cm2, survey.area_cm2[i])
        assert spectrum.rmf is not None
        assert spectrum.channel_energy_kev is not None
        instrument = survey.instruments[survey.instrument[i]]
        difference = spectrum.rmf.matrix - instrument.redistribution
        assert abs(difference).max() == 0
        np.testing.assert_allclose(
            spectrum.channel_energy_kev, instrument.channel_energy_kev, rtol=1e-6
        )


def test_truth_is_what_the_parameters_fold_to_through_the_files(folder: Path) -> None:
    """Spectra rebuilt from the truth's parameters, folded by the reader, plus the background."""
    grid = EnergyGrid()
    for row in pq.read_table(folder / "truth.parquet").to_pylist():
        parameters = {name: np.array([row[name]], dtype=float) for name in PARAMETERS}
        flux = photon_flux(Sources(np.array([row["model"]]), parameters), grid)[0]
        band = flux[grid.in_band] * grid.mid_kev[grid.in_band]
        flux *= row["flux_b"] / (band.sum() * grid.width_kev * ERG_PER_KEV)
        spectrum = read_spectrum(product(folder, row["obsid"], "pha3"))
        assert spectrum.arf is not None
        assert spectrum.rmf is not None
        photons = flux * grid.width_kev * spectrum.arf.area_cm2
        source = spectrum.exposure_s * spectrum.rmf.fold(photons)
        expected = source + np.array(row["background_model_counts"])
        np.testing.assert_allclose(row["model_counts"], expected, rtol=1e-4, atol=1e-6)
        in_band = slice(34, 479)
        assert source[in_band].sum() == pytest.approx(row["source_counts"], rel=1e-3)


def test_truth_has_identity_class_and_parameters(folder: Path) -> None:
    table = pq.read_table(folder / "truth.parquet")
    assert table.num_rows == DETECTIONS
    for column in ("detection_id", "obsid", "obi", "region_id", "name", "ra", "dec", "class"):
        assert table[column].null_count == 0
    for column in ("log_nh", "nh_1e22", "photon_index", "kt_kev", "source_counts", "instrument"):
        assert column in table.column_names
    assert table.schema.field("model_counts").type.list_size == 1024
    assert str(table.schema.field("model_counts").type.value_type) == "float"


def test_astropy_takes_every_product(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("pha3", "arf3", "rmf3"):
            with fits.open(product(folder, 3, kind)) as hdus:
                hdus.verify("exception")
                for hdu in hdus[1:]:
                    assert len(hdu.data) == hdu.header["NAXIS2"]


def test_headers_are_those_of_the_catalog(folder: Path) -> None:
    with fits.open(product(folder, 3, "pha3")) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SPECTRUM", "GTI", "SPECTRUM"]
        total, background = hdus[1].header, hdus[3].header
        assert (total["HDUCLAS1"], total["HDUCLAS2"]) == ("SPECTRUM", "TOTAL")
        assert background["HDUCLAS2"] == "BKG"
        assert total["BACKFILE"] == product(folder, 3, "pha3").name.removesuffix(".gz")
        assert total["ANCRFILE"] == product(folder, 3, "arf3").name.removesuffix(".gz")
        assert total["RESPFILE"] == product(folder, 3, "rmf3").name.removesuffix(".gz")
        assert background["BACKFILE"] == "none"
        assert (total["TELESCOP"], total["INSTRUME"]) == ("CHANDRA", "ACIS")
        assert (total["CHANTYPE"], total["DETCHANS"], total["TLMIN1"]) == ("PI", 1024, 1)
        assert total["TOTCTS"] == hdus[1].data["COUNTS"].sum()
        start, stop = hdus[2].data[0]
        assert stop - start == pytest.approx(total["ONTIME"], rel=1e-6)


def test_detections_of_an_instrument_share_one_matrix_file(folder: Path) -> None:
    truth = pq.read_table(folder / "truth.parquet").to_pandas()
    inodes = [product(folder, obsid, "rmf3").stat().st_ino for obsid in truth["obsid"]]
    assert len(set(inodes)) == truth["instrument"].nunique()


def test_the_same_arguments_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path, detections=DETECTIONS, seed=5, workers=1)
    assert contents(tmp_path) == contents(folder)


def test_an_interrupted_survey_is_completed_by_a_rerun(tmp_path: Path) -> None:
    detections = BATCH + 8
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(interrupted, detections=detections, seed=1, progress=interrupt)
    assert json.loads((interrupted / "survey.json").read_text())["complete"] is False
    assert not (interrupted / "truth.parquet").exists()
    simulate(interrupted, detections=detections, seed=1)
    simulate(whole, detections=detections, seed=1)
    assert contents(interrupted) == contents(whole)


def test_half_a_survey_is_not_discovered(tmp_path: Path) -> None:
    """A source folder with part of the detections would pass for the whole survey."""
    folder = tmp_path / "survey"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(folder, detections=BATCH + 8, seed=1, progress=interrupt)
    for release in (None, "mine"):
        with pytest.raises(UsageError, match="not complete; run raypipe simulate again"):
            discover(tmp_path / "w", source=str(folder), release=release)
    line = ["run", "--workspace", str(tmp_path / "w"), "--source", str(folder)]
    assert main(line) == BAD_USAGE
    assert not (tmp_path / "w" / "manifest").exists()
    simulate(folder, detections=4, seed=1)
    assert discover(tmp_path / "w", source=str(folder))["rows"] == 4


def test_a_description_of_something_else_does_not_forbid_a_named_release(tmp_path: Path) -> None:
    simulate(tmp_path / "survey", detections=2, seed=1)
    (tmp_path / "survey" / "survey.json").write_text('["questions of a survey"]')
    with pytest.raises(UsageError, match="give --release"):
        discover(tmp_path / "w", source=str(tmp_path / "survey"))
    assert discover(tmp_path / "w", source=str(tmp_path / "survey"), release="mine")["rows"] == 2


@pytest.mark.parametrize("out", ["s3://bucket/survey", "https://host/survey", "file:///tmp/survey"])
def test_addresses_are_no_folders(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (out, Path(out)):
        with pytest.raises(UsageError, match="simulate writes to a local folder only"):
            simulate(given, detections=2)
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_rerun_leaves_no_files_of_the_larger(tmp_path: Path) -> None:
    simulate(tmp_path, detections=6, seed=1)
    summary = simulate(tmp_path, detections=2, seed=1)
    assert summary.detections == 2
    assert len(list(tmp_path.glob("*_pha3.fits.gz"))) == 2
    description = json.loads((tmp_path / "survey.json").read_text())
    assert description["release"] == "sim"
    assert (description["detections"], description["complete"]) == (2, True)
    assert description["fingerprint"] == summary.fingerprint


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    (tmp_path / "survey.json").write_text('{"release": "mine"}')
    with pytest.raises(UsageError, match="not empty"):
        simulate(tmp_path, detections=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["survey.json", "thesis.tex"]
    simulate(tmp_path, detections=2, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "important"
    with pytest.raises(UsageError, match="is a file"):
        simulate(tmp_path / "thesis.tex", detections=2)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    simulate(tmp_path, detections=BATCH + 5, progress=lambda *done: told.append(done))
    assert told == [(BATCH, BATCH + 5), (BATCH + 5, BATCH + 5)]


def test_real_responses_are_written_on_their_own_bins(tmp_path: Path, shared_data: Path) -> None:
    simulate(tmp_path, detections=6, seed=2, responses=shared_data / "responses")
    truth = pq.read_table(tmp_path / "truth.parquet").to_pylist()
    for row in truth:
        spectrum = read_spectrum(product(tmp_path, row["obsid"], "pha3"))
        assert spectrum.rmf is not None
        assert spectrum.arf is not None
        assert len(spectrum.arf.area_cm2) == (937 if row["instrument"].endswith("cy0") else 1024)
        pull = (spectrum.counts.sum() - sum(row["model_counts"])) / np.sqrt(spectrum.counts.sum())
        assert abs(pull) < 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "                   T"),
        (12, "                  12"),
        (0.5, " 5.0000000000000E-01"),
        ("ab", "'ab      '          "),
        ("o'x", "'o''x    '          "),
    ],
)
def test_cards_are_fits(value: bool | int | float | str, expected: str) -> None:
    text = card("KEY", value, "note").decode()
    assert text == f"KEY     = {expected} / note".ljust(80)
    assert fits.Card.fromstring(text).value == value


def test_a_value_too_long_for_a_card_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        card("KEY", "x" * 80)
