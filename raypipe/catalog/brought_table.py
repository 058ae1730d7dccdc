"""Read a catalog that a user brings, with columns that raypipe understands."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.archive.positions import bad_value, is_missing, positions_in_degrees
from raypipe.catalog.column_names import CLASS_COLUMNS, PREFIX, column_names, free_name
from raypipe.catalog.reserved import is_reserved
from raypipe.catalog.text_table import typed
from raypipe.catalog.user_table import read_columns
from raypipe.errors import UsageError
from raypipe.redaction import printable
from raypipe.store.addresses import Address, local_file, shown
from raypipe.store.manifest import IDENTITY, ORIGINAL_NAME

log = logging.getLogger(__name__)

JOIN_KEYS = (("detection_id",), ("obsid", "obi", "region_id"), ("name",))
"""Keys by which rows of another table are matched; the first that matches any row is used."""

MOST_COLUMNS = 900
"""Largest number of columns of a catalog, since a FITS table can have 999."""

_TEXTS = ("detection_id", "name", "class")
_NUMBERS = ("obsid", "obi", "region_id")
_AS_TEXT = (*_TEXTS, *CLASS_COLUMNS, *_NUMBERS, "ra", "dec")
_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
_EXACT = 1 << 53
"""Whole numbers below this are exact in a float."""


def read_catalog(address: Address) -> pa.Table:
    """Read a catalog from a path, s3:// or https://, as `read_catalog_file` does."""
    with local_file(address) as file:
        return read_catalog_file(file, shown(address))


def read_catalog_file(file: Path, where: str) -> pa.Table:
    """Read a catalog with one value per column and row, in any format of `read_columns`.

    `where` names the file in messages. Class labels are returned as `class`, positions in degrees,
    `obsid`, `obi` and `region_id` as integers; columns of arrays are left out. Columns are renamed
    by `raypipe.catalog.column_names` and keep their original name in the metadata of their field.
    All changes and omissions are logged. Raises UsageError for a file that cannot be read, for
    text that should be a position or a number, and for positions in a unit that is not an angle.
    """
    try:
        columns = read_columns(file, _AS_TEXT)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except Exception as error:
        reason = printable(str(error).replace(str(file), where), 500)
        raise UsageError(
            f"{where}: not a readable Parquet, CSV, TSV, FITS, VOTable or ECSV catalog ({reason})"
        ) from error
    if columns.left_out:
        left_out = _listed(columns.left_out)
        _say_once(
            logging.INFO, f"{where}: columns that hold no single values are not joined: {left_out}"
        )
    if len(columns.names) > MOST_COLUMNS:
        raise UsageError(f"{where}: {len(columns.names)} columns, at most {MOST_COLUMNS} are kept")
    table = _named(columns.names, columns.values, where)
    units = dict(zip(table.column_names, columns.units, strict=True))
    return _with_identity(positions_in_degrees(table, where, units), where)


def renamed(table: pa.Table) -> dict[str, str]:
    """Return the original names of a table's renamed columns, by their new names."""
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
        _say_once(logging.WARNING, f"{where}: columns renamed: {_listed(pairs)}")
    return table


@lru_cache(maxsize=1000)
def _say_once(level: int, message: str) -> None:
    """Log a message that every stage would repeat which reads the same table."""
    log.log(level, "%s", message)


def _listed(words: Sequence[str], most: int = 20) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(printable(word, 200) for word in words[:most]) + more


def _with_identity(table: pa.Table, where: str) -> pa.Table:
    """Convert the columns that identify a row to whole numbers and text."""
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
    """Convert names and classes to text, blank ones to null; numbers must be whole, 3.0 is 3."""
    if pa.types.is_floating(column.type):
        column = _whole_numbers(name, column, where, f"a {name}: expected text or a whole number")
    texts = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    texts = pc.replace_substring_regex(texts, r"^([+-]?\d+)\.0*$", r"\1")
    if name == "name":
        texts = pc.replace_substring_regex(texts, r"\s+", " ")
        texts = pc.replace_substring_regex(texts, r"^(2CXO) ?J", r"\1 J")
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)


def _whole_numbers(
    name: str,
    column: pa.ChunkedArray,
    where: str,
    wanted: str = "a whole number; correct it or leave it blank",
) -> pa.ChunkedArray:
    """Convert to integers; raise UsageError, with column, row and value, for any other value."""
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
    """Return an integer that is written as text or kept as a float, None for any other value."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return None


def key_texts(columns: pd.DataFrame) -> pd.Index[str]:
    """Return one text per row to join on, blank if any part of the key is missing."""
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
