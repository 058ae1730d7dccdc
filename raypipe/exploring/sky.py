"""Project positions onto a map of the whole sky."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from astropy.coordinates import SkyCoord
from matplotlib.projections.geo import AitoffAxes

Floats = npt.NDArray[np.float64]

FRAMES = ("equatorial", "galactic")
"""Coordinates of the map: ICRS, with 12h in the middle, and galactic, with the center there."""

_MIDDLE_DEG = {"equatorial": 180.0, "galactic": 0.0}
_POINTS = 61


def sky_positions(ra: Floats, dec: Floats, frame: str) -> Floats:
    """Return places (n, 2) on an Aitoff map, longitude growing to the left; NaN stays NaN.

    The map is an ellipse of half axes pi and pi / 2. `ra` and `dec` (n,) are ICRS, deg.
    """
    known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    longitude, latitude = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    longitude[known], latitude[known] = ra[known], dec[known]
    if frame == "galactic":
        place = SkyCoord(ra[known], dec[known], unit="deg").galactic
        longitude[known], latitude[known] = place.l.deg, place.b.deg
    return aitoff(longitude, latitude, frame)


def aitoff(longitude: Floats, latitude: Floats, frame: str) -> Floats:
    """Project coordinates of a frame, deg, to places (n, 2) on its map."""
    from_middle = (longitude - _MIDDLE_DEG[frame] + 180.0) % 360.0 - 180.0
    angles = np.deg2rad(np.stack([from_middle, latitude], axis=1))
    places = np.asarray(AitoffAxes.AitoffTransform(1).transform_non_affine(angles), np.float64)
    # Matplotlib halves the longitudes, and lets its axes stretch the map again.
    return places * np.array([-2.0, 1.0])


def graticule() -> list[Floats]:
    """Return the lines of the map, each (points, 2): every 30 degrees, and the outline.

    They are the same for both frames, since longitudes are counted from the middle.
    """
    along = np.linspace(-90.0, 90.0, _POINTS)
    edges = [*np.arange(-150.0, 180.0, 30.0), -179.999, 179.999]
    lines = [aitoff(np.full(_POINTS, each), along, "galactic") for each in edges]
    across = np.linspace(-179.999, 179.999, 2 * _POINTS)
    lines += [
        aitoff(across, np.full(len(across), each), "galactic")
        for each in np.arange(-60.0, 90.0, 30.0)
    ]
    return lines


def axis_labels(frame: str) -> list[tuple[float, float, str]]:
    """Return the labels of the map's lines as (x, y, text), in degrees of the frame."""
    middle = _MIDDLE_DEG[frame]
    shown = [-120.0, -60.0, 0.0, 60.0, 120.0]
    texts = [f"{(middle + each) % 360:.0f}°" for each in shown]
    along = aitoff(np.array(shown) + middle, np.zeros(len(shown)), frame)
    heights = [-60.0, -30.0, 30.0, 60.0]
    up = aitoff(np.full(len(heights), middle), np.array(heights), frame)
    labels = [(float(x), float(y), text) for (x, y), text in zip(along, texts, strict=True)]
    signs = [f"{each:+.0f}°".replace("-", "\u2212") for each in heights]
    return labels + [(float(x), float(y), text) for (x, y), text in zip(up, signs, strict=True)]
