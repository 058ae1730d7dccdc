"""Bound the numbers that scale a spectrum where they enter.

The model computes in float32, whose smallest normal number is 1.2e-38 and whose largest is 3.4e38.
The bounds are physical ones, wide enough for every X-ray telescope, and narrow enough that every
product which the model forms of them (exposure x area x width of an energy bin; background scale x
counts) is a normal number of float32.
"""

from __future__ import annotations

from typing import NamedTuple

from raypipe.errors import OgipError


class Bounds(NamedTuple):
    """Hold the smallest and largest allowed value of a quantity, and its unit."""

    low: float
    high: float
    unit: str = ""


EXPOSURE_S = Bounds(1e-6, 1e10, " s")
"""From the time resolution of the fastest detectors to three hundred years."""

PEAK_AREA_CM2 = Bounds(1e-6, 1e7, " cm2")
"""Largest area of an ARF, AREASCAL included: the smallest pinhole and a hundred times the largest
collecting area ever proposed (10 m2)."""

AREASCAL = Bounds(1e-6, 1e6)
"""Share of the area that a spectrum is of; usually 1."""

BACKGROUND_SCALE = Bounds(1e-9, 1e9)
"""Exposure times area of the source region over that of the background region: a pixel against a
whole sky survey, and the reverse."""


def require_within(value: float, bounds: Bounds, path: str, name: str, mend: str) -> None:
    """Raise OgipError, with file and remedy, unless `value` is a number within `bounds`."""
    if not bounds.low <= value <= bounds.high:
        raise OgipError(
            path,
            f"{name} is {value}{bounds.unit}, expected {bounds.low:g} to "
            f"{bounds.high:g}{bounds.unit}: {mend}",
        )
