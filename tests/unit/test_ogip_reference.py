"""Real Chandra files against what sherpa reads from them and folds through them."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypipe.ogip import Spectrum, read_arf, read_pha, read_rmf, read_spectrum

CSC = (
    "acisf01575_001N001_r0085_pha3.fits.gz",
    "acisf02779_001N001_r0004_pha3.fits.gz",
    "acisf04487_001N023_r0009_pha3.fits.gz",
    "acisf04736_000N001_r0079_pha3.fits.gz",
    "acisf04938_000N002_r0043_pha3.fits.gz",
    "acisf06152_000N002_r0070_pha3.fits.gz",
    "hrcf24564_000N030_r0001_pha3.fits.gz",
)
CIAO = ("3c273.pi", "9774.pi", "obs1.pi", "obs2.pi", "obs3.pi", "bubble.pi", "q1127_src1.pi.gz")
FILES = [("csc", name) for name in CSC] + [("ciao", name) for name in CIAO]


@cache
def reference(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    rows = json.loads((folder / "sherpa_reference.json").read_text())
    row = next(row for row in rows if row["file"] == name)
    with np.load(folder / "sherpa_reference.npz") as arrays:
        return row, {key.split(":")[1]: arrays[key] for key in arrays if key.startswith(name)}


@cache
def spectrum_of(path: Path) -> Spectrum:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_spectrum(path)


@pytest.mark.parametrize(("folder", "name"), FILES)
class TestAgainstSherpa:
    def test_counts_and_scales(self, shared_data: Path, folder: str, name: str) -> None:
        row, arrays = reference(shared_data / folder, name)
        spectrum = spectrum_of(shared_data / folder / name)
        np.testing.assert_array_equal(spectrum.counts, arrays["counts"])
        np.testing.assert_array_equal(spectrum.background_counts, arrays["bkg_counts"])
        assert spectrum.exposure_s == pytest.approx(row["exposure"], rel=1e-9)
        assert spectrum.background_scale == pytest.approx(row["bkg_scale"], rel=1e-9)
        assert spectrum.channels[0] == row["first_channel"]
        assert len(spectrum.channels) == row["channels"]

    def test_energies_and_band_counts(self, shared_data: Path, folder: str, name: str) -> None:
        row, arrays = reference(shared_data / folder, name)
        spectrum = spectrum_of(shared_data / folder / name)
        edges = spectrum.channel_energy_kev
        assert edges is not None
        np.testing.assert_allclose(edges[:, 0], arrays["e_min"], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(edges[:, 1], arrays["e_max"], rtol=1e-6)
        middle = edges.mean(axis=1)
        for band, low, high in (("s", 0.5, 1.2), ("m", 1.2, 2.0), ("h", 2.0, 7.0)):
            inside = (middle >= low) & (middle < high)
            assert spectrum.counts[inside].sum() == row[f"counts_{band}"]

    def test_fold_of_a_power_law(self, shared_data: Path, folder: str, name: str) -> None:
        expected = reference(shared_data / folder, name)[1]["powerlaw_counts"]
        folded = spectrum_of(shared_data / folder / name).fold(lambda kev: 1e-4 * kev**-1.7)
        counts = expected > 1e-6 * expected.max()
        np.testing.assert_allclose(folded[counts], expected[counts], rtol=1e-5)
        assert folded[~counts].max(initial=0.0) <= 2e-6 * expected.max()

    def test_source_is_not_its_own_background(
        self, shared_data: Path, folder: str, name: str
    ) -> None:
        spectrum = spectrum_of(shared_data / folder / name)
        assert not np.array_equal(spectrum.counts, spectrum.background_counts)


def test_csc_background_is_a_block_of_the_same_file(shared_data: Path) -> None:
    pha = read_pha(shared_data / "csc" / CSC[0])
    assert pha.background is not None
    assert pha.background.header["HDUCLAS2"] == "BKG"
    assert pha.header["HDUCLAS2"] == "TOTAL"
    assert pha.header["OBS_ID"] == "1575"
    assert pha.backfile == "acisf01575_001N001_r0085_pha3.fits"
    assert pha.background.backfile is None
    assert pha.quality is None


def test_ciao_grouping_and_quality_columns(shared_data: Path) -> None:
    pha = read_pha(shared_data / "ciao" / "3c273.pi")
    assert pha.grouping is not None
    assert pha.quality is not None
    assert set(np.unique(pha.grouping)) <= {-1, 0, 1}
    assert pha.quality.shape == pha.counts.shape


@pytest.mark.parametrize("name", ["acisi_aimpt_cy0", "acisi_aimpt_cy19", "aciss_aimpt_cy18"])
def test_canned_responses_conserve_photons(shared_data: Path, name: str) -> None:
    folder = shared_data / "responses"
    arf, rmf = read_arf(folder / f"{name}.arf"), read_rmf(folder / f"{name}.rmf.gz")
    np.testing.assert_allclose(arf.energy_lo_kev, rmf.energy_lo_kev, rtol=1e-6)
    assert rmf.matrix.shape == (len(arf.area_cm2), 1024)
    assert 300 < arf.area_cm2.max() < 1000
    rows = rmf.fold(np.eye(len(arf.area_cm2))).sum(axis=1)
    hard = arf.energy_lo_kev > 0.5
    np.testing.assert_allclose(rows[hard & (arf.energy_lo_kev < 9)], 1.0, atol=0.05)


def test_a_line_lands_at_its_channel(shared_data: Path) -> None:
    rmf = read_rmf(shared_data / "responses" / "acisi_aimpt_cy19.rmf.gz")
    photons = ((rmf.energy_lo_kev <= 3.0) & (rmf.energy_hi_kev > 3.0)).astype(float)
    peak = rmf.channel_energy_kev[rmf.fold(photons).argmax()]
    assert peak[0] == pytest.approx(3.0, abs=0.05)


MISSIONS = ("xmm-pn", "swift-xrt", "nicer", "nustar-a", "nustar-b", "asca-sis")


@pytest.mark.parametrize("name", MISSIONS)
def test_other_telescopes_against_sherpa(shared_data: Path, name: str) -> None:
    folder = shared_data / "missions"
    if not folder.is_dir():
        pytest.skip("the spectra of other telescopes (../shared/data/missions) are not there")
    rows, expected = (
        {row["name"]: row for row in json.loads((folder / file).read_text())}[name]
        for file in ("index.json", "sherpa_reference.json")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spectrum = read_spectrum(
            folder / rows["pha"],
            arf=folder / rows["arf"],
            rmf=folder / rows["rmf"],
            background=folder / rows["background"] if rows["background"] else None,
        )
    assert len(spectrum.channels) == expected["channels"]
    assert spectrum.counts.sum() == expected["counts"]
    assert spectrum.exposure_s == pytest.approx(expected["exposure"], rel=1e-9)
    if rows["background"]:
        assert spectrum.background_counts is not None
        assert spectrum.background_counts.sum() == expected["bkg_counts"]
        assert spectrum.background_scale == pytest.approx(expected["bkg_scale"], rel=1e-9)
    with np.load(folder / "sherpa_reference.npz") as arrays:
        counts = arrays[f"{name}:powerlaw_counts"]
    filled = counts > 1e-6 * counts.max()
    folded = spectrum.fold(lambda kev: 1e-4 * kev**-1.7)
    np.testing.assert_allclose(folded[filled], counts[filled], rtol=1e-5)
