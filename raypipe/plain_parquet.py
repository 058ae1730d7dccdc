"""Parquet files whose values are values: nothing in them runs when it is read."""

from __future__ import annotations

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
