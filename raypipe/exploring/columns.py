"""Choose the columns of an explorer, and join those of a table that the user brings."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe.catalog.brought_table import JOIN_KEYS, read_catalog
from raypipe.catalog.column_names import free_name
from raypipe.catalog.matching import matched_rows
from raypipe.catalog.schema import describe
from raypipe.store.addresses import shown

log = logging.getLogger(__name__)

MOST_CATEGORIES = 40
"""Most different texts of a column by which points can be colored and filtered."""

MOST_COLUMNS = 80
"""Most columns of a page; those of a user's table and raypipe's own come first."""

IDENTITY = {"detection_id", "name", "ra", "dec", "model_id", "rmf_id", "source_uri", "z_cov"}
_KEYS = {"ra", "dec", *(name for key in JOIN_KEYS for name in key)}
_FIRST = (
    "total_counts",
    "far_sigmas",
    "fit_sigmas",
    "likely_class",
    "best_class",
    "class",
    "cluster",
    "split",
    "hard_ms",
    "hard_hm",
    "hard_hs",
)


@dataclass(frozen=True, kw_only=True)
class ColumnHead:
    """Describe a column by which points are colored, filtered and listed.

    If there are `categories`, the values of the column are indices of these.
    """

    name: str
    unit: str = ""
    ucd: str = ""
    about: str = ""
    categories: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class ExplorerColumn(ColumnHead):
    """Hold a column with its `values` (n,), NaN if missing."""

    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChosenColumns:
    """Hold the columns of a page, and the names of the columns that it leaves out."""

    columns: list[ExplorerColumn]
    left_out: list[str]


def choose_columns(
    frame: pd.DataFrame, brought: set[str], most: int = MOST_COLUMNS
) -> ChosenColumns:
    """Choose at most `most` columns: numbers, and texts with few different values.

    Columns without any value are left out silently; all others that are left out are named.
    """
    chosen: list[ExplorerColumn] = []
    left_out: list[str] = []
    for name in sorted(map(str, frame.columns), key=lambda each: column_order(each, brought)):
        column = frame[name]
        if name in IDENTITY or column.isna().all():
            continue
        made = _column(name, column) if len(chosen) < most else None
        if made is None:
            left_out.append(name)
        else:
            chosen.append(made)
    return ChosenColumns(chosen, left_out)


def join_table(
    frame: pd.DataFrame, path: str | os.PathLike[str], radius_arcsec: float
) -> tuple[pd.DataFrame, set[str], str]:
    """Join all columns of a user's table to a catalog's rows.

    Rows are matched by detection_id, by obsid, obi and region_id, by name, or else by position (the
    nearest row within the radius). Returns the joined rows, the names of the added columns, and a
    sentence that says how many rows matched. A column is renamed if the catalog has one of this
    name. Raises UsageError if the table cannot be read or matches no row, and if rows with the same
    key disagree.
    """
    file = shown(path)
    table = read_catalog(path)
    other = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    places, how = matched_rows(frame, other, radius_arcsec, file)
    taken = {str(name).lower() for name in frame}
    joined, added = frame.copy(), set()
    for name in (str(each) for each in other.columns if str(each) not in _KEYS):
        new = free_name(name, taken)
        taken.add(new.lower())
        values = other[name].take(np.maximum(places, 0)).reset_index(drop=True)
        joined[new] = values.where(pd.Series(places >= 0)).to_numpy(dtype=object, na_value=None)
        added.add(new)
    matched = int((places >= 0).sum())
    sentence = f"{matched:,} of {len(frame):,} detections have a row of {file}, joined by {how}."
    log.info("explore: %s", sentence)
    return joined, added, sentence


def rows_in_table(
    frame: pd.DataFrame, path: str | os.PathLike[str], radius_arcsec: float
) -> npt.NDArray[np.int64]:
    """Return the rows of a catalog that match a user's table, as `join_table` matches them.

    Several rows of the table may match the same row. Otherwise UsageError is raised as by
    `join_table`.
    """
    other = read_catalog(path).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    places, _ = matched_rows(frame, other, radius_arcsec, shown(path), repeated=True)
    return np.flatnonzero(places >= 0).astype(np.int64)


def column_order(name: str, brought: set[str]) -> tuple[int, int, str]:
    """Return a key to sort columns by: those of the user's table, raypipe's own, then others.

    Among raypipe's own columns, groups and probabilities come first, limits and errors last.
    """
    if name in brought:
        return 0, 0, ""
    if name in _FIRST:
        return 1, _FIRST.index(name), ""
    if latent := re.fullmatch(r"z(\d+)", name):
        return 2, int(latent[1]), ""
    meaning = describe(name)
    if meaning is None:
        return 5, 0, name
    if re.match(r"stat\.probability|src\.class|meta\.code\.class", meaning.ucd):
        return 3, 0, name
    return (6 if re.search(r"_(lolim|hilim|err|std|sd|mean)$", name) else 4), 0, name


def is_group(name: str) -> bool:
    """Return whether a column numbers groups, such as clusters: its numbers have no order."""
    meaning = describe(name)
    return meaning is not None and meaning.ucd.startswith("meta.code.class")


def head_of(name: str) -> ColumnHead:
    """Return the head of a column of numbers."""
    meaning = describe(name)
    if meaning is None:
        return ColumnHead(name=name)
    return ColumnHead(name=name, unit=meaning.unit, ucd=meaning.ucd, about=meaning.description)


def _column(name: str, column: pd.Series[Any]) -> ExplorerColumn | None:
    head = head_of(name)
    numbers = _as_numbers(column)
    if numbers is not None and is_group(name) and column.nunique() <= MOST_CATEGORIES:
        return _numbered(head, numbers)
    if numbers is not None:
        return ExplorerColumn(**vars(head), values=numbers)
    texts = column.astype("string")
    categories = sorted(texts.dropna().unique().tolist())
    if len(categories) > MOST_CATEGORIES:
        return None
    places = pd.Index(categories).get_indexer(pd.Index(texts.fillna("\0").astype(object)))
    values = np.where(texts.isna(), np.nan, places.astype(np.float64))
    words = [str(each) for each in categories]
    return ExplorerColumn(
        name=name, ucd=head.ucd, about=head.about, categories=words, values=values
    )


def _numbered(head: ColumnHead, numbers: npt.NDArray[np.float64]) -> ExplorerColumn:
    """Make categories of the numbers of groups, in the order of the numbers."""
    known = np.unique(numbers[np.isfinite(numbers)])
    places = np.where(np.isfinite(numbers), np.searchsorted(known, numbers), np.nan)
    words = [f"{number:g}" for number in known]
    return ExplorerColumn(**vars(head) | {"categories": words}, values=places)


def _as_numbers(column: pd.Series[Any]) -> npt.NDArray[np.float64] | None:
    if pd.api.types.is_bool_dtype(column):
        return None
    if isinstance(column.dropna().iloc[0], str | bool | np.bool_):
        return None
    try:
        return pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return None
