"""Read the content of an export: the rows of one table of a publication, and its description."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import pyarrow as pa

from raypipe._version import __version__
from raypipe.catalog.added_columns import KEYS, AddedColumns, TableName
from raypipe.catalog.schema import CLASS_UCD, brought_field, described_field
from raypipe.errors import RaypipeError
from raypipe.store.layout import model_folder
from raypipe.store.publication import Publication
from raypipe.store.workspace import Workspace

CITATION = "arXiv:2510.14102"
"""Publication on which the method of the catalog builds."""

_BATCH_ROWS = 8192

_KINDS: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType], ...] = (
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_int8, pa.int16()),
    (pa.types.is_uint8, pa.int16()),
    (pa.types.is_int16, pa.int16()),
    (pa.types.is_uint16, pa.int32()),
    (pa.types.is_int32, pa.int32()),
    (pa.types.is_uint32, pa.int64()),
    (pa.types.is_int64, pa.int64()),
    (pa.types.is_float16, pa.float32()),
    (pa.types.is_float32, pa.float32()),
    (pa.types.is_float64, pa.float64()),
)


@dataclass(frozen=True)
class Fact:
    """State a property of the whole table; `keyword` is its name in a FITS header."""

    name: str
    keyword: str
    value: str | int
    meaning: str


@dataclass(frozen=True)
class Content:
    """Represent a table of one publication in the types that every format has.

    Fields of `schema` have unit, UCD and description; columns that verbs have `added` to the
    catalog are among them. Boolean columns with nulls become 0 and 1,
    because FITS readers take such nulls for false. `left_out` are columns of nested values, which
    no table of the Virtual Observatory can hold.
    """

    workspace: Workspace
    publication: Publication
    table: TableName
    schema: pa.Schema
    left_out: tuple[str, ...]
    added: AddedColumns

    @classmethod
    def of(cls, workspace: Workspace, publication: Publication, table: TableName) -> Content:
        """Describe the content of a publication from its schemas, and find booleans with nulls.

        Columns added to an earlier state of the catalog are left out with a warning.
        """
        names = _files(publication, table)
        added = AddedColumns.of(workspace, publication, table, stale="warn")
        schemas = [
            added.join_schema(workspace.read_schema(name).remove_metadata()) for name in names
        ]
        bare = [pa.schema([field.remove_metadata() for field in schema]) for schema in schemas]
        united = pa.unify_schemas(bare, promote_options="permissive")
        unsure = _truth_with_nulls(workspace, names, united)
        fields = [
            (field.name, pa.int16() if field.name in unsure else plain_type(field.type))
            for field in united
        ]
        known: dict[str, dict[bytes, bytes]] = {}
        for field in itertools.chain(*schemas):
            known.setdefault(field.name, field.metadata or {})
        return cls(
            workspace=workspace,
            publication=publication,
            table=table,
            schema=pa.schema([_field(name, kind, known[name]) for name, kind in fields if kind]),
            left_out=tuple(name for name, kind in fields if kind is None),
            added=added,
        )

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        own = self.publication
        return own.rows if self.table == "detections" else own.source_rows

    @cached_property
    def facts(self) -> list[Fact]:
        """List the release, model and versions that made the table."""
        own = self.publication
        facts = [
            Fact("release", "RELEASE", own.release, "release of the detections"),
            Fact("model_id", "MODEL_ID", own.model_id, "model that made the latents"),
            Fact("publication", "PUBNUM", own.number, "number of the publication"),
            Fact("published", "PUBDATE", own.published, "when it was published"),
            Fact("fingerprint", "FINGERPR", own.fingerprint, "hash of its inputs"),
            Fact("training_data", "DATAFP", self._training_data, "hash of the training data"),
            Fact("made_by", "MADEBY", f"raypipe {own.raypipe_version}", "what made the catalog"),
            Fact("exported_by", "CREATOR", f"raypipe {__version__}", "what wrote the file"),
            Fact("exported", "DATE", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", "when, UTC"),
            Fact("citation", "REFERENC", CITATION, "please cite, with raypipe"),
        ]
        return [fact for fact in facts if fact.value != ""]

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in their order, some at a time, in one schema; only `columns` if given.

        Raises RaypipeError if a file is missing or its types do not fit those of the others, and if
        the number of rows is not the published one.
        """
        chosen = [field for field in self.schema if columns is None or field.name in columns]
        schema, rows = pa.schema(chosen), 0
        wanted = [KEYS[self.table], *schema.names]
        for part, name in enumerate(_files(self.publication, self.table)):
            needed = self.added.needed(self.workspace.read_schema(name), wanted)
            table = self.workspace.read_table(name, needed)
            table = self.added.join(table, part=part, columns=schema.names)
            rows += table.num_rows
            for start in range(0, table.num_rows, _BATCH_ROWS):
                yield _cast(table.slice(start, _BATCH_ROWS), schema, name)
        if rows != self.rows:
            raise RaypipeError(
                f"{self.workspace.absolute_uri(self.publication.name)}: says {self.rows} "
                f"{self.table}, but its files hold {rows}; run raypipe embed again"
            )

    @cached_property
    def _training_data(self) -> str:
        metrics = f"{model_folder(self.publication.model_id)}/metrics.json"
        if not self.workspace.exists(metrics):
            return ""
        return self.workspace.read_object(metrics, {}).get("data_fingerprint") or ""


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of a column in every format; None for nested values, which have none.

    Dates, decimals and unsigned 64-bit integers become text, which loses nothing.
    """
    for fits, plain in _KINDS:
        if fits(kind):
            return plain
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind) and kind.value_type in (pa.float32(), pa.float64()):
        return kind
    return None if pa.types.is_nested(kind) or pa.types.is_binary(kind) else pa.string()


def is_vector(kind: pa.DataType) -> bool:
    """Return whether a column of that type has a vector of numbers in each row."""
    return bool(pa.types.is_fixed_size_list(kind))


def _files(publication: Publication, table: TableName) -> tuple[str, ...]:
    return publication.parts if table == "detections" else (publication.sources,)


def _field(name: str, kind: pa.DataType, metadata: Mapping[bytes, bytes]) -> pa.Field:
    """Make the field of a column, described as measured by a model or as joined from a table."""
    if metadata.get(b"ucd") == CLASS_UCD.encode():
        return described_field(name, kind)
    return brought_field(name, kind, metadata)


def _truth_with_nulls(workspace: Workspace, names: tuple[str, ...], schema: pa.Schema) -> set[str]:
    """Return the boolean columns with nulls."""
    truth = [field.name for field in schema if pa.types.is_boolean(field.type)]
    unsure = set[str]()
    for name in names if truth else ():
        table = workspace.read_table(name, truth)
        known = {column for column in table.column_names if not table[column].null_count}
        unsure |= set(truth) - known
    return unsure


def _cast(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    try:
        columns = [
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in schema
        ]
    except pa.ArrowInvalid as error:
        raise RaypipeError(f"{name}: does not fit the other parts of the catalog ({error})") from (
            error
        )
    return pa.table(columns, schema=schema)
