"""A file is looked into for a spectrum only where that is worth it, and only at its beginning."""

from __future__ import annotations

import gzip

import pytest

from raypipe.discovery.listing import may_be_pha
from raypipe.discovery.peek import LOOK_BYTES, holds_spectrum
from tests.unit.ogip_files import pha_hdu, to_bytes


def test_a_look_is_bounded() -> None:
    table = to_bytes(pha_hdu())
    assert holds_spectrum(table)
    assert holds_spectrum(table[: len(table) // 2])
    assert holds_spectrum(gzip.compress(table)[:LOOK_BYTES])
    assert not holds_spectrum(gzip.compress(bytes(200 << 20))[:LOOK_BYTES])
    assert not holds_spectrum(b"HDUCLAS1= 'SPECTRUM'")
    shifted = b"SIMPLE  =" + b"HDUCLAS1= 'SPECTRUM'".rjust(100)
    assert not holds_spectrum(shifted)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("P0123_M1S001_SourceSpec_0001.fits", True),
        ("x.FTZ", True),
        ("acisf00635N003_evt2.fits.gz", False),
        ("acisf00635_000N020_r0102_reg3.fits.gz", False),
        ("acisf00635_000N020_r0102b_psf3.fits.gz", False),
        ("x.arf", False),
        ("x.txt", False),
    ],
)
def test_which_files_are_worth_a_look(name: str, expected: bool) -> None:
    assert may_be_pha(name) is expected
