"""Write VOTable 1.4 in BINARY2: fields with unit, UCD and description, and their origin.

astropy writes the description of the table; this module writes the rows, some at a time, which
takes little memory and no Python call per cell. Text has a fixed width. XML cannot hold control
characters, which are escaped in names and descriptions.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io.votable.tree import CooSys, Field, Info, Resource, TableElement, VOTableFile

from raypipe.exporting.formats.content import Content, is_vector
from raypipe.exporting.formats.packing import (
    NUMBERS,
    Bytes,
    Extent,
    measure,
    pack_ascii,
    pack_numbers,
    pack_truth,
    pack_utf16,
    pack_vectors,
)
from raypipe.redaction import printable

_ENCODED_AT_ONCE = 3 << 14
"""Bytes per line of base64; a multiple of three needs no padding."""

_NARROWEST = 2
"""Fewest characters of a text: with only one it would be a character, not a text."""

_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_.-]")
_FRAME = "icrs"
_POSITION = ("ra", "dec")
_TABLE_END = "</TABLE>"
_DATATYPES = {
    pa.int16(): "short",
    pa.int32(): "int",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
}


@dataclass(frozen=True)
class Column:
    """Describe how a column is written: datatype, arraysize, type of a cell, how to pack cells."""

    field: pa.Field
    datatype: str
    arraysize: str | None
    cell: tuple[Any, ...]
    pack: Callable[[pa.ChunkedArray], Bytes]


def write_votable(content: Content, path: Path) -> None:
    """Write the table to a VOTable file, some rows at a time."""
    columns = columns_of(content.schema, measure(content))
    head, tail = _around_rows(describe_table(content, columns))
    flags = -(-len(columns) // 8)
    row = np.dtype([("null", "u1", (flags,)), *((f"c{i}", *c.cell) for i, c in enumerate(columns))])
    with path.open("wb") as file:
        file.write(f'{head}<DATA><BINARY2><STREAM encoding="base64">\n'.encode())
        rest = b""
        for table in content.tables():
            rest += _pack(table, columns, row).tobytes()
            whole = len(rest) - len(rest) % _ENCODED_AT_ONCE
            _write_lines(file, rest[:whole])
            rest = rest[whole:]
        _write_lines(file, rest)
        file.write(f"</STREAM></BINARY2></DATA>\n{tail}".encode())


def columns_of(schema: pa.Schema, extents: dict[str, Extent]) -> list[Column]:
    """Choose how to write the columns of a schema, given the extents of their values."""
    return [_column(field, extents.get(field.name, Extent())) for field in schema]


def describe_table(content: Content, columns: list[Column]) -> VOTableFile:
    """Describe the table in a document without rows."""
    document = VOTableFile(version="1.4")
    resource = Resource(type="results")
    document.resources.append(resource)
    resource.coordinate_systems.append(CooSys(ID=_FRAME, system="ICRS"))
    for fact in content.facts:
        info = Info(name=fact.name, value=str(fact.value))
        info.content = fact.meaning
        info.ID = None
        resource.infos.append(info)
    table = TableElement(document, name=content.table, nrows=content.rows)
    table.description = (
        f"Latent catalog of X-ray spectra: {content.table} of {content.publication.release} "
        f"by {content.publication.model_id}"
    )
    resource.tables.append(table)
    for column in columns:
        table.fields.append(_field(document, column, {field.ID for field in table.fields}))
    return document


def to_xml(document: VOTableFile) -> str:
    """Convert a document without rows to XML."""
    buffer = io.BytesIO()
    with _erg_allowed():
        document.to_xml(buffer)
    return buffer.getvalue().decode()


def _field(document: VOTableFile, column: Column, taken: Collection[str]) -> Field:
    name = printable(column.field.name)
    metadata = {key.decode(): text.decode() for key, text in (column.field.metadata or {}).items()}
    with _erg_allowed():
        field = Field(
            document,
            ID=_id(name, taken),
            name=name,
            datatype=column.datatype,
            arraysize=column.arraysize,
            unit=metadata.get("unit"),
            ucd=metadata.get("ucd"),
            ref=_FRAME if name in _POSITION else None,
        )
    if "description" in metadata:
        field.description = printable(metadata["description"])
    return field


def _id(name: str, taken: Collection[str]) -> str:
    """Make the identifier of a field from its name: as XML wants it, and not one of the `taken`."""
    identifier = _NOT_IN_ID.sub("_", name)
    if not (identifier[0].isalpha() or identifier[0] == "_"):
        identifier = f"_{identifier}"
    number, free = 1, identifier
    while free in taken:
        number += 1
        free = f"{identifier}_{number}"
    return free


@contextmanager
def _erg_allowed() -> Iterator[None]:
    """Suppress the warning about the erg, the unit of fluxes: deprecated, but allowed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The unit 'erg' has been deprecated")
        yield


def _column(field: pa.Field, extent: Extent) -> Column:
    kind = field.type
    if is_vector(kind):
        number, size = kind.value_type, kind.list_size
        cell: tuple[Any, ...] = (NUMBERS[number], (size,))
        return Column(field, _DATATYPES[number], str(size), cell, pack_vectors)
    if pa.types.is_boolean(kind):
        return Column(field, "boolean", None, ("S1",), pack_truth)
    if not pa.types.is_string(kind):
        return Column(field, _DATATYPES[kind], None, (NUMBERS[kind],), pack_numbers)
    if extent.is_ascii:
        width = max(extent.ascii_width, _NARROWEST)
        return Column(
            field, "char", str(width), (f"S{width}",), lambda column: pack_ascii(column, extent)
        )
    width = max(extent.utf16_width, _NARROWEST)
    cell = (f"S{2 * width}",)
    return Column(field, "unicodeChar", str(width), cell, lambda column: pack_utf16(column, extent))


def _pack(table: pa.Table, columns: list[Column], row: np.dtype) -> Bytes:
    rows = np.empty(table.num_rows, row)
    null = np.empty((table.num_rows, len(columns)), bool)
    for i, column in enumerate(columns):
        cells = table[column.field.name]
        null[:, i] = cells.is_null().to_numpy()
        rows[f"c{i}"] = column.pack(cells)
    rows["null"] = np.packbits(null, axis=1)
    return rows


def _write_lines(file: io.BufferedWriter, data: bytes) -> None:
    for start in range(0, len(data), _ENCODED_AT_ONCE):
        file.write(base64.b64encode(data[start : start + _ENCODED_AT_ONCE]) + b"\n")


def _around_rows(document: VOTableFile) -> tuple[str, str]:
    """Return the XML of the document before and after the place of its rows."""
    xml = to_xml(document)
    head, end, tail = xml.partition(_TABLE_END)
    return head.rstrip() + "\n", end + tail
