"""Catalog columns and class labels, joined to detections."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.discovery.columns import OWN_TYPES
from raypipe.errors import UsageError
from raypipe.parquet import require_plain

log = logging.getLogger(__name__)

JOIN_KEYS = (("detection_id",), ("obsid", "obi", "region_id"), ("name",))
"""What a row of another table is recognized by; the first that matches any row is used."""

CLASS_COLUMNS = ["class", "muwclass_true_class", "true_class"]
"""Names under which a class label is known; in raypipe's own tables it is `class`."""

_PANDAS_TYPES = {pa.large_string(): "string", pa.int64(): "Int64", pa.float64(): "float64"}


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
    from astropy.coordinates import Angle

    texts = {
        name: Angle(table[name].astype(str).to_list(), unit=unit).deg
        for name, unit in (("ra", "hourangle"), ("dec", "deg"))
        if name in table and not pd.api.types.is_numeric_dtype(table[name])
    }
    return table.assign(**texts)


class CatalogJoin:
    """A catalog's columns, joined to detections that come in tables.

    The first of `JOIN_KEYS` counts that matches any detection, so all are looked at before columns
    are added to any. Of several catalog rows for one detection the first counts; columns that the
    detections have values in stay theirs. Raises UsageError where the catalog has none of the
    keys' columns.
    """

    def __init__(self, catalog: pd.DataFrame) -> None:
        if not any(set(key) <= set(catalog) for key in JOIN_KEYS):
            raise UsageError(
                "the catalog has neither " + ", nor ".join(map(" and ".join, JOIN_KEYS))
            )
        self._catalog = catalog
        self._keys = [_Key(catalog, key) for key in JOIN_KEYS if set(key) <= set(catalog)]
        self._detections = 0
        self._columns = pa.table({})
        self._place = np.array([], dtype=np.int64)

    def look(self, detections: pa.Table) -> None:
        """Find out which rows of the catalog are wanted."""
        self._detections += detections.num_rows
        for number, key in enumerate(self._keys, start=1):
            key.look(detections)
            if key.found:
                self._keys = self._keys[:number]
                break

    def settle(self, filled: Collection[str]) -> None:
        """All have been looked at, and have values in the columns of `filled`."""
        self._keys = [key for key in self._keys if key.found]
        if not self._keys:
            log.warning("catalog: none of its rows is a detection of the manifest")
            return
        (key,) = self._keys
        log.info(
            "catalog: %d of %d detections found by %s",
            key.found,
            self._detections,
            " and ".join(key.names),
        )
        rows = self._catalog.iloc[key.rows[key.wanted]].reset_index(drop=True)
        if key.found < self._detections:
            rows = rows.reindex(range(len(rows) + 1))
        rows = rows[[name for name in rows if name not in filled]]
        rows = rows.astype({n: _PANDAS_TYPES[k] for n, k in OWN_TYPES.items() if n in rows})
        self._columns = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
        self._place = np.append(np.cumsum(key.wanted) - 1, len(rows) - 1)

    def add_columns(self, detections: pa.Table) -> pa.Table:
        """Detections with the catalog's columns, nulls where it has no row for them."""
        for key in self._keys:
            new = self._columns.take(pa.array(self._place[key.places(detections)]))
            for name in new.column_names:
                at = detections.schema.get_field_index(name)
                if at < 0:
                    detections = detections.append_column(name, new[name])
                else:
                    detections = detections.set_column(at, name, new[name])
        return detections


class _Key:
    """Rows of a catalog by one key; `found` detections want the `wanted` ones of `rows`."""

    def __init__(self, catalog: pd.DataFrame, names: Sequence[str]) -> None:
        self.names = list(names)
        texts = key_texts(catalog[self.names])
        self.rows = np.flatnonzero(~texts.duplicated())
        self.wanted = np.zeros(len(self.rows), dtype=bool)
        self.found = 0
        self._texts = texts[self.rows]

    def look(self, detections: pa.Table) -> None:
        places = self.places(detections)
        self.wanted[places[places >= 0]] = True
        self.found += int((places >= 0).sum())

    def places(self, detections: pa.Table) -> np.ndarray:
        """Places of detections in `rows`, -1 for those that are not there."""
        texts = key_texts(detections.select(self.names).to_pandas())
        places = self._texts.get_indexer(texts)
        places[texts == ""] = -1
        return places


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
        require_plain(schema, file.name)
        scalar = [field.name for field in schema if field.type.num_fields == 0]
        return pd.read_parquet(file, columns=scalar, page_checksum_verification=True)
    if ".csv" in suffixes:
        return pd.read_csv(file)
    from astropy.table import Table

    table = Table.read(file)
    table.convert_bytestring_to_unicode()
    return table[[name for name in table.colnames if table[name].ndim == 1]].to_pandas()
