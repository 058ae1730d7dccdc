"""The chip of a detection by its header: real ones, places known beforehand, and nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingestion.chips import Chip, chip_of
from raypipe.ogip import read_pha
from raypipe.ogip.regions import SKY_ORIGIN

ACIS_S_MM, ACIS_I_MM = -190.14, -233.59
CHIPS_OF_RMFS = {
    "acisf01575_001N001_r0085": Chip(7),
    "acisf02779_001N001_r0004": Chip(6),
    "acisf04487_001N023_r0009": Chip(7),
    "acisf04736_000N001_r0079": Chip(5),
    "acisf04938_000N002_r0043": Chip(3),
    "acisf06152_000N002_r0070": Chip(5),
}
"""Told from the matrices themselves; the header of 4736 names chip 6 first."""


def header_at(
    x: float, y: float, sim_z_mm: float, roll_deg: float = 0.0, **more: Any
) -> dict[str, Any]:
    """A header of a source at a sky pixel of a pointing."""
    region = {"DSTYP1": "sky(x,y)", "DSVAL1": f"Ellipse({x},{y},8,5,68)"}
    return {"INSTRUME": "ACIS", "SIM_Z": sim_z_mm, "ROLL_NOM": roll_deg} | region | more


@pytest.mark.parametrize("stem", CHIPS_OF_RMFS)
def test_real_detections(stem: str, shared_data: Path) -> None:
    chip = chip_of(read_pha(shared_data / "csc" / f"{stem}_pha3.fits.gz").header)
    assert chip is not None
    assert chip.ccd_id == CHIPS_OF_RMFS[stem].ccd_id


@pytest.mark.parametrize("roll_deg", [0.0, 123.4, 359.0])
@pytest.mark.parametrize(("sim_z_mm", "ccd_id", "row"), [(ACIS_S_MM, 7, 512), (ACIS_I_MM, 3, 960)])
def test_aim_points(sim_z_mm: float, ccd_id: int, row: float, roll_deg: float) -> None:
    chip = chip_of(header_at(SKY_ORIGIN, SKY_ORIGIN, sim_z_mm, roll_deg))
    assert chip is not None
    assert chip.ccd_id == ccd_id
    assert chip.row == pytest.approx(row, abs=8)


def test_a_turn_of_the_telescope_turns_the_sky() -> None:
    on_s2 = chip_of(header_at(SKY_ORIGIN - 700, SKY_ORIGIN, ACIS_S_MM))
    turned = chip_of(header_at(SKY_ORIGIN, SKY_ORIGIN + 700, ACIS_S_MM, roll_deg=90.0))
    assert on_s2 is not None
    assert on_s2.ccd_id == 6
    assert turned is not None
    assert turned.zone == on_s2.zone


def test_the_subspace_chooses_among_neighbors() -> None:
    gap = header_at(SKY_ORIGIN - 260, SKY_ORIGIN, ACIS_S_MM)
    for ccd_id in 6, 7:
        chip = chip_of(gap | {"DSTYP2": "ccd_id", "DSVAL2": f"{ccd_id}:{ccd_id}"})
        assert chip is not None
        assert chip.ccd_id == ccd_id


def test_a_subspace_of_one_chip_is_enough() -> None:
    header = {"INSTRUME": "ACIS", "DSTYP1": "ccd_id", "DSVAL1": "6:6"}
    assert chip_of(header) == Chip(6)
    assert chip_of(header | {"2DSVAL1": "7:7"}) is None
    assert chip_of(header | {"INSTRUME": "HRC"}) is None


def test_a_source_off_the_detector_has_no_chip() -> None:
    assert chip_of(header_at(SKY_ORIGIN, SKY_ORIGIN + 3000, ACIS_S_MM)) is None


@pytest.mark.parametrize(
    ("chip", "zone"),
    [(Chip(7, 900.0), "7"), (Chip(3, 1.0), "3.0"), (Chip(3, 1040.0), "3.3"), (Chip(2), "2")],
)
def test_zones(chip: Chip, zone: str) -> None:
    assert chip.zone == zone


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=40),
    st.sampled_from(["ccd_id", "sky(x,y)", "Ellipse(1,2,3,4,5)", "Circle(1.e9,-3,2)", "7:7", "99"]),
)
KEYS = st.sampled_from(
    ["INSTRUME", "SIM_Z", "ROLL_NOM", "DSTYP1", "DSVAL1", "2DSVAL1", "DSTYP2", "DSVAL2"]
)


@given(st.dictionaries(KEYS, VALUES))
def test_no_header_is_too_odd(header: dict[str, Any]) -> None:
    chip = chip_of(header | {"INSTRUME": "ACIS"})
    assert chip is None or chip.ccd_id in range(10)
