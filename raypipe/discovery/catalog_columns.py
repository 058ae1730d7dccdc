"""Catalog columns and class labels, joined to detections."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.addresses import Address, local_file, shown
from raypipe.discovery.columns import IDENTITY, ORIGINAL_NAME, OWN_TYPES
from raypipe.discovery.fingerprints import part_fingerprint, row_hashes
from raypipe.discovery.names import CLASS_COLUMNS, PREFIX, column_names, free_name
from raypipe.discovery.positions import bad_value, is_missing, positions_in_degrees
from raypipe.discovery.tables import read_columns, typed
from raypipe.errors import RaypipeError, UsageError
from raypipe.redaction import printable
from raypipe.reserved import is_reserved

log = logging.getLogger(__name__)

JOIN_KEYS = (("detection_id",), ("obsid", "obi", "region_id"), ("name",))
"""What a row of another table is recognized by; the first that matches any row is used."""

MOST_COLUMNS = 900
"""Columns a catalog may have: FITS holds 999 in all."""

_TEXTS = ("detection_id", "name", "class")
_NUMBERS = ("obsid", "obi", "region_id")
_AS_TEXT = (*_TEXTS, *CLASS_COLUMNS, *_NUMBERS, "ra", "dec")
_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
_EXACT = 1 << 53
"""Whole numbers below this are exact in a float."""


def read_catalog(address: Address) -> pa.Table:
    """Read a catalog from a path, s3:// or https://, as `read_catalog_file`."""
    with local_file(address) as file:
        return read_catalog_file(file, shown(address))


def read_catalog_file(file: Path, where: str) -> pa.Table:
    """Read a catalog with one value per column and row: Parquet, CSV, FITS or VOTable.

    `where` is what messages call the file. Class labels come back as `class`, positions as degrees,
    `obsid`, `obi` and `region_id` as integers; columns of arrays are left out. Columns are renamed
    as `raypipe.discovery.names.column_names` says, and keep their original name in the metadata of
    their field. All that is changed or left out is logged. Raises UsageError for a file that cannot
    be read, for positions and numbers that are none, and for positions in a unit of no angle.
    """
    try:
        columns = read_columns(file, _AS_TEXT)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except Exception as error:
        reason = printable(str(error).replace(str(file), where), 500)
        raise UsageError(
            f"{where}: not a readable Parquet, CSV, FITS or VOTable catalog ({reason})"
        ) from error
    if columns.left_out:
        log.info(
            "%s: columns of other than single values left out: %s", where, _listed(columns.left_out)
        )
    if len(columns.names) > MOST_COLUMNS:
        raise UsageError(f"{where}: {len(columns.names)} columns, at most {MOST_COLUMNS} are kept")
    table = _named(columns.names, columns.values, where)
    units = dict(zip(table.column_names, columns.units, strict=True))
    return _with_identity(positions_in_degrees(table, where, units), where)


def renamed(table: pa.Table) -> dict[str, str]:
    """The original names of a table's renamed columns, by their new ones."""
    return {
        field.name: field.metadata[ORIGINAL_NAME].decode()
        for field in table.schema
        if ORIGINAL_NAME in (field.metadata or {})
    }


def _named(names: Sequence[str], values: Sequence[pa.ChunkedArray], where: str) -> pa.Table:
    fields, columns = [], []
    for old, new, column in zip(names, column_names(names, is_reserved), values, strict=True):
        if new not in IDENTITY and old.strip().lower() in _AS_TEXT:
            column = typed(column) if pa.types.is_large_string(column.type) else column
        metadata = {ORIGINAL_NAME: old.encode()} if new != old else None
        fields.append(pa.field(new, column.type, metadata=metadata))
        columns.append(column)
    table = pa.table(columns, schema=pa.schema(fields))
    if changed := renamed(table):
        pairs = [f"{printable(old, 60)!r} is {new}" for new, old in changed.items()]
        log.warning("%s: columns renamed: %s", where, _listed(pairs))
    return table


def _listed(words: Sequence[str], most: int = 20) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(printable(word, 200) for word in words[:most]) + more


