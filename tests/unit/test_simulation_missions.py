"""Surveys through the responses of any telescopes: pairs, visits, backgrounds, products."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from scipy import sparse

from raypipe.discovery.discover import discover
from raypipe.errors import UsageError
from raypipe.ogip import read_pha, read_rmf, read_spectrum
from raypipe.physics.energy import ERG_PER_KEV, source_grids
from raypipe.simulation import draw_survey, simulate
from raypipe.simulation.background import FLAT_RATE, background_rate
from raypipe.simulation.instrument import Instrument
from raypipe.simulation.measured_background import smoothed
from raypipe.simulation.populations import PARAMETERS, Sources, photon_flux
from raypipe.simulation.products import arf_file, rmf_file
from raypipe.simulation.response_files import find_response_files
from raypipe.simulation.responses import read_responses
from raypipe.simulation.survey import Survey
from raypipe.simulation.survey_plan import Plan, plan_survey
from raypipe.simulation.visits import SEEN_SHARE, seen_shares
from raypipe.store.layout import manifest_folder
from raypipe.store.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:.*of the 6.5 keV from 0.5 to 7 keV:UserWarning")

DETECTIONS = 45


@pytest.fixture(scope="module")
def folders(request: pytest.FixtureRequest) -> list[Path]:
    data: Path = request.getfixturevalue("shared_data")
    return [data / "missions", data / "responses"]


@pytest.fixture(scope="module")
def survey(folders: list[Path]) -> Survey:
    return draw_survey(DETECTIONS, seed=7, responses=folders, visits=3)


@pytest.fixture(scope="module")
def folder(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixed")
    simulate(out, detections=DETECTIONS, seed=7, responses=folders, visits=3)
    return out


@pytest.fixture(scope="module")
def instruments(folders: list[Path]) -> dict[str, Instrument]:
    return {each.name: each for each in read_responses(*folders)}


def spectra_of(folder: Path) -> dict[str, Path]:
    """Return the PHA of each detection by its detection_id."""
    found = {
        f"file:{path.name.removesuffix('.pha.gz')}": path for path in folder.glob("sim*.pha.gz")
    }
    for path in folder.glob("*_pha3.fits.gz"):
        found[f"sim:{int(path.name[5:10])}.0.1"] = path
    return found


def test_an_index_pairs_files_whose_headers_do_not(instruments: dict[str, Instrument]) -> None:
    missions = {name: each.mission for name, each in instruments.items() if not each.is_acis}
    assert missions == {
        "asca-sis": "ASCA SIS0",
        "nicer": "NICER XTI",
        "nustar-a": "NuSTAR FPMA",
        "nustar-b": "NuSTAR FPMB",
        "swift-xrt": "SWIFT XRT",
        "xmm-pn": "XMM EPN",
    }
    assert instruments["asca-sis"].first_channel == 1
    assert instruments["xmm-pn"].first_channel == 0


def test_a_lone_matrix_belongs_to_every_area_beside_it(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "missions/nustar", tmp_path / "deep/nustar")
    pairs, problems = find_response_files(tmp_path)
    assert problems == []
    assert [(each.arf and each.arf.name, each.rmf.name) for each in pairs] == [
        ("nu90402339002A01_sr.arf", "nustar_fpma.rmf.gz"),
        ("nu90402339002B01_sr.arf", "nustar_fpma.rmf.gz"),
    ]
    assert [each.background and each.background.name for each in pairs] == [
        "nu90402339002A01_bk.pha",
        "nu90402339002B01_bk.pha",
    ]


def test_headers_of_spectra_pair_files_of_other_names(shared_data: Path, tmp_path: Path) -> None:
    missions = shared_data / "missions"
    for source, name in (("arf", "one.arf"), ("rmf.gz", "two.rmf.gz")):
        shutil.copy(missions / f"xmm-pn/PN.{source}", tmp_path / name)
    shutil.copy(missions / "nicer/nicer.rmf.gz", tmp_path / "three.rmf.gz")
    with fits.open(missions / "xmm-pn/PN.pha") as hdus:
        hdus[1].header["ANCRFILE"], hdus[1].header["RESPFILE"] = "one.arf", "two.rmf"
        hdus.writeto(tmp_path / "some.pha")
    (pair, lone), problems = find_response_files(tmp_path)
    assert (pair.arf, pair.rmf) == (tmp_path / "one.arf", tmp_path / "two.rmf.gz")
    assert (lone.arf, lone.rmf) == (None, tmp_path / "three.rmf.gz")
    assert problems == []


def test_what_cannot_be_paired_is_named_with_the_mend(
    shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (shared_data / "responses").glob("acis*"):
        shutil.copy(path, tmp_path)
    shutil.copy(shared_data / "missions/nicer/nicer.arf", tmp_path)
    shutil.copy(shared_data / "missions/xmm-pn/PN.rmf.gz", tmp_path)
    (tmp_path / "broken.pha").write_bytes(b"SIMPLE")
    assert len(read_responses(tmp_path)) == 3
    assert "nicer.arf: no RMF found for it; give both the same name" in caplog.text
    assert "PN.rmf.gz: passed over, no ARF found for it" in caplog.text
    assert "broken.pha" in caplog.text


def test_a_response_that_ingest_refuses_is_passed_over(
    instruments: dict[str, Instrument], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nicer = instruments["nicer"]
    hard = replace(nicer, channel_energy_kev=nicer.channel_energy_kev + 20)
    (tmp_path / "hard.rmf.gz").write_bytes(rmf_file(hard))
    row = {"obsid": 1, "obi": 0, "region_id": 1, "ra": 0.0, "dec": 0.0, "psf_fraction": 0.9}
    row |= {"exposure_s": 1e4, "off_axis_arcmin": 0.0}
    (tmp_path / "hard.arf.gz").write_bytes(arf_file(nicer, row, nicer.area_cm2.astype(np.float32)))
    with pytest.raises(UsageError, match="no ARF/RMF pair"):
        read_responses(tmp_path)
    assert "no channel between 0.3 and 10 keV that a photon reaches" in caplog.text


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "expected a list of objects"),
        ('[{"arf": "a.arf"}]', "entry 1 has no rmf"),
        ('[{"rmf": "../a.rmf"}]', "leads out of"),
        ('[{"rmf": "absent.rmf"}]', "is not there; correct the path"),
        ('[{"rmf": 3}]', "rmf is no path"),
    ],
)
def test_a_malformed_index_is_refused(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/index.json").write_text(index)
    with pytest.raises(UsageError, match=message):
        read_responses(tmp_path / "in")


def test_a_matrix_with_the_area_needs_no_arf(
    instruments: dict[str, Instrument], tmp_path: Path
) -> None:
    separate = instruments["acisi_aimpt_cy19"]
    both = sparse.csr_array(sparse.diags_array(separate.area_cm2) @ separate.redistribution)
    (tmp_path / "both.rsp.gz").write_bytes(rmf_file(replace(separate, redistribution=both)))
    (together,) = read_responses(tmp_path)
    seen = separate.area_cm2 > 0
    expected = separate.area_cm2 * separate.redistribution.sum(axis=1)
    np.testing.assert_allclose(together.area_cm2[seen], expected[seen], rtol=1e-5)
    folded = [each.redistribution.T @ each.area_cm2 for each in (separate, together)]
    np.testing.assert_allclose(folded[1], folded[0], rtol=1e-4, atol=1e-3)


def test_visits_of_a_source_go_through_different_telescopes(survey: Survey) -> None:
    table = pd.DataFrame(survey.table)
    by_source = table.groupby("name")
    assert (by_source.size() == 3).all()
    assert (by_source["telescope"].nunique() == 3).all()
    assert (by_source["exposure_s"].nunique() == 3).mean() > 0.8
    for column in ("class", "ra", "dec", *PARAMETERS):
        assert (by_source[column].nunique() <= 1).all()


def test_one_telescope_gives_its_other_responses_to_further_visits(shared_data: Path) -> None:
    drawn = draw_survey(30, seed=1, responses=shared_data / "responses", visits=3)
    assert (pd.DataFrame(drawn.table).groupby("name")["instrument"].nunique() == 3).all()


def test_telescopes_with_many_responses_leave_room_for_others(folders: list[Path]) -> None:
    plan = plan_survey(3000, seed=3, responses=folders)
    missions = pd.Series([plan.instruments[index].mission for index in plan.instrument])
    shares = missions.value_counts(normalize=True)
    assert len(shares) == 7
    assert 0.15 < shares["CHANDRA ACIS"] < 0.30
    assert shares.drop("CHANDRA ACIS").between(0.06, 0.2).all()


def test_soft_sources_are_not_given_to_a_hard_telescope(
    folders: list[Path], shared_data: Path
) -> None:
    assert (seen_by(plan_survey(3000, seed=3, responses=folders)) >= SEEN_SHARE).all()
    alone = plan_survey(300, seed=3, responses=shared_data / "missions/nustar", counts_min=400)
    shares, counts = seen_by(alone), alone.targets.counts
    assert (counts[shares >= SEEN_SHARE] >= 400).all()
    faintest = shares < SEEN_SHARE / 20
    assert faintest.any()
    assert (counts[faintest] < 5000 / 20).all()


def seen_by(plan: Plan) -> npt.NDArray[np.float64]:
    """Return the share of its source's photons that each detection's telescope sees."""
    shares = seen_shares(plan.targets.sources, plan.instruments)
    return shares[plan.targets.source, plan.instrument]


def test_a_measured_background_has_the_rate_and_shape_of_its_file(
    instruments: dict[str, Instrument], shared_data: Path
) -> None:
    measured = read_pha(shared_data / "missions/xmm-pn/PNbackground_spectrum.fits")
    background = instruments["xmm-pn"].background
    assert background is not None
    total = background.rate.sum() * measured.exposure_s * measured.backscal
    assert total == pytest.approx(measured.counts.sum(), rel=1e-6)
    for low, high in ((100, 200), (200, 500), (500, 1500), (1500, 2000)):
        expected = measured.counts[low:high].sum()
        found = background.rate[low:high].sum() * measured.exposure_s * measured.backscal
        assert abs(found - expected) < 4 * np.sqrt(expected)
    assert instruments["swift-xrt"].background is None
    assert background_rate(instruments["swift-xrt"]) == FLAT_RATE
    assert instruments["nustar-b"].background is not instruments["nustar-a"].background


def test_smoothing_keeps_lines_where_counts_are_many_and_no_noise_where_few() -> None:
    line = np.zeros(1000)
    line[500:503] = 4000.0
    assert smoothed(line + 100, 0.0146)[501] > 0.3 * 4000
    noise = np.random.default_rng(1).poisson(0.05, 4000).astype(float)
    smooth = smoothed(noise, 0.04)
    assert smooth.sum() == pytest.approx(noise.sum())
    assert smooth.std() < 0.2 * smooth.mean()


def test_the_reader_reads_what_was_drawn(folder: Path, survey: Survey) -> None:
    paths = spectra_of(folder)
    for i, detection_id in enumerate(survey.table["detection_id"]):
        spectrum = read_spectrum(paths[detection_id])
        instrument = survey.instruments[survey.instrument[i]]
        counts, background_counts = survey.native_counts(i)
        np.testing.assert_array_equal(spectrum.counts, counts)
        assert spectrum.background_counts is not None
        np.testing.assert_array_equal(spectrum.background_counts, background_counts)
        assert spectrum.exposure_s == survey.table["exposure_s"][i]
        assert spectrum.arf is not None
        assert spectrum.rmf is not None
        assert spectrum.rmf.channels[0] == spectrum.channels[0] == instrument.first_channel
        assert abs(spectrum.rmf.matrix - instrument.redistribution).max() == 0
        assert spectrum.rmf.header["TELESCOP"] == instrument.telescope
        np.testing.assert_allclose(
            spectrum.rmf.channel_energy_kev, instrument.channel_energy_kev, rtol=1e-6
        )


def test_truth_is_what_the_parameters_fold_to_through_the_files(folder: Path) -> None:
    """Spectra rebuilt from the truth's parameters, folded by the reader, plus the background."""
    paths = spectra_of(folder)
    for row in pq.read_table(folder / "truth.parquet").to_pylist():
        spectrum = read_spectrum(paths[row["detection_id"]])
        rmf = spectrum.rmf
        assert rmf is not None
        edges = np.append(rmf.energy_lo_kev, rmf.energy_hi_kev[-1])
        (grid,) = source_grids([edges])
        parameters = {name: np.array([row[name]], dtype=float) for name in PARAMETERS}
        flux = photon_flux(Sources(np.array([row["model"]]), parameters), grid)[0]
        band = flux[grid.in_band] * grid.mid_kev[grid.in_band]
        flux *= row["flux_b"] / (band.sum() * grid.width_kev * ERG_PER_KEV)
        integral = np.concatenate([[0.0], np.cumsum(flux) * grid.width_kev])
        photons = np.diff(np.interp(edges, grid.edges_kev, integral))
        assert spectrum.arf is not None
        area = spectrum.arf.area_on(rmf.energy_lo_kev, rmf.energy_hi_kev)
        source = spectrum.exposure_s * rmf.fold(photons * area)
        expected = source + np.array(row["background_model_counts"])
        assert len(row["model_counts"]) == len(expected)
        total = expected.sum()
        np.testing.assert_allclose(row["model_counts"], expected, rtol=2e-3, atol=1e-6 * total)


