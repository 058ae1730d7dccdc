"""Files that other tools stumbled over, read as they are meant."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypipe.ogip import OgipError, Spectrum, notes, read_pha, read_rmf, read_spectrum

NOT_PLAIN = {"cut-padding.pi", "caldb.pi"}


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    folder = shared_data / "cases"
    if not folder.is_dir():
        pytest.skip("the collected cases (../shared/data/cases) are not there")
    return folder


def power_law(energy_kev: np.ndarray) -> np.ndarray:
    return 1e-3 * energy_kev**-1.7


def read(path: Path, **others: Any) -> Spectrum:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_spectrum(path, **others)


def codes(spectrum: Spectrum) -> set[str]:
    return {note.code for note in spectrum.warnings}


def test_areascal_multiplies_the_fold(cases: Path) -> None:
    one, half, column = (
        read(cases / "areascal" / f"{name}.pi") for name in ("one", "half", "column")
    )
    whole = one.fold(power_law)
    assert whole.sum() > 1e4
    np.testing.assert_allclose(half.fold(power_law), 0.5 * whole)
    scale = np.where(column.channels < 301, 0.5, 1.0)
    np.testing.assert_allclose(column.fold(power_law), scale * whole)


def test_missing_backscal_of_the_background_is_said(cases: Path) -> None:
    spectrum = read(cases / "backscal-missing" / "src.pi")
    assert codes(spectrum) == {notes.NO_BACKSCAL}
    assert "the background has no BACKSCAL" in spectrum.warnings[0]


def test_background_numbered_otherwise_is_matched_in_order(cases: Path) -> None:
    folder = cases / "channel-0-vs-1"
    alike, other = read(folder / "from0.pha"), read(folder / "from1.pha")
    np.testing.assert_array_equal(other.background_counts, alike.background_counts)
    np.testing.assert_array_equal(other.fold(power_law), alike.fold(power_law))
    assert notes.CHANNELS_MATCHED in codes(other) - codes(alike)


def test_odd_headers_read_as_the_plain_one(cases: Path) -> None:
    folder = cases / "header-oddities"
    plain = read(folder / "plain.pi")
    expected = plain.fold(power_law)
    odd = {path.name for path in folder.glob("*.pi")} - NOT_PLAIN
    assert len(odd) > 15
    for name in odd:
        spectrum = read(folder / name)
        np.testing.assert_array_equal(spectrum.counts, plain.counts, err_msg=name)
        np.testing.assert_array_equal(spectrum.channels, plain.channels, err_msg=name)
        np.testing.assert_allclose(spectrum.fold(power_law), expected, rtol=1e-12, err_msg=name)
        livetime = {notes.LIVETIME_USED} if name == "livetime-only.pi" else set()
        assert codes(spectrum) == livetime, name


def test_what_cannot_be_read_is_clear(cases: Path) -> None:
    folder = cases / "header-oddities"
    with pytest.raises(OgipError, match="the file is truncated"):
        read_spectrum(folder / "cut-padding.pi")
    spectrum = read(folder / "caldb.pi")
    assert codes(spectrum) == {notes.ARF_MISSING, notes.RMF_MISSING}
    assert "ANCRFILE is CALDB, which is not searched: give arf=" in spectrum.warnings


def test_a_split_matrix_folds_as_the_whole(cases: Path) -> None:
    folder = cases / "multi-matrix"
    split = read(folder / "src.pi")
    whole = read(folder / "src.pi", rmf=folder / "whole.rmf")
    assert split.fold(power_law).sum() == pytest.approx(14617.33, rel=1e-5)
    assert whole.fold(power_law).sum() == pytest.approx(14617.33, rel=1e-5)
    np.testing.assert_allclose(split.fold(power_law), whole.fold(power_law), rtol=2e-3, atol=1e-2)


def test_negative_background_is_read_and_said(cases: Path) -> None:
    folder = cases / "negative-background"
    background = folder / "P011160506306_LE_BKG.fits"
    alone = read_pha(background)
    assert alone.counts.min() < 0
    assert {note.code for note in alone.warnings} >= {notes.NET_COUNTS, notes.NOT_POISSON}
    spectrum = read(folder / "P011160506306_LE_TOTAL.fits", background=background)
    assert notes.NEGATIVE_BACKGROUND in codes(spectrum)
    assert spectrum.counts.sum() == 204537


def test_net_counts_are_said(cases: Path) -> None:
    folder = cases / "net-counts"
    assert codes(read(folder / "net.pi")) == {notes.NET_COUNTS, notes.NOT_POISSON}
    assert codes(read(folder / "total.pi")) == set()


def test_ebounds_of_another_class(cases: Path) -> None:
    spectrum = read(cases / "pi-ebounds-ingest" / "source.pi")
    assert spectrum.fold(power_law).sum() == pytest.approx(33558.685, rel=1e-6)
    assert codes(spectrum) == {notes.NOT_POISSON}, "whole numbers in spite of POISSERR"


def test_a_bin_of_no_width_adds_nothing(cases: Path) -> None:
    folder = cases / "rosat-zero-width"
    response = folder / "pspcc_gain1_256.rsp"
    spectrum = read(folder / "xrbg_xspec.pi", rmf=response)
    assert spectrum.fold(power_law).sum() == pytest.approx(0.62456, rel=1e-5)
    rmf = read_rmf(response)
    assert (rmf.energy_hi_kev > rmf.energy_lo_kev).all()
    assert rmf.matrix.shape == (710, 256)


def test_a_response_that_does_not_say_it_has_the_area(cases: Path) -> None:
    folder = cases / "rsp-without-hduclas3"
    spectrum = read(
        folder / "P011160506306_ME_TOTAL.fits", rmf=folder / "P011160506306_ME_RSP.fits", arf=None
    )
    assert spectrum.rmf is not None
    assert spectrum.rmf.includes_area
    assert spectrum.fold(power_law).sum() == pytest.approx(17.065284, rel=1e-6)


@pytest.mark.parametrize("sigma_ev", [5.0, 3.0, 1.0, 0.1])
@pytest.mark.parametrize("continuum", [0.0, 1e-3])
def test_a_narrow_line_keeps_its_counts(cases: Path, sigma_ev: float, continuum: float) -> None:
    spectrum = read(cases / "narrow-line" / "src.pi")
    sigma = 1e-3 * sigma_ev

    def folded(line: float, center: float) -> float:
        def flux(energy: np.ndarray) -> np.ndarray:
            shape = np.exp(-0.5 * ((energy - center) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
            return line * shape + continuum * energy**-1.7

        return float(spectrum.fold(flux).sum())

    for center in 6.4 + np.linspace(0.0, 0.02, 21):
        counts = folded(1e-5, center) - folded(0.0, center)
        assert counts == pytest.approx(100.0, rel=1e-4), center