def _with_identity(table: pa.Table, where: str) -> pa.Table:
    """The table with keys of whole numbers and names of text."""
    is_key = set(_NUMBERS) <= set(table.column_names)
    for place, name in enumerate(table.column_names):
        field, column = table.schema.field(place), table.column(place)
        if name in _TEXTS:
            table = _replaced(table, place, field, _names(name, column, where))
        elif name in _NUMBERS:
            try:
                table = _replaced(table, place, field, _whole_numbers(name, column, where))
            except UsageError as error:
                if is_key:
                    raise
                new = free_name(PREFIX + name, {n.lower() for n in table.column_names})
                log.warning(
                    "%s; it is no key without the others of %s: the column is %s",
                    error,
                    ", ".join(_NUMBERS),
                    new,
                )
                field = field.with_name(new).with_metadata({ORIGINAL_NAME: name.encode()})
                table = table.set_column(place, field, column)
    return table


def _replaced(table: pa.Table, place: int, field: pa.Field, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(place, field.with_type(column.type), column)


def _names(name: str, column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Names and classes as text, null where they are blank; numbers must be whole, 3.0 is 3."""
    if pa.types.is_floating(column.type):
        column = _whole_numbers(name, column, where, f"a {name}: expected text or a whole number")
    texts = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    texts = pc.replace_substring_regex(texts, r"^([+-]?\d+)\.0*$", r"\1")
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)


def _whole_numbers(
    name: str,
    column: pa.ChunkedArray,
    where: str,
    wanted: str = "a whole number; correct it or leave it blank",
) -> pa.ChunkedArray:
    """Integers; UsageError, which names column, row and value, for what is not `wanted`."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if pa.types.is_large_string(column.type):
        texts = pc.utf8_trim_whitespace(column)
        column = pc.if_else(is_missing(texts), pa.scalar(None, texts.type), texts)
    numbers = []
    for row, value in enumerate(column.to_pylist()):
        number = _whole_number(value)
        if number is None and value is not None:
            raise bad_value(where, name, row, value, wanted)
        numbers.append(number)
    return pa.chunked_array([pa.array(numbers, pa.int64())])


def _whole_number(value: object) -> int | None:
    """An integer written as text or kept as a float; None for what is none."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return None


class CatalogJoin:
    """A catalog's columns, joined to detections that come in tables.

    The first of `JOIN_KEYS` counts that matches any detection, so all are looked at before columns
    are added to any. Of several catalog rows for one detection the first counts. What identifies
    the detections stays theirs where they have values; other columns of the catalog are renamed
    where the detections have one of that name. Raises UsageError where the catalog has none of the
    keys' columns, RaypipeError for a column whose name is reserved.
    """

    def __init__(self, catalog: pa.Table) -> None:
        known = set(catalog.column_names)
        if not any(set(key) <= known for key in JOIN_KEYS):
            raise UsageError(
                "the catalog has neither " + ", nor ".join(map(" and ".join, JOIN_KEYS))
            )
        if reserved := [name for name in catalog.column_names if is_reserved(name)]:
            raise RaypipeError(f"a catalog cannot fill the columns {', '.join(reserved)}")
        self._catalog = catalog
        self._keys = [_Key(catalog, key) for key in JOIN_KEYS if set(key) <= known]
        self._detections = 0
        self._columns = pa.table({})
        self._place = np.array([], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """A hash of the catalog's columns and values."""
        return part_fingerprint(self._catalog.schema, row_hashes(self._catalog))

    @property
    def renamed(self) -> dict[str, str]:
        """The original names of the catalog's renamed columns, by their new ones."""
        return renamed(self._catalog)

    def look(self, detections: pa.Table) -> None:
        """Find out which rows of the catalog are wanted."""
        self._detections += detections.num_rows
        for number, key in enumerate(self._keys, start=1):
            key.look(detections)
            if key.found:
                self._keys = self._keys[:number]
                break

    def settle(self, filled: Collection[str], known: Collection[str] = ()) -> None:
        """All have been looked at: they have values in the columns of `filled`, among the `known`.

        What the catalog's columns are called is known from here on. Raises UsageError, with a key
        of either side, where no row of the catalog is a detection.
        """
        found = [key for key in self._keys if key.found]
        if not found:
            tried = ", nor by ".join(key.compared() for key in self._keys)
            raise UsageError(
                f"no row of the catalog is a detection of the source, neither by {tried}; correct "
                "the catalog or leave it out"
            )
        self._keys = found
        (key,) = found
        log.info(
            "catalog: %d of %d detections found by %s",
            key.found,
            self._detections,
            " and ".join(key.names),
        )
        if key.repeats:
            log.warning(
                "catalog: %d rows repeat the %s of an earlier row, which is used in their place",
                key.repeats,
                " and ".join(key.names),
            )
        self._catalog = _beside(self._catalog, set(filled), set(known))
        self._columns = self._catalog.take(pa.array(key.rows[key.wanted])).combine_chunks()
        self._place = np.cumsum(key.wanted) - 1

    def add_columns(self, detections: pa.Table) -> pa.Table:
        """Detections with the catalog's columns, nulls where it has no row for them."""
        for key in self._keys:
            places = key.places(detections)
            absent = places < 0
            rows = np.where(absent, 0, self._place[places]) if len(self._place) else places
            new = self._columns.take(pa.array(rows, mask=absent))
            for field, column in zip(new.schema, new.columns, strict=True):
                at = detections.schema.get_field_index(field.name)
                if at < 0:
                    detections = detections.append_column(field, column)
                else:
                    detections = detections.set_column(at, field, column)
        return detections


def _beside(catalog: pa.Table, filled: set[str], known: set[str]) -> pa.Table:
    """The catalog's columns as they are called beside those that the detections have."""
    theirs = {name.lower() for name in filled | (known - set(catalog.column_names))}
    taken = theirs | {name.lower() for name in catalog.column_names}
    fields, columns = [], []
    for field, column in zip(catalog.schema, catalog.columns, strict=True):
        if field.name in filled and field.name in IDENTITY:
            continue
        if field.name in OWN_TYPES:
            field, column = (
                field.with_type(OWN_TYPES[field.name]),
                column.cast(OWN_TYPES[field.name]),
            )
        elif field.name.lower() in theirs:
            new = free_name(field.name, taken)
            log.warning(
                "catalog: detections have a column %s: the catalog's is %s", field.name, new
            )
            taken.add(new.lower())
            original = {ORIGINAL_NAME: field.name.encode()} | (field.metadata or {})
            field = field.with_name(new).with_metadata(original)
        fields.append(field)
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))


