"""Built-in instruments against real ones, folding, backgrounds, and responses from files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from raypipe.errors import UsageError
from raypipe.ogip import read_arf, read_pha, read_rmf
from raypipe.physics.components import power_law
from raypipe.physics.energy import EnergyGrid, FloatArray
from raypipe.simulation import acis
from raypipe.simulation.background import background_shape
from raypipe.simulation.instrument import Instrument, fold, vignetting
from raypipe.simulation.responses import read_responses

GRID = EnergyGrid()
INSTRUMENTS = {each.name: each for each in acis.acis_instruments()}


def peak_fwhm_kev(matrix: sparse.csr_array, channel_kev: FloatArray, row: int) -> float:
    probability = matrix[[row], :].toarray()[0]
    middle = channel_kev.mean(axis=1)
    peak = int(probability.argmax())
    half = probability[peak] / 2
    near = slice(max(peak - 30, 0), peak + 1)
    low = np.interp(half, probability[near], middle[near])
    high = np.interp(-half, -probability[peak : peak + 30], middle[peak : peak + 30])
    return float(high - low)


@pytest.mark.parametrize("name", list(INSTRUMENTS))
def test_a_photon_is_counted_once(name: str) -> None:
    instrument = INSTRUMENTS[name]
    assert instrument.redistribution.shape == (900, 1024)
    np.testing.assert_allclose(instrument.redistribution.sum(axis=1), 1.0, atol=1e-5)
    assert instrument.redistribution.min() >= 0
    assert np.all(instrument.area_cm2 > 0)


def test_channels_have_the_bounds_of_real_ebounds() -> None:
    bounds = acis.channel_energies()
    np.testing.assert_allclose(bounds[:2], [[0.0073, 0.0146], [0.0146, 0.0292]])
    assert bounds[-1, 1] == pytest.approx(14.9504)


@pytest.mark.parametrize(
    ("file", "detector", "year"),
    [
        ("csc/acisf01575_001N001_r0085_arf3.fits.gz", acis.ACIS_S3, 2001.75),
        ("csc/acisf04487_001N022_r0009_arf3.fits.gz", acis.ACIS_S3, 2004.0),
        ("responses/aciss_aimpt_cy18.arf", acis.ACIS_S3, 2016.0),
        ("responses/acisi_aimpt_cy0.arf", acis.ACIS_I3, 1999.6),
        ("responses/acisi_aimpt_cy19.arf", acis.ACIS_I3, 2017.9),
    ],
)
def test_areas_are_those_of_real_responses(
    shared_data: Path, file: str, detector: acis.Detector, year: float
) -> None:
    real = read_arf(shared_data / file)
    energy = np.array([0.65, 0.8, 1.0, 1.5, 1.8, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0])
    middle = 0.5 * (real.energy_lo_kev + real.energy_hi_kev)
    expected = np.interp(energy, middle, real.area_cm2)
    np.testing.assert_allclose(acis.on_axis_area(detector, year, energy), expected, rtol=0.2)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("csc/acisf01575_001N001_r0085_rmf3.fits.gz", "acis-s3-2000"),
        ("csc/acisf04938_000N002_r0043_rmf3.fits.gz", "acis-i2-2006"),
        ("responses/acisi_aimpt_cy19.rmf.gz", "acis-i3-2018"),
    ],
)
def test_resolution_is_that_of_real_responses(shared_data: Path, file: str, name: str) -> None:
    real, ours = read_rmf(shared_data / file), INSTRUMENTS[name]
    for energy in (0.5, 1.0, 1.5, 2.5, 4.0, 5.9, 8.0):
        row = int(np.searchsorted(real.energy_hi_kev, energy))
        expected = peak_fwhm_kev(real.matrix, np.asarray(real.channel_energy_kev), row)
        row = int(np.searchsorted(ours.energy_edges_kev[1:], energy))
        found = peak_fwhm_kev(ours.redistribution, ours.channel_energy_kev, row)
        assert found == pytest.approx(expected, rel=0.1)


def test_contamination_grows_and_takes_soft_photons() -> None:
    energy = np.array([0.5, 1.0, 3.0])
    areas = np.array([acis.on_axis_area(acis.ACIS_S3, y, energy) for y in (2000, 2008, 2016, 2024)])
    assert np.all(np.diff(areas[:, 0]) < 0)
    lost = areas[-1] / areas[0]
    assert lost[0] < 0.1 < lost[1] < 0.9 < lost[2]


def test_silicon_escape_peak_appears_above_the_edge_only() -> None:
    matrix = INSTRUMENTS["acis-s3-2000"].redistribution.toarray()
    channel = int((4.5 - 1.74) / 0.0146)
    row = int((4.5 - 0.3) / 0.01)
    peak = matrix[row, channel - 6 : channel + 7].sum()
    beside = matrix[row, channel + 20 : channel + 33].sum()
    assert peak > 5 * beside
    below_edge = matrix[int((1.8 - 0.3) / 0.01)]
    assert below_edge[: int(0.3 / 0.0146)].max() < 1e-3


def test_vignetting_takes_more_further_out_and_at_higher_energy() -> None:
    left = vignetting(np.array([1.0, 5.0, 8.0]), np.array([0.0, 5.0, 10.0]))
    np.testing.assert_array_equal(left[0], 1.0)
    assert np.all(np.diff(left[1:], axis=1) < 0)
    assert np.all(np.diff(left, axis=0) < 0)


def test_folding_counts_flux_times_area() -> None:
    instrument = INSTRUMENTS["acis-s3-2005"]
    flux = power_law(np.array([1.7, 1.0]), GRID)
    area = np.repeat(instrument.area_cm2[None].astype(np.float32), 2, axis=0)
    counts = fold(instrument, GRID, flux, area)
    expected = (flux * instrument.area_cm2).sum(axis=1) * GRID.width_kev
    np.testing.assert_allclose(counts.sum(axis=1), expected, rtol=1e-5)


def test_folding_onto_other_energy_bins_keeps_the_photons() -> None:
    instrument = INSTRUMENTS["acis-s3-2005"]
    edges = np.linspace(0.25, 9.5, 803)
    middle = 0.5 * (edges[1:] + edges[:-1])
    nearest = np.clip(((middle - 0.3) / 0.01).astype(int), 0, 899)
    coarse = replace(
        instrument,
        energy_edges_kev=edges,
        area_cm2=instrument.area_cm2[nearest],
        redistribution=instrument.redistribution[nearest],
    )
    flux = power_law(np.array([1.7]), GRID)
    fine = fold(instrument, GRID, flux, instrument.area_cm2[None].astype(np.float32))
    other = fold(coarse, GRID, flux, coarse.area_cm2[None].astype(np.float32))
    assert other.sum() == pytest.approx(fine.sum(), rel=3e-3)
    np.testing.assert_allclose(other[0, 60:400], fine[0, 60:400], rtol=0.05)


@pytest.mark.parametrize("name", ["acis-s3-2005", "acis-i2-2006"])
def test_background_is_one_count_in_the_band_with_lines(name: str) -> None:
    instrument = INSTRUMENTS[name]
    shape = background_shape(instrument, GRID, np.array([0.1, 0.5]))
    np.testing.assert_allclose(shape[:, instrument.channels_in_band].sum(axis=1), 1.0)
    assert np.all(shape >= 0)
    nickel, beside = int(7.478 / 0.0146), int(7.0 / 0.0146)
    assert np.all(shape[:, nickel] > 1.3 * shape[:, beside])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("acisf06152_000N002_r0070_pha3.fits.gz", "acis-s3-2005"),
        ("acisf04938_000N002_r0043_pha3.fits.gz", "acis-i2-2006"),
    ],
)
def test_background_looks_like_real_ones(shared_data: Path, file: str, name: str) -> None:
    instrument = INSTRUMENTS[name]
    real = read_pha(shared_data / "csc" / file).background
    assert real is not None
    edges = [0.7, 1.2, 2.0, 3.0, 5.0, 7.0]
    middle = instrument.channel_energy_kev.mean(axis=1)
    ours = background_shape(instrument, GRID, np.array([0.3]))[0]
    found = np.histogram(middle, edges, weights=ours)[0]
    expected = np.histogram(middle, edges, weights=real.counts)[0]
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.5)


def test_pairs_of_responses_are_found_and_their_chips_told(shared_data: Path) -> None:
    canned = {each.name: each for each in read_responses(shared_data / "responses")}
    assert {name: each.back_illuminated for name, each in canned.items()} == {
        "acisi_aimpt_cy0": False,
        "acisi_aimpt_cy19": False,
        "aciss_aimpt_cy18": True,
    }
    assert all(each.vignettes for each in canned.values())
    real = read_arf(shared_data / "responses/aciss_aimpt_cy18.arf")
    np.testing.assert_allclose(canned["aciss_aimpt_cy18"].area_cm2, real.area_cm2, rtol=1e-6)


def test_catalog_named_pairs_are_found_and_other_cameras_passed_over(
    shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: tuple[Instrument, ...] = read_responses(shared_data / "csc")
    assert len(found) == 6
    assert not any(each.vignettes for each in found)
    assert "hrcf24564" in caplog.text


def test_a_folder_without_pairs_is_refused(tmp_path: Path, shared_data: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_responses(tmp_path / "nowhere")
    shutil.copy(shared_data / "responses/acisi_aimpt_cy0.arf", tmp_path)
    with pytest.raises(UsageError, match="no ARF/RMF pair"):
        read_responses(tmp_path)
