"""Which ACIS chip a CSC detection fell on, by where it lies on the detector."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FOCAL_LENGTH_MM = 10061.65
SKY_PIXEL_RAD = np.radians(0.492 / 3600)
SKY_ORIGIN = 4096.5
"""Focal length, and size and origin of sky pixels (McDowell, Chandra Coordinates I, 2001)."""

STAGE_OFFSET_MM = 237.0
"""Z in the instrument's frame of a source on axis is -SIM_Z less this: it puts the aim points of
1999 on S3 (chipx 252, chipy 510) and I3 (963, 963)."""

PIXEL_MM = 0.024
_CHIP_MM = 1024 * PIXEL_MM


@dataclass(frozen=True)
class _Place:
    """Lowest Y and Z of a chip, mm, and the axis and end from which its rows are counted."""

    y_mm: float
    z_mm: float
    rows_along: str = "z"
    rows_from_top: bool = False


_PLACES = {
    0: _Place(-26.546, -1.458, "y"),
    1: _Place(-1.521, -1.458, "y", rows_from_top=True),
    2: _Place(-26.546, -26.543, "y"),
    3: _Place(-1.521, -26.543, "y", rows_from_top=True),
    4: _Place(-81.170, -59.170),
    5: _Place(-56.133, -59.170),
    6: _Place(-31.100, -59.170),
    7: _Place(-6.035, -59.170),
    8: _Place(18.970, -59.170),
    9: _Place(43.986, -59.170),
}
"""The chips by CCD_ID (0-3 are I0-I3, 4-9 are S0-S5): ASC Coordinates (1996), tables 14-17."""

BACK_ILLUMINATED = (5, 7)
ZONE_ROWS = 256
"""Rows of a front-illuminated chip, counted from the readout, that share a redistribution: charge
lost on the way to the readout widens its peaks. Back-illuminated chips lose little."""

_ASTRAY_MM = 2.0
"""How far off a chip (dither, an edge, a drifted aim point) a source may lie and still be on it."""

_NUMBER = r"([-+]?\d+(?:\.\d*)?)"
_REGION_CENTER = re.compile(rf"(?:ellipse|circle|annulus|pie)\({_NUMBER},{_NUMBER}[,)]", re.I)


@dataclass(frozen=True)
class Chip:
    """A chip, and the row of it (1-1024, from the readout) where that is known."""

    ccd_id: int
    row: float | None = None

    @property
    def zone(self) -> str:
        """What shares one redistribution: "7" is the whole chip, "3.2" a quarter of its rows."""
        if self.row is None or self.ccd_id in BACK_ILLUMINATED:
            return str(self.ccd_id)
        return f"{self.ccd_id}.{int(np.clip(self.row, 1, 1024) - 1) // ZONE_ROWS}"


def chip_of(header: Mapping[str, Any]) -> Chip | None:
    """The chip a detection fell on, by the header of its PHA; None where that cannot be told.

    Of the chips that the header's data subspace names (every chip of the pointing in CSC 2.1, those
    the region touches before), the one nearest to the source's place on the detector. A subspace of
    one chip tells it without a place.
    """
    if str(header.get("INSTRUME", "")).strip().upper() != "ACIS":
        return None
    subspace = _subspace(header)
    named = _chips_named(subspace)
    place = _place_mm(header, subspace)
    if place is None:
        return Chip(named[0]) if len(named) == 1 else None
    distances = {ccd: _distance_mm(_PLACES[ccd], *place) for ccd in named or _PLACES}
    nearest = min(distances, key=lambda ccd: distances[ccd])
    if distances[nearest] > _ASTRAY_MM:
        return None
    return Chip(nearest, _row(_PLACES[nearest], *place))


def _chips_named(subspace: Mapping[str, list[str]]) -> list[int]:
    """CCD_IDs of the header's data subspace, in order."""
    texts = " ".join(subspace["ccd_id"])
    return sorted({int(number) for number in re.findall(r"\d+", texts)} & _PLACES.keys())


def _subspace(header: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the data subspace says of chips and of the sky, component by component.

    (DSTYPn names an axis; DSVALn, 2DSVALn, 3DSVALn ... are what the components say of it.)
    """
    found: dict[str, list[str]] = {"ccd_id": [], "sky": []}
    for number in itertools.count(1):
        if (kind := header.get(f"DSTYP{number}")) is None:
            return found
        for axis, said in found.items():
            if str(kind).strip().lower().startswith(axis):
                names = (f"{'' if n == 1 else n}DSVAL{number}" for n in itertools.count(1))
                values = map(header.get, names)
                said += map(str, itertools.takewhile(lambda value: value is not None, values))
    raise AssertionError("unreachable")


def _place_mm(
    header: Mapping[str, Any], subspace: Mapping[str, list[str]]
) -> tuple[float, float] | None:
    """Y and Z of the source in the instrument's frame, mm."""
    sky = _sky_pixels(subspace)
    roll_deg, sim_z_mm = _number(header, "ROLL_NOM"), _number(header, "SIM_Z")
    if sky is None or roll_deg is None or sim_z_mm is None:
        return None
    west, north = (FOCAL_LENGTH_MM * SKY_PIXEL_RAD * (value - SKY_ORIGIN) for value in sky)
    cos, sin = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    return west * cos - north * sin, -(west * sin + north * cos) - sim_z_mm - STAGE_OFFSET_MM


def _sky_pixels(subspace: Mapping[str, list[str]]) -> tuple[float, float] | None:
    """Center of the source's region, in sky pixels (x to the west, y to the north)."""
    for text in subspace["sky"]:
        if match := _REGION_CENTER.search(text):
            return float(match[1]), float(match[2])
    return None


def _distance_mm(place: _Place, y_mm: float, z_mm: float) -> float:
    beyond_y, beyond_z = (
        max(low - at, 0.0, at - low - _CHIP_MM)
        for at, low in ((y_mm, place.y_mm), (z_mm, place.z_mm))
    )
    return float(np.hypot(beyond_y, beyond_z))


def _row(place: _Place, y_mm: float, z_mm: float) -> float:
    along = y_mm - place.y_mm if place.rows_along == "y" else z_mm - place.z_mm
    return (_CHIP_MM - along if place.rows_from_top else along) / PIXEL_MM


def _number(header: Mapping[str, Any], key: str) -> float | None:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)
