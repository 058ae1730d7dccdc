"""Sum counts in the energy bands of the Chandra Source Catalog, for any telescope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BANDS_KEV: Mapping[str, tuple[float, float]] = {
    "u": (0.2, 0.5),
    "s": (0.5, 1.2),
    "m": (1.2, 2.0),
    "h": (2.0, 7.0),
    "b": (0.5, 7.0),
}
"""The CSC's energy bands (Evans et al. 2010); a channel belongs where its middle lies."""

_DECIMALS = 6
"""Decimals of a middle in keV that count: EBOUNDS in single precision have no more."""


def band_channels(channel_energy_kev: Floats) -> dict[str, tuple[int, int] | None]:
    """Find the first channel of each band and the one after its last; None for no band.

    `channel_energy_kev` (n, 2): nominal edges by EBOUNDS, keV, ascending. A band that the channels
    do not cover from end to end, within half a channel, has no counts that could be compared.
    """
    edges = channel_energy_kev
    middle = np.round(edges.mean(axis=1), _DECIMALS)
    found: dict[str, tuple[int, int] | None] = {}
    for band, (low, high) in BANDS_KEV.items():
        begin, end = (int(place) for place in np.searchsorted(middle, (low, high)))
        covered = end > begin and edges[0, 0] <= low + _half(edges, begin)
        covered = covered and edges[-1, 1] >= high - _half(edges, end - 1)
        found[band] = (begin, end) if covered else None
    return found


def _half(edges: Floats, place: int) -> float:
    return 0.5 * float(edges[place, 1] - edges[place, 0])


def band_counts(
    counts: npt.NDArray[Any] | None, places: Mapping[str, tuple[int, int] | None]
) -> dict[str, int | None]:
    """Sum counts (n,) by band; None where there are no counts or no such band."""
    if counts is None:
        return dict.fromkeys(places)
    return {
        band: None if span is None else int(counts[span[0] : span[1]].sum(dtype=np.int64))
        for band, span in places.items()
    }
