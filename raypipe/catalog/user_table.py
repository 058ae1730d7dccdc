"""Read tables of users into columns of Arrow, in any format that people have.

These are Parquet, CSV, tab-separated values (CSCview, VizieR), FITS, VOTable, ECSV, and whatever
else astropy recognizes.

Integers stay integers even if some rows have none, so that 64-bit identifiers keep their digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe.catalog.text_table import read_text, separator_of
from raypipe.errors import UsageError
from raypipe.store.parquet import require_plain

PARQUET = frozenset({".parquet", ".pq"})
"""Endings of Parquet files."""

_VOTABLE = frozenset({".vot", ".votable", ".xml"})
_FITS = frozenset({".fits", ".fit", ".fts"})
_CSV = frozenset({".csv"})
_TSV = frozenset({".tsv", ".tab"})
_ECSV = frozenset({".ecsv"})
_MAGIC_BYTES = 64
_MAGIC = {
    b"PAR1": PARQUET,
    b"SIMPLE  =": _FITS,
    b"<?xml": _VOTABLE,
    b"<VOTABLE": _VOTABLE,
    b"# %ECSV": _ECSV,
}
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_KEPT = (
    pa.types.is_boolean,
    pa.types.is_signed_integer,
    pa.types.is_uint8,
    pa.types.is_uint16,
    pa.types.is_uint32,
    pa.types.is_date,
    pa.types.is_timestamp,
)


@dataclass(frozen=True)
class Columns:
    """Hold columns of one length with the names of their file, which may be any.

    Their types are truth values, integers of at most 64 bits, floats, text (large_string), dates
    and times. `left_out` lists the columns with values of other types, `units` has the unit of each
    column in the file, empty if it states none.
    """

    names: list[str]
    values: list[pa.ChunkedArray]
    left_out: list[str]
    units: list[str]


def read_columns(file: Path, as_text: Sequence[str] = ()) -> Columns:
    """Read the columns of a table; those of a text file named in `as_text` stay text.

    Raises UsageError for a row of text with another number of values than the header; other errors
    are those of the libraries that read the file.
    """
    endings = _endings(file)
    units: list[str] | None = None
    if endings & PARQUET:
        names, columns = _read_parquet(file)
    elif endings & (_CSV | _TSV):
        names, columns, units = read_text(file, as_text, "\t" if endings & _TSV else ",")
    else:
        names, columns, units = _read_with_astropy(file, endings)
    plain = [None if column is None else _plain(column) for column in columns]
    kept = [i for i, column in enumerate(plain) if column is not None]
    return Columns(
        [names[i] for i in kept],
        [column for column in plain if column is not None],
        [name for name, column in zip(names, plain, strict=True) if column is None],
        [units[i] if units else "" for i in kept],
    )


def _endings(file: Path) -> Set[str]:
    """Return the endings of a file's name, or those of its format, by its first bytes.

    ECSV is also saved with the ending .csv or .txt, and other tables of text with any.
    """
    endings = {suffix.lower() for suffix in file.suffixes}
    if not endings & (PARQUET | _VOTABLE | _FITS):
        with pa.input_stream(str(file), compression="detect") as content:
            start = content.read(_MAGIC_BYTES).lstrip()
        for magic, kind in _MAGIC.items():
            if start.startswith(magic):
                return kind
        if not endings & (_CSV | _TSV | _ECSV) and (separator := separator_of(file)):
            return _TSV if separator == "\t" else _CSV
    return endings


def _read_parquet(file: Path) -> tuple[list[str], list[pa.ChunkedArray | None]]:
    """Read flat columns, without the index that pandas stores; None stands for nested ones."""
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    schema = parquet.schema_arrow
    require_plain(schema, file.name)
    # Looking up a column by its name, or the list of names, takes Arrow a pass over all columns.
    names = schema.names
    places = [i for i, name in enumerate(names) if not _PANDAS_INDEX.fullmatch(name)]
    flat = [names[i] for i in places if schema.field(i).type.num_fields == 0]
    if len(set(names)) == len(names):
        table = parquet.read(columns=flat)
        values = dict(zip(table.column_names, table.columns, strict=True))
        columns = [values.get(names[i]) for i in places]
    else:
        table = parquet.read()
        columns = [table.column(i) if table.field(i).type.num_fields == 0 else None for i in places]
    return [names[i] for i in places], columns


def _read_with_astropy(
    file: Path, endings: Set[str]
) -> tuple[list[str], list[pa.ChunkedArray | None], list[str]]:
    """Return names, values and units of columns."""
    from astropy.io import fits
    from astropy.io.votable import parse_single_table
    from astropy.table import Table

    if endings & _VOTABLE:
        table = parse_single_table(file).to_table(use_names_over_ids=True)
        names = table.colnames
    elif endings & _FITS:
        with fits.open(file) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            if not tables:
                raise UsageError("no table among its HDUs")
            names = _number_columns(tables[0].header)
            table = Table.read(tables[0])
    else:
        table = Table.read(file, format="ascii.ecsv") if endings & _ECSV else Table.read(file)
        names = table.colnames
    columns = [table[name] for name in table.colnames]
    units = [str(getattr(column, "unit", None) or "") for column in columns]
    return names, [_from_astropy(column) for column in columns], units


def _number_columns(header: Any) -> list[str]:
    """Number the columns of a FITS table, since names may be repeated; return their names."""
    names = []
    for number in range(1, int(header["TFIELDS"]) + 1):
        names.append(str(header.get(f"TTYPE{number}", "")))
        header[f"TTYPE{number}"] = f"column_{number}"
    return names


def _from_astropy(column: Any) -> pa.ChunkedArray | None:
    """Convert a column of astropy; return None if it does not hold single values."""
    from astropy.table import Column

    if not isinstance(column, Column) or column.ndim != 1:
        return None
    mask = np.ma.getmaskarray(column)
    values = np.ma.getdata(column).view(np.ndarray)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    if values.dtype.kind in "UO":
        texts = [_text(value, absent) for value, absent in zip(values, mask, strict=True)]
        known = all(text is None or isinstance(text, str) for text in texts)
        return pa.chunked_array([pa.array(texts, pa.large_string())]) if known else None
    if values.dtype.kind not in "biuf":
        return None
    native = values.astype(
        np.float64 if values.dtype.itemsize > 8 else values.dtype.newbyteorder("=")
    )
    return pa.chunked_array([pa.array(native, mask=mask)])


def _text(value: Any, absent: bool) -> Any:
    if absent:
        return None
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Convert a column to one of the types of `Columns`; return None if there is none for it."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_float16(kind):
        return _plain(column.cast(pa.float32()))
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    wanted = pa.int64() if pa.types.is_uint64(kind) else pa.large_string()
    if wanted != kind and not any(is_kind(kind) for is_kind in _KEPT):
        try:
            return column.cast(wanted)
        except pa.ArrowInvalid:
            pass  # such as an integer beyond int64, or bytes that are no text
        except pa.ArrowNotImplementedError:
            return None
        return column.cast(pa.large_string()) if pa.types.is_uint64(kind) else None
    return column
