"""Write FITS: one binary table whose columns have unit, UCD and description.

FITS has no null for text, which becomes empty text. A null integer becomes a number that no row has
(TNULL), a null floating-point number NaN. Control characters and characters beyond ASCII are
escaped.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io.fits import Header, getheader
from astropy.table import Column, Table

from raypipe.exporting.formats.content import Content, is_vector
from raypipe.exporting.formats.packing import (
    NUMBERS,
    Bytes,
    Extent,
    measure,
    number_for_null,
    pack_ascii,
    pack_numbers,
    pack_truth,
    pack_vectors,
)
from raypipe.redaction import printable

_BLOCK = 2880
_LETTERS = {
    pa.int16(): "I",
    pa.int32(): "J",
    pa.int64(): "K",
    pa.float32(): "E",
    pa.float64(): "D",
}


@dataclass(frozen=True)
class _Column:
    """Describe how a column is written: its TFORM, the type of a cell, and how to pack cells."""

    field: pa.Field
    form: str
    cell: tuple[Any, ...]
    pack: Callable[[pa.ChunkedArray], Bytes]
    null: int | None = None


def write_fits(content: Content, path: Path) -> None:
    """Write the table to a FITS file, some rows at a time."""
    extents = measure(content)
    columns = [_column(field, extents.get(field.name, Extent())) for field in content.schema]
    row = np.dtype([(f"c{i}", *column.cell) for i, column in enumerate(columns)])
    with path.open("wb") as file:
        file.write(_primary_header(content).tostring().encode())
        file.write(_table_header(content, columns, row.itemsize).tostring().encode())
        for table in content.tables():
            rows = np.empty(table.num_rows, row)
            for i, column in enumerate(columns):
                rows[f"c{i}"] = column.pack(table[column.field.name])
            file.write(rows.tobytes())
        file.write(b"\0" * (-file.tell() % _BLOCK))


def _column(field: pa.Field, extent: Extent) -> _Column:
    kind = field.type
    if is_vector(kind):
        number, size = kind.value_type, kind.list_size
        cell: tuple[Any, ...] = (NUMBERS[number], (size,))
        return _Column(field, f"{size}{_LETTERS[number]}", cell, pack_vectors)
    if pa.types.is_boolean(kind):
        return _Column(field, "L", ("S1",), pack_truth)
    if pa.types.is_string(kind):
        width = extent.ascii_width
        return _Column(
            field, f"{width}A", (f"S{width}",), lambda column: pack_ascii(column, extent)
        )
    null = number_for_null(field.name, kind, extent)
    cell = (NUMBERS[kind],)
    return _Column(field, _LETTERS[kind], cell, lambda column: pack_numbers(column, null), null)


def _primary_header(content: Content) -> Header:
    header = Header()
    header["SIMPLE"] = (True, "file conforms to the FITS standard")
    header["BITPIX"] = 8
    header["NAXIS"] = 0
    header["EXTEND"] = True
    _add_facts(header, content)
    return header


def _table_header(content: Content, columns: list[_Column], row_bytes: int) -> Header:
    header = Header()
    header["XTENSION"] = ("BINTABLE", "binary table")
    header["BITPIX"] = 8
    header["NAXIS"] = 2
    header["NAXIS1"] = (row_bytes, "bytes per row")
    header["NAXIS2"] = (content.rows, "rows")
    header["PCOUNT"] = 0
    header["GCOUNT"] = 1
    header["TFIELDS"] = (len(columns), "columns")
    header["EXTNAME"] = content.table.upper()
    header["RADESYS"] = ("ICRS", "frame of ra and dec")
    _add_facts(header, content)
    for number, column in enumerate(columns, 1):
        header[f"TTYPE{number}"] = _ascii(column.field.name)
        header[f"TFORM{number}"] = column.form
        if column.null is not None:
            header[f"TNULL{number}"] = column.null
        metadata = column.field.metadata or {}
        for keyword, name in (("TUNIT", b"unit"), ("TUCD", b"ucd"), ("TCOMM", b"description")):
            if name in metadata:
                header[f"{keyword}{number}"] = _ascii(metadata[name].decode())
    for line in _astropy_comments(columns):
        header.add_comment(line)
    return header


def _astropy_comments(columns: list[_Column]) -> list[str]:
    """Return COMMENT cards from which `astropy.table.Table.read` takes descriptions and UCDs.

    astropy does not read TCOMM and TUCD, but writes the attributes of columns as comments and reads
    them back. Here it writes a table of the same columns without rows, to obtain these comments.
    """
    blank = Table()
    for column in columns:
        metadata = column.field.metadata or {}
        name = _ascii(column.field.name)
        cells = Column(np.empty(0, [("c", *column.cell)])["c"], name=name)
        if b"description" in metadata:
            cells.description = _ascii(metadata[b"description"].decode())
        if b"ucd" in metadata:
            cells.meta["ucd"] = metadata[b"ucd"].decode()
        blank.add_column(cells)
    buffer = io.BytesIO()
    blank.write(buffer, format="fits")
    buffer.seek(0)
    header = getheader(buffer, 1)
    return [str(line) for line in header["COMMENT"]] if "COMMENT" in header else []


def _add_facts(header: Header, content: Content) -> None:
    for fact in content.facts:
        header[fact.keyword] = (fact.value, fact.meaning)


def _ascii(text: str) -> str:
    return printable(text).encode("ascii", "backslashreplace").decode()
