"""Give the rows of a manifest the same columns and types."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from raypipe.errors import RaypipeError
from raypipe.store.manifest import OWN_TYPES


def manifest_rows(table: pa.Table) -> pa.Table:
    """Return a table with the columns of OWN_TYPES first, null if absent, then all others."""
    others = [name for name in table.column_names if name not in OWN_TYPES]
    columns = {
        name: table[name].cast(kind)
        if name in table.column_names
        else pa.nulls(table.num_rows, kind)
        for name, kind in OWN_TYPES.items()
    }
    return pa.table({**columns, **{name: table[name] for name in others}})


class ColumnTypes:
    """Find for each column of several tables the type that holds all its values.

    The type of a column that has no value in a table does not count, since services give such
    columns any type. Text is large_string.
    """

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.filled: set[str] = set()

    def see(self, table: pa.Table) -> None:
        """Add a table's columns; raise RaypipeError for text in a column that held numbers."""
        for name, column in zip(table.column_names, table.columns, strict=True):
            kind = pa.large_string() if pa.types.is_string(column.type) else column.type
            filled = column.null_count < len(column)
            if name not in self.types or (filled and name not in self.filled):
                self.types[name] = kind
            elif filled:
                self.types[name] = _common_type(name, self.types[name], kind)
            if filled:
                self.filled.add(name)

    def unite(self, tables: Sequence[pa.Table]) -> pa.Table:
        """Concatenate tables that were seen before, with all columns and their common types."""
        return pa.concat_tables([self._cast(table) for table in tables])

    def _cast(self, table: pa.Table) -> pa.Table:
        known = set(table.column_names)
        return pa.table(
            {
                name: table[name].cast(kind)
                if name in known and table[name].null_count < table.num_rows
                else pa.nulls(table.num_rows, kind)
                for name, kind in self.types.items()
            }
        )


def _common_type(name: str, first: pa.DataType, second: pa.DataType) -> pa.DataType:
    schemas = [pa.schema({name: kind}) for kind in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise RaypipeError(f"column {name}: {first} in some rows, {second} in others") from error
