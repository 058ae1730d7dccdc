"""Write compact Parquet files, detect damage when they are read, and refuse values that run code.

The format has checksums for pages, which are written. It has none for the footer, which holds the
names, types and offsets of the columns. A seal is therefore written in front of the footer: a mark,
and the SHA-256 of all bytes from the footer to the end of the file. Other readers skip it, because
the footer refers to no page there. A file without a seal, written by an earlier version or another
program, is read with the checksums that it has.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe.errors import RaypipeError

COMPRESSION = "zstd"
_MARK = b"raypipe footer\0\1"
_SEAL_BYTES = len(_MARK) + hashlib.sha256().digest_size
_END_BYTES = 8
"""Size of the end of a Parquet file: the length of the footer (four bytes), and PAR1."""
_TAIL_BYTES = 1 << 16
"""Number of bytes that are first read from the end of a file, as pyarrow does."""


class DamagedError(Exception):
    """Report that a Parquet file has changed since it was written; the text says what is wrong."""


def write_options(schema: pa.Schema) -> dict[str, Any]:
    """Return options of `pyarrow.parquet.ParquetWriter`: compression, encodings and checksums."""
    return {"compression": COMPRESSION, "write_page_checksum": True, **encodings(schema)}


def sealed(data: pa.Buffer) -> list[pa.Buffer | bytes]:
    """Split a Parquet file at its footer and return the pieces with the seal between them."""
    start = data.size - _footer_bytes(data.slice(data.size - _END_BYTES).to_pybytes())
    footer = data.slice(start)
    return [data.slice(0, start), _MARK + hashlib.sha256(footer).digest(), footer]


def open_checked(stream: pa.NativeFile) -> pq.ParquetFile:
    """Open a Parquet file: check its footer now, and its pages when they are read.

    Raises DamagedError if there is no footer, or if it is not the one that was sealed.
    """
    size = stream.size()
    tail = stream.read_at(min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES))
    footer_bytes = _footer_bytes(tail[-_END_BYTES:])
    wanted = footer_bytes + _SEAL_BYTES
    if len(tail) < wanted and len(tail) < size:
        tail = stream.read_at(min(size, wanted), max(0, size - wanted))
    footer = tail[-footer_bytes:]
    mark = tail.rfind(_MARK)
    if mark >= 0 and tail[mark + len(_MARK) :] != hashlib.sha256(footer).digest() + footer:
        raise DamagedError("its footer has changed since it was written")
    metadata = pq.read_metadata(pa.BufferReader(footer))
    return pq.ParquetFile(stream, metadata=metadata, page_checksum_verification=True)


def read_checked(file: pq.ParquetFile, columns: list[str] | None = None) -> pa.Table:
    """Read a file from `open_checked`; if `columns` are given, read those of them that it has.

    Raises DamagedError if the number of rows or of values differs from the footer's. The checksum
    of a page does not cover its header: if the header has a wrong page type, the reader skips the
    page; if it has a wrong number of values, the reader fills the column with nulls.
    """
    if columns is not None:
        known = set(file.schema_arrow.names)
        columns = [column for column in columns if column in known]
    table = file.read(columns=columns)
    if table.num_columns and table.num_rows != file.metadata.num_rows:
        raise DamagedError(f"{table.num_rows} of {file.metadata.num_rows} rows could be read")
    expected = _value_counts(file, set(table.column_names))
    for name, column in zip(table.column_names, table.columns, strict=True):
        found = _count_values(column)
        if expected.get(name, found) != found:
            raise DamagedError(f"{found} of {expected[name]} values of {name} could be read")
    return table


def _value_counts(file: pq.ParquetFile, columns: set[str]) -> dict[str, int]:
    """Return the number of non-null values of each of `columns` for which the footer states it."""
    counts: dict[str, int] = {}
    schema = file.schema_arrow
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    leaf = 0
    for field in schema:
        # get_field_index returns -1 for a name that several columns have.
        is_alone = field.name in columns and schema.get_field_index(field.name) >= 0
        if is_alone and _innermost(field.type).num_fields == 0:
            chunks = [group.column(leaf) for group in groups]
            nulls = [one.statistics.null_count for one in chunks if one.statistics is not None]
            if len(nulls) == len(chunks) and None not in nulls:
                counts[field.name] = sum(one.num_values for one in chunks) - sum(nulls)
        leaf += _count_leaves(field.type)
    return counts


def _count_leaves(kind: pa.DataType) -> int:
    """Count the leaf columns that a column of this type has in a Parquet file."""
    inner = range(kind.num_fields)
    return sum(_count_leaves(kind.field(number).type) for number in inner) or 1


def _count_values(column: pa.ChunkedArray) -> int:
    """Count the non-null values of a column; in a column of lists, those inside the lists."""
    while _is_list(column.type):
        column = pc.list_flatten(column)
    return len(column) - column.null_count


def _innermost(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values in nested lists, or the type itself if it is no list."""
    return _innermost(kind.value_type) if _is_list(kind) else kind


def _footer_bytes(end: bytes) -> int:
    """Return the number of bytes from the start of the footer to the end of a file.

    `end` are its last eight bytes. Raises DamagedError if these do not end a Parquet file.
    """
    if len(end) < _END_BYTES or end[4:] != b"PAR1":
        raise DamagedError("it does not end as a Parquet file does")
    return int.from_bytes(end[:4], "little") + _END_BYTES


def require_plain(schema: pa.Schema, file: str) -> None:
    """Raise RaypipeError if a column has, or contains, an extension type.

    Ray registers an extension type whose values are unpickled when they are read, and unpickling
    can run any code that the file contains.
    """
    for field in schema:
        if (name := _extension(field.type)) is not None:
            raise RaypipeError(
                f"{file}: column {field.name} is of extension type {name}, which is refused "
                "because its values may contain code; write the column as numbers or text"
            )


def _extension(kind: pa.DataType) -> str | None:
    """Return the name of the extension type that a type is or contains, None if there is none."""
    if isinstance(kind, pa.BaseExtensionType):
        return str(kind.extension_name)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    if pa.types.is_dictionary(kind):
        inner.append(kind.value_type)
    return next((name for name in map(_extension, inner) if name is not None), None)


def encodings(schema: pa.Schema) -> dict[str, Any]:
    """Return the encodings of a schema's columns as options of `pyarrow.parquet.write_table`.

    Lists of integers are stored as differences, lists of floats with the bytes of the numbers
    separated, and other columns by dictionary. This makes files smaller and faster to write.
    """
    lists = dict(filter(None, map(_list_encoding, schema)))
    return {
        "use_dictionary": [name for name in map(_leaf, schema) if name not in lists],
        "column_encoding": lists or None,
    }


def _list_encoding(field: pa.Field) -> tuple[str, str] | None:
    """Return the leaf of a column of lists of numbers and its encoding; None for other columns."""
    if _leaf(field) == field.name:
        return None
    if pa.types.is_floating(field.type.value_type):
        return _leaf(field), "BYTE_STREAM_SPLIT"
    if pa.types.is_integer(field.type.value_type):
        return _leaf(field), "DELTA_BINARY_PACKED"
    return None


def _leaf(field: pa.Field) -> str:
    """Return the name that the values of a column have within a Parquet file."""
    return f"{field.name}.list.element" if _is_list(field.type) else str(field.name)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))
