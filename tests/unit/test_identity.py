"""The names of the catalog's products: read, written, and told from all others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raypipe
from raypipe.identity import SPECTRAL_PRODUCTS, CscName, is_csc_name, parse_csc_name

NAMES = st.builds(
    CscName,
    st.sampled_from(["acis", "hrc"]),
    st.integers(0, 999_999_999),
    st.integers(0, 999),
    st.integers(0, 999),
    st.integers(0, 9),
    st.integers(0, 99_999),
    st.sampled_from(SPECTRAL_PRODUCTS),
)


@given(NAMES, st.sampled_from(["", "a/b/", "s3://bucket/csc2.1/", "N001_r0001_"]))
def test_what_is_written_is_read_again(name: CscName, folder: str) -> None:
    uris = [f"{folder}{name.plain}", f"{folder}{name.plain}.gz"]
    is_whole = folder.endswith("/") or not folder
    assert [parse_csc_name(uri) for uri in uris] == [name if is_whole else None] * 2


def test_a_name_says_what_it_identifies() -> None:
    name = parse_csc_name("x/acisf01575_001N002_e1_r0085_pha3.fits.gz")
    assert name == CscName("acis", 1575, 1, 2, 1, 85, "pha3")
    assert name.region == "acisf01575_001_e1_r0085"
    assert name.observation == "acisf01575_001"


def test_newer_versions_and_first_exposures_come_first() -> None:
    names = [
        "acisf00010_000N001_e2_r0001_pha3.fits",
        "acisf00010_000N001_e1_r0001_pha3.fits",
        "acisf00010_000N002_e2_r0001_pha3.fits",
    ]
    parsed = [name for name in map(parse_csc_name, names) if name]
    assert sorted(parsed, key=lambda name: name.rank) == parsed


@pytest.mark.parametrize(
    ("name", "is_of_csc"),
    [
        ("acisf00635_000N020_r0102_reg3.fits.gz", True),
        ("acisf00635_000N020_r0102b_psf3.fits.gz", True),
        ("acisf00635_000N020_r0102b_pha3.fits.gz", True),
        ("acisf00635_000N020_evt3.fits", True),
        ("acisf00635_000N020_e1_b_img3.fits.gz", True),
        ("acisf00635N003_evt2.fits.gz", False),
        ("copy_acisf00635_000N020_r0102_pha3.fits.gz", False),
        ("acisf00635_000N020_r0102_pha3.fits.gz\n", False),
        ("acisf\u0661\u0662\u0663\u0664\u0665_000N020_r0102_pha3.fits", False),
        ("acisf00635_000N020_r0102_pha3.fits.bz2", False),
        ("source.pi", False),
    ],
)
def test_other_names_are_no_spectra_of_the_catalog(name: str, is_of_csc: bool) -> None:
    assert parse_csc_name(name) is None
    assert is_csc_name(name) is is_of_csc


def test_no_other_module_knows_the_pattern() -> None:
    pattern = re.compile(r"(acis|hrc)\)?f[\\{(]|N\\d|N\{|_r\\d|_r\{")
    sources = Path(raypipe.__file__).parent.rglob("*.py")
    assert {path.name for path in sources if pattern.search(path.read_text())} == {"identity.py"}
