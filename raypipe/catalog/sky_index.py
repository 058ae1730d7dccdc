"""Find the nearest of many positions on the sky, and how many others are as good."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]

_ARCSEC = np.pi / (180.0 * 3600.0)


@dataclass(frozen=True)
class Nearest:
    """Hold the match of each position: `places` (n,) of the nearest indexed one, -1 if none.

    `separation_arcsec` (n,) is NaN without a match; `is_ambiguous` (n,) tells that several of the
    indexed positions are within the radius.
    """

    places: npt.NDArray[np.int64]
    separation_arcsec: Floats
    is_ambiguous: npt.NDArray[np.bool_]


class SkyIndex:
    """Index positions `ra` and `dec` (n,), deg, so that the nearest to others are found.

    Positions that are not finite are never found.
    """

    def __init__(self, ra: Floats, dec: Floats) -> None:
        self._rows = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        self._tree = cKDTree(_unit_vectors(ra[self._rows], dec[self._rows]))

    def nearest(self, ra: Floats, dec: Floats, radius_arcsec: float) -> Nearest:
        """Match positions (n,), deg, to the nearest indexed ones within a radius."""
        places = np.full(len(ra), -1, np.int64)
        separation = np.full(len(ra), np.nan)
        ambiguous = np.zeros(len(ra), np.bool_)
        known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        if len(known) and len(self._rows):
            # A chord of length c of the unit sphere spans the angle 2 arcsin(c / 2).
            chord = 2.0 * np.sin(min(radius_arcsec * _ARCSEC, np.pi) / 2.0)
            bound = np.nextafter(chord, np.inf)
            vectors = _unit_vectors(ra[known], dec[known])
            distance, found = self._tree.query(vectors, k=[1, 2], distance_upper_bound=bound)
            near = np.isfinite(distance[:, 0])
            places[known[near]] = self._rows[found[near, 0]]
            separation[known[near]] = 2.0 * np.arcsin(distance[near, 0] / 2.0) / _ARCSEC
            ambiguous[known] = np.isfinite(distance[:, 1])
        return Nearest(places, separation, ambiguous)


def _unit_vectors(ra: Floats, dec: Floats) -> Floats:
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
