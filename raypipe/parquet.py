"""Parquet files: how columns are stored small, and that nothing in them runs when it is read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from raypipe.errors import RaypipeError


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
    is_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
    return f"{field.name}.list.element" if is_list else str(field.name)
