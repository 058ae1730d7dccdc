"""Catalog columns and class labels, joined to detections."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from astropy.coordinates import Angle
from astropy.table import Table

from raypipe.errors import UsageError

log = logging.getLogger(__name__)

JOIN_KEYS = (("detection_id",), ("obsid", "obi", "region_id"), ("name",))
"""What a row of another table is recognized by; the first that matches any row is used."""

CLASS_COLUMNS = ["class", "muwclass_true_class", "true_class"]
"""Names under which a class label is known; in raypipe's own tables it is `class`."""


def read_catalog(path: str | Path) -> pd.DataFrame:
    """A catalog with one value a column and row: Parquet, CSV, FITS or VOTable.

    Class labels come back as `class`, sexagesimal `ra` and `dec` as degrees; columns of arrays are
    left out. Raises UsageError for a file that cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{file}: no such catalog")
    try:
        table = _read_table(file)
    except Exception as error:
        raise UsageError(
            f"{file}: not a readable Parquet, CSV, FITS or VOTable catalog ({error})"
        ) from error
    for name in CLASS_COLUMNS:
        if name in table and "class" not in table:
            table = table.rename(columns={name: "class"})
    return positions_in_degrees(table)


def positions_in_degrees(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose sexagesimal `ra` (hours) and `dec` are degrees; numbers are left alone."""
    texts = {
        name: Angle(table[name].astype(str).to_list(), unit=unit).deg
        for name, unit in (("ra", "hourangle"), ("dec", "deg"))
        if name in table and not pd.api.types.is_numeric_dtype(table[name])
    }
    return table.assign(**texts)


def join_catalog(manifest: pd.DataFrame, catalog: pd.DataFrame) -> pd.DataFrame:
    """Add a catalog's columns to a manifest, by the first of `JOIN_KEYS` that matches any row.

    Rows without a match keep nulls; of several catalog rows for one detection the first counts.
    Columns the manifest has values in stay its own. Raises UsageError where the catalog has none
    of the keys' columns.
    """
    if not any(set(key) <= set(catalog) for key in JOIN_KEYS):
        raise UsageError("the catalog has neither " + ", nor ".join(map(" and ".join, JOIN_KEYS)))
    for key in JOIN_KEYS:
        columns = list(key)
        if not set(columns) <= set(catalog):
            continue
        left, right = key_texts(manifest[columns]), key_texts(catalog[columns])
        first = ~right.duplicated()
        positions = right[first].get_indexer(left)
        positions[left == ""] = -1
        if (found := int((positions >= 0).sum())) == 0:
            continue
        log.info("catalog: %d of %d detections found by %s", found, len(left), " and ".join(key))
        held = {name for name in manifest if manifest[name].notna().any()}
        new = catalog[first].reset_index(drop=True).reindex(positions).set_axis(manifest.index)
        new = new[[name for name in catalog if name not in held]]
        joined = pd.concat(
            [manifest.drop(columns=manifest.columns.intersection(new.columns)), new], axis=1
        )
        return joined[[*manifest.columns, *joined.columns.difference(manifest.columns, sort=False)]]
    log.warning("catalog: none of its rows is a detection of the manifest")
    return manifest


def key_texts(columns: pd.DataFrame) -> pd.Index[str]:
    """One text a row to join on, blank where any part of the key is missing."""
    parts = [
        column.astype("Int64").astype("string")
        if pd.api.types.is_numeric_dtype(column)
        else column.astype("string").str.strip()
        for _, column in columns.items()
    ]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + "." + part
    return pd.Index(joined.fillna("").astype(object))


def _read_table(file: Path) -> pd.DataFrame:
    suffixes = {suffix.lower() for suffix in file.suffixes}
    if suffixes & {".parquet", ".pq"}:
        schema = pq.read_schema(file)
        scalar = [field.name for field in schema if field.type.num_fields == 0]
        return pd.read_parquet(file, columns=scalar)
    if ".csv" in suffixes:
        return pd.read_csv(file)
    table = Table.read(file)
    table.convert_bytestring_to_unicode()
    return table[[name for name in table.colnames if table[name].ndim == 1]].to_pandas()
