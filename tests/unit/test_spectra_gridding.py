"""A spectrum on the model's grid: which numbers enter, which notes of the reader become flags."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import OgipError
from raypipe.ogip import notes
from raypipe.ogip.header import Header
from raypipe.ogip.notes import Note
from raypipe.spectra.bounds import (
    AREASCAL,
    BACKGROUND_SCALE,
    EXPOSURE_S,
    PEAK_AREA_CM2,
    Bounds,
)
from raypipe.spectra.fates import REFUSED
from raypipe.spectra.grid import NATIVE_CHANNELS, Grid
from raypipe.spectra.gridding import put_on_grid
from tests.unit.acis_spectra import arf, matrix, rmf, spectrum

GRID = Grid()
CODES = sorted(
    value for name, value in vars(notes).items() if name.isupper() and isinstance(value, str)
)
ODD = [0.0, -1.0, np.nan, np.inf, -np.inf, 1e300, 1e-310]
"""Values that no scale may have: all are finite in float64 or none, and useless in float32."""


def counts(value: float) -> np.ndarray:
    return np.full(NATIVE_CHANNELS, value)


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
        put_on_grid(spectrum(**{name: value}), GRID)


@pytest.mark.parametrize("value", [0.0, 1e300, 1e9, 1e-310])
def test_areas_that_the_model_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(OgipError, match=r"^mine\.pi: the largest effective area is .*make the ARF"):
        put_on_grid(spectrum(arf=arf(value)), GRID)


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
    gridded = put_on_grid(made, GRID)
    width = np.float32(GRID.energy_width_kev)
    photons = np.float32(gridded.exposure_s) * gridded.arf_cm2.max() * width
    background = np.float32(gridded.background_scale) * np.float32(np.iinfo(np.int32).max)
    normal = np.finfo(np.float32)
    for value in photons, background, np.float32(gridded.background_scale):
        assert normal.tiny <= value <= normal.max


@pytest.mark.parametrize("name", ["counts", "background_counts"])
@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0**31, 1e300, np.nan, np.inf])
def test_what_is_no_number_of_counts_is_refused(name: str, value: float) -> None:
    with pytest.raises(OgipError, match=r"^mine\.pi: .*counts"):
        put_on_grid(spectrum(**{name: counts(value)}), GRID)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e9, 2.0**31 - 1])
def test_counts_up_to_what_a_column_holds_are_kept_to_the_last(value: float) -> None:
    gridded = put_on_grid(spectrum(counts=counts(value), background_counts=counts(value)), GRID)
    assert (gridded.counts == value).all()
    assert gridded.band_counts()["counts_b"] == 445 * value
    assert gridded.band_counts()["background_counts_b"] == 445 * value
    assert GRID.bin_channels(gridded.counts).min() == 2 * value


def test_areascal_multiplies_the_area_and_leaves_the_exposure() -> None:
    whole, half = (put_on_grid(spectrum(areascal=share), GRID) for share in (1.0, 0.5))
    assert half.arf_cm2 == pytest.approx(0.5 * whole.arf_cm2)
    assert half.exposure_s == whole.exposure_s


def test_areascal_by_channel_is_never_ignored() -> None:
    by_channel = np.where(np.arange(NATIVE_CHANNELS) < 300, 0.5, 1.0)
    made = spectrum(areascal=by_channel, background_counts=None, background_scale=None)
    with pytest.raises(OgipError, match=r"^mine\.pi: AREASCAL differs by channel.*as a keyword"):
        put_on_grid(made, GRID)


def test_an_area_within_the_rmf_needs_no_arf() -> None:
    whole = rmf(matrix() * 250.0, includes_area=True)
    assert put_on_grid(spectrum(arf=None, rmf=whole), GRID).arf_cm2 == pytest.approx(
        np.full(GRID.n_energy, 250.0), rel=1e-5
    )
    with pytest.raises(OgipError, match="no ARF with it: put the file ANCRFILE names"):
        put_on_grid(spectrum(arf=None), GRID)


@pytest.mark.parametrize(("name", "said"), [("NONE", "names none"), ("CALDB", "is CALDB")])
def test_a_header_that_names_no_file_is_to_name_one(name: str, said: str) -> None:
    unnamed = spectrum(arf=None, header=Header(f"ANCRFILE= '{name}'".ljust(80).encode()))
    with pytest.raises(OgipError, match=f"ANCRFILE {said}.*: write the name of the ARF into it"):
        put_on_grid(unnamed, GRID)


@pytest.mark.parametrize("code", CODES)
def test_every_note_of_the_reader_becomes_a_flag_or_a_refusal(code: str) -> None:
    noted: Any = spectrum(warnings=(Note("something is odd", code),))
    if code in REFUSED:
        with pytest.raises(OgipError, match=r"^mine\.pi: something is odd; \w+"):
            put_on_grid(noted, GRID)
    else:
        assert code in put_on_grid(noted, GRID).flags


def test_only_known_notes_are_refused() -> None:
    assert set(REFUSED) < set(CODES)
    assert len(CODES) > 10
