"""Find the row of a real table that each detection of a catalog stands for."""

from __future__ import annotations

import os

import pandas as pd

from raypipe.catalog.brought_table import key_texts, read_catalog
from raypipe.errors import UsageError
from raypipe.store.addresses import shown

DRAWN_FROM = "catalog_detection"
"""The simulator's name of the real detection (obsid.obi.region_id) that a source was drawn from."""

KEY = ["obsid", "obi", "region_id"]


def real_rows(frame: pd.DataFrame, path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the rows of a table that the detections of `frame` stand for, in the same order.

    A simulated detection stands for the one it was drawn from (`DRAWN_FROM`), any other for itself,
    by obsid, obi and region_id. A row without a counterpart is all missing. Raises UsageError if
    the table cannot be read, has no such key, or matches no detection.
    """
    table = read_catalog(path).to_pandas()
    if lacking := [name for name in KEY if name not in table]:
        raise UsageError(f"{shown(path)}: no column {', '.join(lacking)} to find detections by")
    drawn = frame[DRAWN_FROM] if DRAWN_FROM in frame else pd.Series(None, frame.index, object)
    if drawn.notna().any():
        known, wanted = key_texts(table[KEY]), key_texts(drawn.to_frame())
    else:
        known, wanted = key_texts(table[KEY]), key_texts(frame[KEY])
    unique = ~known.duplicated() & (known != "")
    found = known[unique].get_indexer(wanted)
    if (found < 0).all():
        raise UsageError(f"{shown(path)}: no row is one of the catalog's detections")
    rows = table[unique].reset_index(drop=True).reindex(found)
    return rows.set_index(frame.index)
