"""Match rows of a table that a user brings with detections: by id, by name, or by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.catalog.brought_table import JOIN_KEYS, key_texts
from raypipe.catalog.sky_index import SkyIndex
from raypipe.errors import UsageError

Floats = npt.NDArray[np.float64]

POSITION = "position"
"""Name of the match by right ascension and declination among the keys."""


def matched_rows(
    frame: pd.DataFrame,
    other: pd.DataFrame,
    radius_arcsec: float,
    file: str,
    key: str | None = None,
    repeated: bool = False,
) -> tuple[npt.NDArray[np.int64], str]:
    """Return for each row of `frame` the row of `other` that matches, -1 without, and how.

    Rows are matched by detection_id, by obsid, obi and region_id, by name, else by position: the
    nearest within the radius. `key` restricts that to detection_id, name or position. Raises
    UsageError, which names `file`, if no row matches. If several rows of `other` have the same key,
    it raises UsageError, too, or, if `repeated`, returns the first of them.
    """
    by_name = [names for names in JOIN_KEYS if key in (None, names[0])]
    for names in map(list, by_name):
        if not set(names) <= set(frame) & set(other):
            continue
        left, right = key_texts(frame[names]), key_texts(other[names])
        if not (right.isin(left) & (right != "")).any():
            continue
        twice = right[right.duplicated() & right.isin(left) & (right != "")]
        if len(twice) and not repeated:
            raise UsageError(
                f"{file}: several rows have the same {', '.join(names)}, for instance "
                f"{twice[0]}; keep one of them"
            )
        unique = ~right.duplicated()
        rows = np.flatnonzero(unique)
        found = right[unique].get_indexer(left)
        known = (found >= 0) & (left != "")
        return np.where(known, rows[np.maximum(found, 0)], -1).astype(np.int64), ", ".join(names)
    if key in (None, POSITION) and {"ra", "dec"} <= set(frame) & set(other):
        index = SkyIndex(*_positions(other))
        places = index.nearest(*_positions(frame), radius_arcsec).places
        if (places >= 0).any():
            return places, f"position, the nearest within {radius_arcsec:g} arcsec"
    raise UsageError(
        f"{file}: no row matches a detection of the catalog, {_tried(by_name, key, radius_arcsec)}"
    )


def _tried(by_name: Sequence[Sequence[str]], key: str | None, radius_arcsec: float) -> str:
    place = f"by position within {radius_arcsec:g} arcsec"
    if key is not None:
        return place if key == POSITION else f"by {key}"
    words = [f"by {' and '.join([', '.join(n[:-1]), n[-1]] if n[1:] else n)}" for n in by_name]
    return "neither " + ", nor ".join([*words, place])


def _positions(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    ra, dec = (
        pd.to_numeric(frame[name]).to_numpy(dtype=np.float64, na_value=np.nan)
        for name in ("ra", "dec")
    )
    return ra, dec
