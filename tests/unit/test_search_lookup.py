"""Names found, and the nearest spellings of those that are not there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.searching.lookup import (
    id_called,
    nearest_spellings,
    position_in,
    rows_of,
    separations_arcsec,
    why_unnamed,
)

_RNG = np.random.default_rng(0)
_NAMES = [
    f"2CXO J{h:02d}{m:02d}{s:04.1f}{'+-'[sign]}{d:02d}{a:02d}{b:02d}"
    for h, m, s, sign, d, a, b in zip(
        _RNG.integers(0, 24, 3000),
        _RNG.integers(0, 60, 3000),
        _RNG.uniform(0, 59, 3000),
        _RNG.integers(0, 2, 3000),
        _RNG.integers(0, 90, 3000),
        _RNG.integers(0, 60, 3000),
        _RNG.integers(0, 60, 3000),
        strict=True,
    )
]
NAMES = pa.chunked_array([pa.array([*_NAMES[:1000], None, ""]), pa.array(_NAMES[1000:])])


def test_names_are_found_where_they_are() -> None:
    assert rows_of(NAMES, _NAMES[5]).tolist() == [5]
    assert rows_of(NAMES, _NAMES[1500]).tolist() == [1502]
    assert rows_of(NAMES, "M 31").tolist() == []


@settings(max_examples=60, deadline=None)
@given(
    row=st.integers(0, 2999),
    place=st.integers(0, 20),
    change=st.sampled_from(["lost", "doubled", "changed", "small", "bare"]),
)
def test_a_slip_of_the_pen_is_found_out(row: int, place: int, change: str) -> None:
    name = _NAMES[row]
    slip = {
        "lost": name[:place] + name[place + 1 :],
        "doubled": name[:place] + name[place] + name[place:],
        "changed": name[:place] + "x" + name[place + 1 :],
        "small": name.lower(),
        "bare": name.removeprefix("2CXO "),
    }[change]
    assert name in nearest_spellings(NAMES, slip)


@pytest.mark.parametrize("text", ["", "M 31", "é" * 300, "\x00", "2CXO J" * 50])
def test_texts_like_nothing_do_no_harm(text: str) -> None:
    assert len(nearest_spellings(NAMES, text)) <= 3


def test_there_need_not_be_any_names() -> None:
    nothing = pa.chunked_array([pa.array([None, None], pa.string())])
    assert nearest_spellings(nothing, "2CXO J004242.9+411608") == []
    assert nearest_spellings(pa.chunked_array([pa.array([], pa.large_string())]), "x") == []


def test_a_name_tells_its_position() -> None:
    assert position_in("M 31") is None
    for name in (*_NAMES[:50], "2cxo j004242.9-001608X"):
        place = position_in(name)
        assert place is not None
        text = name.upper().rstrip("X").split("J")[1]
        hms, dms = text[:8], text[8:]
        sky = SkyCoord(
            f"{hms[:2]} {hms[2:4]} {hms[4:]} {dms[:3]} {dms[3:5]} {dms[5:]}",
            unit=("hourangle", "deg"),
        )
        assert place == pytest.approx((sky.ra.deg, sky.dec.deg), abs=1e-9)


def test_separations_are_astropys() -> None:
    ra, dec = _RNG.uniform(0, 360, 200), _RNG.uniform(-90, 90, 200)
    sky = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(10.7, 41.2, unit="deg")).arcsec
    assert separations_arcsec(ra, dec, (10.7, 41.2)) == pytest.approx(sky, rel=1e-6)


def test_a_detection_is_called_by_its_id_or_its_file() -> None:
    ids = pa.chunked_array([["file:3c273", "mine:1575.1.85", "1575"]])
    called = ["file:3c273", "3c273", "1575.1.85", "mine:1575.1.85", "1575", "3c27", ""]
    expected = [*["file:3c273"] * 2, *["mine:1575.1.85"] * 2, "1575", None, None]
    assert [id_called(ids, name, "mine") for name in called] == expected


def test_names_that_are_not_there_are_explained() -> None:
    ids = [f"file:{number}" for number in range(5)]
    nothing = pa.nulls(5, pa.large_string())
    unnamed = pa.table({"detection_id": ids, "name": nothing})
    assert why_unnamed("M31", unnamed) == (
        "M31: no detection of this catalog has the name of a source; give a detection, such as "
        "--detection file:0"
    )
    field = unnamed.append_column("target_name", pa.array(["M31"] * 4 + [None]))
    assert why_unnamed("M31", field) == (
        "M31: the target of 4 detections that may be different sources; give one of them with "
        "--detection: file:0, file:1, file:2 and 1 more"
    )
    named = pa.table({"detection_id": ids, "name": ["3C 273", *[None] * 4]})
    assert why_unnamed("M31", named) is None
    assert why_unnamed("M31", named.slice(0, 0)) is None