def test_hard_photons_are_counted_up_to_the_end_of_the_mirrors(folder: Path) -> None:
    truth = pq.read_table(folder / "truth.parquet").to_pandas()
    rows = truth[truth["telescope"].str.startswith("NuSTAR") & (truth["photon_index"] < 2)]
    channels = read_rmf(next(folder.glob("sim_nustar-a.rmf.gz"))).channel_energy_kev.mean(axis=1)
    source = np.stack(rows["model_counts"]) - np.stack(rows["background_model_counts"])
    assert len(rows)
    assert (source[:, channels > 30].sum(axis=1) > 0.01 * source.sum(axis=1)).all()
    assert source[:, channels > 85].sum() < 1e-3 * source.sum()


def test_discovery_finds_the_detections_of_the_truth_with_their_files(
    folder: Path, tmp_path: Path
) -> None:
    assert discover(tmp_path / "w", source=str(folder))["rows"] == DETECTIONS
    workspace = Workspace(tmp_path / "w")
    parts = workspace.files(manifest_folder("sim"), ".parquet")
    manifest = pd.concat([workspace.read_table(part).to_pandas() for part in parts])
    truth = pq.read_table(folder / "truth.parquet").to_pandas()
    assert set(manifest["detection_id"]) == set(truth["detection_id"])
    own = manifest["detection_id"].str.startswith("file:")
    assert 0 < own.sum() < DETECTIONS
    for column in ("arf_uri", "rmf_uri"):
        assert manifest[column].notna().all()
    assert manifest["background_uri"][own].notna().all()


