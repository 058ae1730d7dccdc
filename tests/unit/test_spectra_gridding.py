"""A spectrum on the model's grid: which numbers enter, which notes of the reader become flags."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import OgipError
from raypipe.ogip import Spectrum, notes
from raypipe.ogip.header import Header
from raypipe.ogip.notes import Note
from raypipe.spectra.bounds import (
    AREASCAL,
    BACKGROUND_SCALE,
    EXPOSURE_S,
    PEAK_AREA_CM2,
    Bounds,
)
from raypipe.spectra.channel_bins import ACIS_CHANNELS
from raypipe.spectra.fates import REFUSED
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.gridding import GriddedSpectrum, grid_detection
from tests.unit.acis_spectra import arf, matrix, rmf, spectrum

GRID = EnergyGrid()
CODES = sorted(
    value for name, value in vars(notes).items() if name.isupper() and isinstance(value, str)
)
ODD = [0.0, -1.0, np.nan, np.inf, -np.inf, 1e300, 1e-310]
"""Values that no scale may have: all are finite in float64 or none, and useless in float32."""


def on_grid(made: Spectrum) -> GriddedSpectrum:
    return grid_detection(made, GRID)[0]


def counts(value: float) -> np.ndarray:
    return np.full(ACIS_CHANNELS, value)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exposure_s", "EXPOSURE is"),
        ("background_scale", "the background scale is"),
        ("areascal", "AREASCAL is"),
    ],
)
def test_scales_that_the_model_cannot_hold_are_refused(name: str, said: str, value: float) -> None:
    with pytest.raises(OgipError, match=rf"^mine\.pi: {said} .*expected .*: "):
        on_grid(spectrum(**{name: value}))


@pytest.mark.parametrize("value", [0.0, 1e300, 1e9, 1e-310])
def test_areas_that_the_model_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(OgipError, match=r"^mine\.pi: the largest effective area is .*make the ARF"):
        on_grid(spectrum(arf=arf(value)))


def _within(bounds: Bounds) -> st.SearchStrategy[float]:
    """Values between the bounds, evenly in their logarithm, and the bounds but for rounding."""
    low, high = np.log10(bounds.low), np.log10(bounds.high)
    return st.floats(low, high).map(lambda power: float(10**power) * (1 + 1e-9 * np.sign(-power)))


@settings(deadline=None)
@given(
    exposure_s=_within(EXPOSURE_S),
    scale=_within(BACKGROUND_SCALE),
    areascal=_within(AREASCAL),
    area=_within(PEAK_AREA_CM2),
)
def test_what_is_within_bounds_stays_normal_in_float32(
    exposure_s: float, scale: float, areascal: float, area: float
) -> None:
    """`area` is the one that AREASCAL is part of."""
    made = spectrum(
        exposure_s=exposure_s, background_scale=scale, areascal=areascal, arf=arf(area / areascal)
    )
    gridded = on_grid(made)
    width = np.float32(GRID.widths_kev.min())
    photons = np.float32(gridded.exposure_s) * gridded.arf_cm2.max() * width
    background = np.float32(gridded.background_scale) * np.float32(np.iinfo(np.int32).max)
    normal = np.finfo(np.float32)
    for value in photons, background, np.float32(gridded.background_scale):
        assert normal.tiny <= value <= normal.max


@pytest.mark.parametrize("name", ["counts", "background_counts"])
@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0**31, 1e300, np.nan, np.inf])
def test_what_is_no_number_of_counts_is_refused(name: str, value: float) -> None:
    with pytest.raises(OgipError, match=r"^mine\.pi: .*counts"):
        on_grid(spectrum(**{name: counts(value)}))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e9, 2.0**31 - 1])
def test_counts_up_to_what_a_column_holds_are_kept_to_the_last(value: float) -> None:
    gridded = on_grid(spectrum(counts=counts(value), background_counts=counts(value)))
    assert (gridded.counts == value).all()
    assert gridded.bands["counts_b"] == 445 * value
    assert gridded.bands["background_counts_b"] == 445 * value
    assert gridded.bins.bin_counts(gridded.counts).min() == 2 * value


def test_areascal_multiplies_the_area_and_leaves_the_exposure() -> None:
    whole, half = (on_grid(spectrum(areascal=share)) for share in (1.0, 0.5))
    assert half.arf_cm2 == pytest.approx(0.5 * whole.arf_cm2)
    assert half.exposure_s == whole.exposure_s


def test_areascal_by_channel_holds_for_each_channel() -> None:
    by_channel = np.where(np.arange(ACIS_CHANNELS) < 300, 0.5, 1.0)
    whole, plain = grid_detection(spectrum(), GRID)
    scaled, response = grid_detection(spectrum(areascal=by_channel), GRID)
    assert scaled.arf_cm2 == pytest.approx(whole.arf_cm2)
    expected = plain.redistribution * np.where(whole.bins.first[:-1] < 300, 0.5, 1.0)
    assert response.redistribution == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert response.rmf_id != plain.rmf_id
    unnamed = spectrum(areascal=by_channel, rmf=None, channel_energy_kev=None)
    with pytest.raises(OgipError, match=r"^mine\.pi: no RMF with it"):
        grid_detection(unnamed, GRID, plain)


def test_an_area_within_the_rmf_needs_no_arf() -> None:
    whole = rmf(matrix() * 250.0, includes_area=True)
    covered = (GRID.edges_kev[:-1] > 0.299) & (GRID.edges_kev[1:] < 9.301)
    area = on_grid(spectrum(arf=None, rmf=whole)).arf_cm2
    assert area[covered] == pytest.approx(250.0, rel=1e-5)
    assert not area[~covered].any()
    with pytest.raises(OgipError, match="no ARF with it: put the file ANCRFILE names"):
        on_grid(spectrum(arf=None))


@pytest.mark.parametrize(("name", "said"), [("NONE", "names none"), ("CALDB", "is CALDB")])
def test_a_header_that_names_no_file_is_to_name_one(name: str, said: str) -> None:
    unnamed = spectrum(arf=None, header=Header(f"ANCRFILE= '{name}'".ljust(80).encode()))
    with pytest.raises(OgipError, match=f"ANCRFILE {said}.*: write the name of the ARF into it"):
        on_grid(unnamed)


@pytest.mark.parametrize("code", CODES)
def test_every_note_of_the_reader_becomes_a_flag_or_a_refusal(code: str) -> None:
    noted: Any = spectrum(warnings=(Note("something is odd", code),))
    if code in REFUSED:
        with pytest.raises(OgipError, match=r"^mine\.pi: something is odd; \w+"):
            on_grid(noted)
    else:
        assert code in on_grid(noted).flags


def test_only_known_notes_are_refused() -> None:
    assert set(REFUSED) < set(CODES)
    assert len(CODES) > 10
