"""Read labels from a user's table, and join them to the rows of a catalog."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.catalog.brought_table import JOIN_KEYS, key_texts, read_catalog_file
from raypipe.catalog.matching import matched_rows
from raypipe.errors import UsageError
from raypipe.store.addresses import local_file, shown
from raypipe.store.parquet import require_plain

TextArray = npt.NDArray[np.object_]

QUANTITY_COLUMNS = ("log_nh", "photon_index", "kt_kev", "powlaw_nh", "powlaw_gamma")
"""Quantities to compare with; see `raypipe.evaluation.regression.regression_targets`."""

_KEYS = (*JOIN_KEYS, ("ra", "dec"))

RADIUS_ARCSEC = 1.0
"""Largest distance of labels that are joined by position."""

TRUE_COUNTS = "model_counts"
"""The simulator's expected counts in the source region: a vector of channels per detection."""


def read_labels(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of labels from a path, s3:// or https://: Parquet, CSV, FITS or VOTable.

    Keeps identity, class (as `class`), quantities and, from Parquet, the simulator's expected
    counts. Raises UsageError if the file cannot be read or identifies no detection.
    """
    name = shown(path)
    with local_file(path) as file:
        table = read_catalog_file(file, name)
        frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        if _has_true_counts(file):
            frame[TRUE_COUNTS] = _read_true_counts(file)
    for quantity in QUANTITY_COLUMNS:
        if quantity in frame:
            frame[quantity] = _as_numbers(frame[quantity], name)
    carried = [name for name in ("class", *QUANTITY_COLUMNS, TRUE_COUNTS) if name in frame]
    keys = list(dict.fromkeys(name for key in _KEYS for name in key if name in frame))
    if not carried:
        wanted = ", ".join(("class", *QUANTITY_COLUMNS))
        raise UsageError(f"{name}: no labels there; expected a column of {wanted}")
    if not any(set(key) <= set(keys) for key in _KEYS):
        raise UsageError(
            f"{name}: labels need detection_id, or obsid, obi and region_id, or name, or ra and dec"
        )
    return frame[[*keys, *carried]]


def join_labels(catalog: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Join labels to the rows of a catalog; return the table and the columns of the join.

    Rows are joined on detection_id, on obsid, obi and region_id, or on name; if none of these
    matches a row, on the nearest position within an arcsecond. Columns of the labels replace those
    of the catalog; rows without labels get missing values. A join on name or position takes only
    the class, because quantities and counts belong to detections. Raises UsageError if no row
    matches, or if rows of one key disagree.
    """
    for key in JOIN_KEYS:
        columns = list(key)
        if not set(columns) <= set(catalog) & set(labels):
            continue
        carried = [name for name in labels if name in _carried_by(key)]
        left, right = key_texts(catalog[columns]), key_texts(labels[columns])
        known = right.isin(left) & (right != "")
        if carried and known.any():
            found = _one_row_a_key(labels.loc[known, carried].set_axis(right[known]), columns)
            return _carry(catalog, found, found.index.get_indexer(left)), ", ".join(columns)
    if "class" in labels:
        rows, how = matched_rows(catalog, labels, RADIUS_ARCSEC, "labels")
        return _carry(catalog, labels[["class"]], rows), how
    tried = ", nor by ".join(" and ".join(key) for key in JOIN_KEYS)
    raise UsageError(f"labels: no row matches a detection of the catalog, neither by {tried}")


def _carry(
    catalog: pd.DataFrame, labels: pd.DataFrame, rows: npt.NDArray[np.integer[Any]]
) -> pd.DataFrame:
    """Replace columns of a catalog by those of labels, whose `rows` are -1 without a match."""
    joined = catalog.drop(columns=[name for name in labels if name in catalog])
    for name in labels:
        joined[name] = _take(labels[name].to_numpy(), rows)
    return joined


def clean_classes(column: pd.Series[Any]) -> TextArray:
    """Return classes as text (n,), None if missing, blank, or a word such as "nan" or "none"."""
    text = column.astype("string").str.strip()
    missing = text.isna() | text.str.lower().isin(["", "nan", "none", "null"])
    return np.array(
        [None if gone else value for value, gone in zip(text, missing, strict=True)], dtype=object
    )


def true_counts(frame: pd.DataFrame) -> list[npt.NDArray[np.float64] | None] | None:
    """Return the simulator's expected counts in the source region, row by row.

    They include the background, and are on the native channels of each row's response. Rows
    without a truth are None; None instead of a list if there is no such column.
    """
    if TRUE_COUNTS not in frame or frame[TRUE_COUNTS].isna().all():
        return None
    return [
        None if missing else np.asarray(row, dtype=np.float64)
        for row, missing in zip(frame[TRUE_COUNTS], frame[TRUE_COUNTS].isna(), strict=True)
    ]


def _as_numbers(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    try:
        return pd.to_numeric(column).astype("Float64").astype(np.float64)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{name}: column {column.name} has values that are not numbers ({error})"
        ) from (error)


def _has_true_counts(file: Path) -> bool:
    is_parquet = bool({suffix.lower() for suffix in file.suffixes} & {".parquet", ".pq"})
    return is_parquet and TRUE_COUNTS in pq.read_schema(file).names


def _read_true_counts(file: Path) -> pd.Series[Any]:
    require_plain(pq.read_schema(file), str(file))
    table = pq.read_table(file, columns=[TRUE_COUNTS], page_checksum_verification=True)
    column: pd.Series[Any] = table.to_pandas()[TRUE_COUNTS]
    return column


def _carried_by(key: tuple[str, ...]) -> tuple[str, ...]:
    return ("class",) if key == ("name",) else ("class", *QUANTITY_COLUMNS, TRUE_COUNTS)


def _one_row_a_key(labels: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    repeated = labels[labels.index.duplicated(keep=False)]
    scalars = [name for name in labels if name != TRUE_COUNTS]
    disagree = (repeated[scalars].groupby(level=0).nunique(dropna=False) > 1).any(axis=1)
    if disagree.any():
        raise UsageError(
            f"labels: rows of the same {', '.join(columns)} disagree, "
            f"for instance of {disagree.index[disagree][0]}"
        )
    return labels[~labels.index.duplicated()]


def _take(values: npt.NDArray[Any], positions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    taken = values[positions] if values.dtype == object else values[positions].astype(np.float64)
    taken[positions < 0] = None if values.dtype == object else np.nan
    return taken
