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

IDENTITY = ["detection_id", "obsid", "obi", "region_id"]
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
    """Add a catalog's columns to a manifest, by detection_id, else (obsid, obi, region_id), else
    name; rows without a match keep nulls.

    Of several catalog rows for one detection the first counts. Raises UsageError where the
    catalog has none of those columns.
    """
    keys = next((keys for keys in _join_keys(manifest) if set(keys) <= set(catalog)), None)
    if keys is None:
        raise UsageError(
            "the catalog has neither detection_id, nor obsid, obi and region_id, nor name"
        )
    unique = catalog.dropna(subset=keys).drop_duplicates(keys)
    if len(unique) < len(catalog):
        log.info("catalog: %d rows, %d distinct %s", len(catalog), len(unique), ", ".join(keys))
    held = [column for column in unique if column in manifest and column not in keys]
    empty = [column for column in held if manifest[column].isna().all()]
    joined = manifest.drop(columns=empty).merge(
        unique.drop(columns=[column for column in held if column not in empty]),
        on=keys,
        how="left",
        validate="many_to_one",
    )
    log.info("catalog: %d of %d detections found", joined_rows(manifest, unique, keys), len(joined))
    return joined


def joined_rows(manifest: pd.DataFrame, catalog: pd.DataFrame, keys: list[str]) -> int:
    """How many rows of a manifest have a row of the same keys in a catalog."""
    return int(
        pd.MultiIndex.from_frame(manifest[keys]).isin(pd.MultiIndex.from_frame(catalog[keys])).sum()
    )


def _join_keys(manifest: pd.DataFrame) -> list[list[str]]:
    keys = [["detection_id"], ["obsid", "obi", "region_id"]]
    return [*keys, ["name"]] if manifest["name"].notna().any() else keys


def _read_table(file: Path) -> pd.DataFrame:
    suffixes = {suffix.lower() for suffix in file.suffixes}
    if suffixes & {".parquet", ".pq"}:
        schema = pq.read_schema(file)
        scalar = [field.name for field in schema if field.type.num_fields == 0]
        return pd.read_parquet(file, columns=scalar)
    if ".csv" in suffixes:
        return pd.read_csv(file)
    table = Table.read(file)
    return table[[name for name in table.colnames if table[name].ndim == 1]].to_pandas()
