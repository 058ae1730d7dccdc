"""Compute which ACIS chip a CSC detection fell on from its position on the detector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.ogip.regions import (
    SKY_ORIGIN,
    SKY_PIXEL_ARCSEC,
    number,
    region_center,
    subspace,
)

FOCAL_LENGTH_MM = 10061.65
"""Focal length (McDowell, Chandra Coordinates I, 2001)."""

SKY_PIXEL_RAD = np.radians(SKY_PIXEL_ARCSEC / 3600)

STAGE_OFFSET_MM = 237.0
"""Z in the instrument's frame of a source on axis is -SIM_Z less this: it puts the aim points of
1999 on S3 (chipx 252, chipy 510) and I3 (963, 963)."""

PIXEL_MM = 0.024
_CHIP_MM = 1024 * PIXEL_MM


@dataclass(frozen=True)
class _Place:
    """Hold a chip's lowest Y and Z, mm, and the axis and end from which its rows are counted."""

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
"""Largest distance of a source from its chip, by dither, an edge or a drifted aim point."""


@dataclass(frozen=True)
class Chip:
    """Hold a chip, and the row (1-1024, counted from the readout) if it is known."""

    ccd_id: int
    row: float | None = None

    @property
    def zone(self) -> str:
        """Name the zone: "7" is a whole chip, "3.2" a quarter of a chip's rows."""
        if self.row is None or self.ccd_id in BACK_ILLUMINATED:
            return str(self.ccd_id)
        return f"{self.ccd_id}.{int(np.clip(self.row, 1, 1024) - 1) // ZONE_ROWS}"


def chip_of(header: Mapping[str, Any]) -> Chip | None:
    """Return the chip that a detection fell on, from its PHA's header; None if it is unclear.

    It is the one nearest to the source on the detector among the chips that the header's data
    subspace names (in CSC 2.1 every chip of the pointing, in earlier releases those that the region
    touches). If the subspace names only one chip, the position is not needed.
    """
    if str(header.get("INSTRUME", "")).strip().upper() != "ACIS":
        return None
    named = _chips_named(header)
    place = _place_mm(header)
    if place is None:
        return Chip(named[0]) if len(named) == 1 else None
    distances = {ccd: _distance_mm(_PLACES[ccd], *place) for ccd in named or _PLACES}
    nearest = min(distances, key=lambda ccd: distances[ccd])
    if distances[nearest] > _ASTRAY_MM:
        return None
    return Chip(nearest, _row(_PLACES[nearest], *place))


def _chips_named(header: Mapping[str, Any]) -> list[int]:
    """Return the CCD_IDs of the header's data subspace, in order."""
    texts = " ".join(subspace(header, "ccd_id"))
    return sorted({int(ccd) for ccd in re.findall(r"\d+", texts)} & _PLACES.keys())


def _place_mm(header: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return Y and Z of the source in the instrument's frame, mm."""
    sky = region_center(header)
    roll_deg, sim_z_mm = number(header, "ROLL_NOM"), number(header, "SIM_Z")
    if sky is None or roll_deg is None or sim_z_mm is None:
        return None
    west, north = (FOCAL_LENGTH_MM * SKY_PIXEL_RAD * (value - SKY_ORIGIN) for value in sky)
    cos, sin = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    return west * cos - north * sin, -(west * sin + north * cos) - sim_z_mm - STAGE_OFFSET_MM


def _distance_mm(place: _Place, y_mm: float, z_mm: float) -> float:
    beyond_y, beyond_z = (
        max(low - at, 0.0, at - low - _CHIP_MM)
        for at, low in ((y_mm, place.y_mm), (z_mm, place.z_mm))
    )
    return float(np.hypot(beyond_y, beyond_z))


def _row(place: _Place, y_mm: float, z_mm: float) -> float:
    along = y_mm - place.y_mm if place.rows_along == "y" else z_mm - place.z_mm
    return (_CHIP_MM - along if place.rows_from_top else along) / PIXEL_MM
