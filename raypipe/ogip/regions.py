"""Read from a header where on the sky a spectrum was extracted.

CIAO writes the filters that selected the events into the data subspace of the header: DSTYPn names
an axis, and DSVALn, 2DSVALn, 3DSVALn ... are the values of its components. The region on the sky
is in pixels of the tangent plane whose origin is at RA_NOM, DEC_NOM, x to the west, y to the north.
XMM-Newton's SAS writes the expression that selected the events, SLCTEXPR, and the tangent plane of
its X and Y into the keywords REFXCRPX, REFXCRVL, REFXCDLT, and those of REFY.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

SKY_PIXEL_ARCSEC = 0.492
SKY_ORIGIN = 4096.5
"""Size of the sky pixels of ACIS, and the pixel of the tangent point on both axes (McDowell,
Chandra Coordinates I, 2001)."""

_FIELD_DEG = 2.0
"""Largest offset from the tangent point on either axis: no field of these telescopes is wider."""

_NUMBER = r"([-+]?\d+(?:\.\d*)?)"
_CENTER = re.compile(
    rf"(?<![!\-a-z])(?:ellipse|circle|annulus|pie|box|rotbox)\({_NUMBER},{_NUMBER}[,)]", re.I
)
_SAS_REGION = re.compile(r"\(x,y\)in(.*)", re.I | re.S)


def subspace(header: Mapping[str, Any], axis: str) -> list[str]:
    """Return the values of an axis of the data subspace, component by component."""
    found: list[str] = []
    for number in itertools.count(1):
        if (kind := header.get(f"DSTYP{number}")) is None:
            break
        if str(kind).strip().lower().startswith(axis):
            names = (f"{'' if n == 1 else n}DSVAL{number}" for n in itertools.count(1))
            values = map(header.get, names)
            found += map(str, itertools.takewhile(lambda value: value is not None, values))
    return found


def region_center(header: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the center of the region's first shape, in sky pixels; None if there is none."""
    for text in subspace(header, "sky"):
        if match := _CENTER.search(text):
            return float(match[1]), float(match[2])
    return None


def region_position(header: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the position of the region's center, right ascension and declination in deg.

    It is known for spectra of ACIS made with CIAO and for those made with SAS; None for others.
    """
    from astropy.wcs import WCS

    sky = _acis_plane(header) or _sas_plane(header)
    if sky is None:
        return None
    plane = WCS(naxis=2)
    plane.wcs.ctype = "RA---TAN", "DEC--TAN"
    plane.wcs.crval, plane.wcs.crpix, plane.wcs.cdelt = sky.origin_deg, sky.origin, sky.pixel_deg
    ra, dec = plane.wcs_pix2world([sky.center], 1)[0]
    return (float(ra) % 360, float(dec)) if np.isfinite([ra, dec]).all() else None


class _Sky(NamedTuple):
    """Hold a tangent plane, and the center of a region in its pixels."""

    center: tuple[float, float]
    origin: tuple[float, float]
    origin_deg: tuple[float, float]
    pixel_deg: tuple[float, float]


def _acis_plane(header: Mapping[str, Any]) -> _Sky | None:
    center, tangent = region_center(header), _pair(header, "RA_NOM", "DEC_NOM")
    is_acis = str(header.get("INSTRUME", "")).strip().upper() == "ACIS"
    if not is_acis or center is None or tangent is None:
        return None
    size = SKY_PIXEL_ARCSEC / 3600
    return _checked(_Sky(center, (SKY_ORIGIN, SKY_ORIGIN), tangent, (-size, size)))


def _sas_plane(header: Mapping[str, Any]) -> _Sky | None:
    text = "".join(str(header.get("SLCTEXPR", "")).split())
    region = _SAS_REGION.search(text)
    match = _CENTER.search(region[1]) if region else None
    pairs = [_pair(header, f"REFX{key}", f"REFY{key}") for key in ("CRPX", "CRVL", "CDLT")]
    origin, origin_deg, pixel_deg = pairs
    if match is None or origin is None or origin_deg is None or pixel_deg is None:
        return None
    center = float(match[1]), float(match[2])
    return _checked(_Sky(center, origin, origin_deg, pixel_deg))


def _checked(sky: _Sky) -> _Sky | None:
    """Return a plane whose numbers are possible and whose center is near its origin."""
    offsets = [
        (at - origin) * size
        for at, origin, size in zip(sky.center, sky.origin, sky.pixel_deg, strict=True)
    ]
    is_near = all(size != 0 for size in sky.pixel_deg) and max(map(abs, offsets)) < _FIELD_DEG
    return sky if is_near and abs(sky.origin_deg[1]) <= 90 else None


def _pair(header: Mapping[str, Any], *keys: str) -> tuple[float, float] | None:
    first, second = (number(header, key) for key in keys)
    return None if first is None or second is None else (first, second)


def number(header: Mapping[str, Any], key: str) -> float | None:
    """Return the value of a keyword if it is a finite number."""
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        finite = float(value)
    except OverflowError:
        return None
    return finite if np.isfinite(finite) else None