class _Key:
    """Rows of a catalog by one key; `found` detections want the `wanted` ones of `rows`.

    `repeats` rows have the key of an earlier row, and are left out.
    """

    def __init__(self, catalog: pa.Table, names: Sequence[str]) -> None:
        self.names = list(names)
        texts = key_texts(_frame(catalog.select(self.names)))
        repeated = texts.duplicated()
        self.rows = np.flatnonzero(~repeated)
        self.repeats = int((repeated & (texts != "")).sum())
        self.wanted = np.zeros(len(self.rows), dtype=bool)
        self.found = 0
        self._texts = texts[self.rows]
        self._seen = ""

    def compared(self) -> str:
        """Name the key's columns, with a value of the catalog and one of a detection."""
        one = next((text for text in self._texts if text), "")
        shown = [repr(printable(text, 60)) if text else "none" for text in (one, self._seen)]
        names = " and ".join(self.names)
        return f"{names} (the catalog has {shown[0]}, the detections have {shown[1]})"

    def look(self, detections: pa.Table) -> None:
        places = self.places(detections)
        self.wanted[places[places >= 0]] = True
        self.found += int((places >= 0).sum())

    def places(self, detections: pa.Table) -> np.ndarray:
        """Places of detections in `rows`, -1 for those that are not there."""
        texts = key_texts(_frame(detections.select(self.names)))
        self._seen = self._seen or next((text for text in texts if text), "")
        places = self._texts.get_indexer(texts)
        places[texts == ""] = -1
        return places


def _frame(keys: pa.Table) -> pd.DataFrame:
    return keys.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


def key_texts(columns: pd.DataFrame) -> pd.Index[str]:
    """One text per row to join on, blank where any part of the key is missing."""
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