def test_the_same_arguments_give_the_same_bytes_and_a_rerun_leaves_nothing_over(
    folder: Path, folders: list[Path], tmp_path: Path
) -> None:
    simulate(tmp_path, detections=DETECTIONS + 9, seed=1, responses=folders)
    simulate(tmp_path, detections=DETECTIONS, seed=7, responses=folders, visits=3, workers=1)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    description = json.loads((tmp_path / "survey.json").read_text())
    assert (description["visits"], description["responses"]) == (3, ["missions", "responses"])


def test_the_built_in_survey_stays_what_it_was(tmp_path: Path) -> None:
    """Counts of a seed are part of what surveys published before mean.

    They changed once, when bremsstrahlung and plasma got the exact Gaunt factor.
    """
    summary = simulate(tmp_path, detections=40, seed=11)
    assert summary.fingerprint == "5fcf09cb18dcca1f"
    digest = hashlib.sha256()
    for column in ("detection_id", "name", "class", "instrument"):
        digest.update(
            "".join(pq.read_table(tmp_path / "truth.parquet")[column].to_pylist()).encode()
        )
    assert digest.hexdigest()[:16] == "662672eaf35ce1a4"


def test_visits_of_none_are_refused() -> None:
    with pytest.raises(UsageError, match="visits must be at least 1"):
        draw_survey(5, visits=0)
