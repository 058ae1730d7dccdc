"""Parquet files: columns stored small, damage noticed when they are read, nothing in them run.

Pages carry the checksums that the format has for them. It has none for the footer, where the
places, types and names of the columns are, so a seal stands in front of it: a mark and the SHA-256
of all bytes from the footer to the end of the file. No page lies there, so that other readers do
not see it. A file without a seal, which an earlier version or another program has written, is read
with what checksums it has.
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
"""The end of a Parquet file: the length of the footer, four bytes, and PAR1."""
_TAIL_BYTES = 1 << 16
"""Bytes read at once from the end of a file, as pyarrow does."""


class DamagedError(Exception):
    """A Parquet file that is not as it was written; the message says what is wrong."""


def write_options(schema: pa.Schema) -> dict[str, Any]:
    """How `pyarrow.parquet.ParquetWriter` is to write columns of a schema: small and checked."""
    return {"compression": COMPRESSION, "write_page_checksum": True, **encodings(schema)}


def sealed(data: pa.Buffer) -> list[pa.Buffer | bytes]:
    """The pieces of a Parquet file with a seal in front of its footer."""
    start = data.size - _footer_bytes(data.slice(data.size - _END_BYTES).to_pybytes())
    footer = data.slice(start)
    return [data.slice(0, start), _MARK + hashlib.sha256(footer).digest(), footer]


def open_checked(stream: pa.NativeFile) -> pq.ParquetFile:
    """Open a Parquet file: its footer is checked now, its pages as they are read.

    Raises DamagedError where the footer is not the one that was sealed, or where there is none.
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
    """Rows of a file of `open_checked`; only those of `columns` that it has where given.

    Raises DamagedError where rows or values are not as many as the footer says. The checksum of a
    page does not cover the header of the page: one that names another kind makes the reader pass
    over the page, and one that names another number of values fills the column up with nulls.
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
    """Values that are not null of each of `columns`, where the footer says how many there are."""
    counts: dict[str, int] = {}
    schema = file.schema_arrow
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    leaf = 0
    for field in schema:
        # The index of a name that several columns have is -1.
        is_alone = field.name in columns and schema.get_field_index(field.name) >= 0
        if is_alone and _innermost(field.type).num_fields == 0:
            chunks = [group.column(leaf) for group in groups]
            nulls = [one.statistics.null_count for one in chunks if one.statistics is not None]
            if len(nulls) == len(chunks) and None not in nulls:
                counts[field.name] = sum(one.num_values for one in chunks) - sum(nulls)
        leaf += _count_leaves(field.type)
    return counts


def _count_leaves(kind: pa.DataType) -> int:
    """Columns of a Parquet file that hold a column of this type."""
    inner = range(kind.num_fields)
    return sum(_count_leaves(kind.field(number).type) for number in inner) or 1


def _count_values(column: pa.ChunkedArray) -> int:
    """Values of a column that are not null: of lists those in them."""
    while _is_list(column.type):
        column = pc.list_flatten(column)
    return len(column) - column.null_count


def _innermost(kind: pa.DataType) -> pa.DataType:
    """The type of what lists of lists hold."""
    return _innermost(kind.value_type) if _is_list(kind) else kind


def _footer_bytes(end: bytes) -> int:
    """Bytes from the beginning of the footer to the end of a file that ends like this."""
    if len(end) < _END_BYTES or end[4:] != b"PAR1":
        raise DamagedError("it does not end as a Parquet file does")
    return int.from_bytes(end[:4], "little") + _END_BYTES


def require_plain(schema: pa.Schema, file: str) -> None:
    """Raise RaypipeError where a column, or what it nests, is of an extension type.

    Ray registers one whose values are unpickled when they are looked at, and unpickling runs
    whatever the writer of the file wanted.
    """
    for field in schema:
        if (name := _extension(field.type)) is not None:
            raise RaypipeError(
                f"{file}: column {field.name} is of extension type {name}, which is not read: its "
                "values may be programs; write it as numbers or text"
            )


def _extension(kind: pa.DataType) -> str | None:
    """Name of the extension type that a type is or nests."""
    if isinstance(kind, pa.BaseExtensionType):
        return str(kind.extension_name)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    if pa.types.is_dictionary(kind):
        inner.append(kind.value_type)
    return next((name for name in map(_extension, inner) if name is not None), None)


def encodings(schema: pa.Schema) -> dict[str, Any]:
    """How `pyarrow.parquet.write_table` is to encode the columns of a schema.

    Lists of integers by their differences, lists of floats byte by byte of each number, all else by
    dictionary: smaller and written faster.
    """
    lists = dict(filter(None, map(_list_encoding, schema)))
    return {
        "use_dictionary": [name for name in map(_leaf, schema) if name not in lists],
        "column_encoding": lists or None,
    }


def _list_encoding(field: pa.Field) -> tuple[str, str] | None:
    """The leaf of a column of lists of numbers and how it is stored; None for other columns."""
    if _leaf(field) == field.name:
        return None
    if pa.types.is_floating(field.type.value_type):
        return _leaf(field), "BYTE_STREAM_SPLIT"
    if pa.types.is_integer(field.type.value_type):
        return _leaf(field), "DELTA_BINARY_PACKED"
    return None


def _leaf(field: pa.Field) -> str:
    """Name of a column's values within a Parquet file."""
    return f"{field.name}.list.element" if _is_list(field.type) else str(field.name)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))
