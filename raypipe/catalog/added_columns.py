"""Write the columns that a verb adds to a catalog, and join them to the catalog's rows.

Verbs such as `cluster` leave the parts of the catalog as they are. Each publishes a table in
`W/columns/<release>/<model_id>/<verb>/`, in parts of the same numbers as the catalog's, in one
step. The table belongs to one state of the catalog: after the catalog has changed, the verb has to
be run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from raypipe._version import __version__
from raypipe.catalog.column_names import free_name
from raypipe.errors import RaypipeError
from raypipe.store.layout import columns_folder
from raypipe.store.publication import (
    Publication,
    PublishedMeanwhileError,
    detections_of,
    find_publication,
    publish,
    read_published,
    require_publication,
    sources_of,
)
from raypipe.store.workspace import MissingFileError, Workspace

log = logging.getLogger(__name__)

TableName = Literal["detections", "sources"]
"""Tables of a catalog."""

Stale = Literal["refuse", "warn"]
"""What to do with columns that were added to another state of the catalog."""

KEYS: dict[TableName, str] = {"detections": "detection_id", "sources": "best_detection_id"}
"""Columns that identify a row of each table, to which added columns are joined."""

_READERS = 8


def added_fingerprint(catalog: Publication, verb: str, about: Mapping[str, Any]) -> str:
    """Hash what added columns are made from: the catalog, the verb, `about` and the version."""
    text = json.dumps([catalog.fingerprint, verb, about, __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_added(
    workspace: Workspace, catalog: Publication, verb: str, about: Mapping[str, Any]
) -> Publication | None:
    """Return the columns that a verb has made from this catalog by the settings `about`.

    None means that the verb has to make them.
    """
    found = find_publication(workspace, catalog.release, catalog.model_id, verb)
    if found is None or found.fingerprint != added_fingerprint(catalog, verb, about):
        return None
    return found if all(map(workspace.exists, found.files)) else None


def write_added(
    workspace: Workspace,
    catalog: Publication,
    verb: str,
    table: pa.Table,
    about: Mapping[str, Any],
    *,
    sources: pa.Table | None = None,
    others: Mapping[str, pa.Table] | None = None,
) -> Publication:
    """Publish columns that a verb adds to a catalog, in place of those it has added before.

    `catalog` is the publication from which the verb has read. `table` has a row for some or all of
    its detections, in any order, by `detection_id`; `sources` likewise has rows of sources, by
    `best_detection_id`. `others` are further tables, by a name of lower-case letters. `about` are
    the settings that made them, as JSON holds them. Give the fields of the tables their unit, UCD
    and description (`raypipe.catalog.schema.described`). Call this inside
    `raypipe.store.lease.exclusive`.

    Raises RaypipeError if a row is none of the catalog's or is there twice, and
    PublishedMeanwhileError if the catalog has changed since it was read.
    """
    _require_present(workspace, catalog, verb)
    fingerprint = added_fingerprint(catalog, verb, about)
    folder = columns_folder(catalog.release, catalog.model_id, verb)
    base = find_publication(workspace, catalog.release, catalog.model_id, verb)
    before = workspace.files(folder, ".parquet")
    names = [f"{folder}/part-{i:05d}-{fingerprint}.parquet" for i in range(len(catalog.parts))]
    _write_parts(workspace, catalog.parts, names, table, verb)
    tables = {"sources": sources} if sources is not None else {}
    if sources is not None:
        _require_rows(sources, sources_of(workspace, catalog, [KEYS["sources"]]), "sources", verb)
    tables |= others or {}
    files = {name: f"{folder}/{name}-{fingerprint}.parquet" for name in tables}
    for name, each in tables.items():
        workspace.write_table(files[name], each)
    _require_present(workspace, catalog, verb)
    new = Publication(
        release=catalog.release,
        model_id=catalog.model_id,
        number=0,
        rows=catalog.rows,
        source_rows=sources.num_rows if sources is not None else 0,
        parts=tuple(names),
        sources=files.pop("sources", ""),
        fingerprint=fingerprint,
        verb=verb,
        catalog=catalog.fingerprint,
        others=tuple(files.values()),
        about=json.loads(json.dumps(about)),
    )
    return publish(workspace, new, base, before)


def added_to(
    workspace: Workspace, catalog: Publication, stale: Stale, only: str | None = None
) -> list[Publication]:
    """Return the valid publications of all columns that were added to a catalog, by verb.

    If `only` is given, only those of this verb. Columns added to another state of the catalog are
    left out with a warning or, if `stale` is "refuse", raise RaypipeError.
    """
    found = []
    for added in _published(workspace, catalog):
        verb = added.verb
        if only not in (None, verb):
            continue
        if added.catalog == catalog.fingerprint:
            found.append(added)
            continue
        problem = (
            f"{workspace.absolute_uri(added.name)}: raypipe {verb} has added columns to an earlier "
            f"state of this catalog; run raypipe {verb} again"
        )
        if stale == "refuse":
            raise RaypipeError(problem)
        log.warning("%s; they are left out", problem)
    return found


def added_verbs(workspace: Workspace, catalog: Publication) -> dict[str, bool]:
    """Tell, for each verb that has added columns, whether they belong to this state of the catalog.

    Readers leave out those that do not, until the verb has run again.
    """
    return {
        added.verb: added.catalog == catalog.fingerprint for added in _published(workspace, catalog)
    }


def _published(workspace: Workspace, catalog: Publication) -> list[Publication]:
    """Return the publications of all columns that were added to any state of a catalog, by verb."""
    release, model_id = catalog.release, catalog.model_id
    verbs = workspace.folders(f"columns/{release}/{model_id}")
    found = [find_publication(workspace, release, model_id, verb) for verb in verbs]
    return [added for added in found if added is not None]


@dataclass(frozen=True)
class AddedColumns:
    """Join the columns that were added to one table of a catalog.

    Find them once, by `of`, and join them to one part of the catalog after the other.
    """

    workspace: Workspace
    table: TableName
    publications: tuple[Publication, ...]
    schemas: tuple[pa.Schema, ...]

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        catalog: Publication,
        table: TableName = "detections",
        stale: Stale = "refuse",
    ) -> AddedColumns:
        """Find the columns added to a table of a catalog; `stale` is that of `added_to`."""
        found = [
            added
            for added in added_to(workspace, catalog, stale)
            if table == "detections" or added.sources
        ]
        schemas = [workspace.read_schema(_files(added, table)[0]) for added in found]
        return cls(workspace, table, tuple(found), tuple(schemas))

    def join_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema that rows of that schema have after `join`."""
        rows = schema.empty_table()
        for added in self.schemas:
            rows = _set_columns(rows, added.empty_table().drop_columns([KEYS[self.table]]))
        return rows.schema

    def needed(self, schema: pa.Schema, columns: list[str]) -> list[str]:
        """Return the columns of a file of the catalog that `columns` of the joined table need."""
        wanted = {name.lower() for added in self.schemas for name in added.names}
        return [name for name in schema.names if name in columns or name.lower() in wanted]

    def join(
        self, rows: pa.Table, *, part: int | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """Return rows of the catalog with the added columns, null where these lack the row.

        `rows` has the table's column of `KEYS`. If `part` is given, all rows are of the part of
        that number; if `columns` are given, only those of them are joined. An added column replaces
        one of the same name and UCD; another column of that name, which a table of the user has
        brought, keeps its values under the name `catalog_<name>`.
        """
        key = KEYS[self.table]
        for added, schema in zip(self.publications, self.schemas, strict=True):
            names = [n for n in schema.names if n != key and (columns is None or n in columns)]
            if not names:
                continue
            files = _files(added, self.table)
            if part is not None and self.table == "detections":
                files = files[part : part + 1]
            more = _read_all(self.workspace, files, [key, *names])
            rows = _set_columns(rows, more.select(names).take(_places(rows, more, key)))
        return rows


def with_added(
    workspace: Workspace,
    catalog: Publication,
    rows: pa.Table,
    *,
    part: int | None = None,
    table: TableName = "detections",
    columns: list[str] | None = None,
    stale: Stale = "refuse",
) -> pa.Table:
    """Return rows of a catalog with all columns that were added to it; see `AddedColumns`."""
    while True:
        added = AddedColumns.of(workspace, catalog, table, stale)
        try:
            return added.join(rows, part=part, columns=columns)
        except MissingFileError:
            # Another run may have replaced the columns since they were found.
            if added == AddedColumns.of(workspace, catalog, table, stale):
                raise


def read_whole(
    workspace: Workspace,
    release: str,
    model_id: str,
    table: TableName = "detections",
    columns: list[str] | None = None,
    stale: Stale = "warn",
) -> pa.Table:
    """Read a table of a catalog with all columns that were added to it.

    If `columns` are given, read those of them that there are, in that order. Raises RaypipeError
    without a catalog.
    """
    key = KEYS[table]
    read = detections_of if table == "detections" else sources_of
    wanted = None if columns is None else list(dict.fromkeys([*columns, key]))

    def read_all(catalog: Publication) -> pa.Table:
        rows = read(workspace, catalog, wanted)
        rows = with_added(workspace, catalog, rows, table=table, columns=columns, stale=stale)
        if columns is None:
            return rows
        return rows.select([name for name in columns if name in rows.column_names])

    return read_published(workspace, release, model_id, read_all)


def read_added_table(workspace: Workspace, added: Publication, name: str) -> pa.Table:
    """Read one of the further tables of a verb, such as `clusters`; raises RaypipeError without."""
    for file in added.others:
        if file.rsplit("/", 1)[1].rsplit("-", 1)[0] == name:
            return workspace.read_table(file)
    raise workspace.unexpected(added.name, f"it has no table {name}")


def _files(added: Publication, table: TableName) -> tuple[str, ...]:
    return added.parts if table == "detections" else (added.sources,)


def _read_all(workspace: Workspace, files: tuple[str, ...], columns: list[str]) -> pa.Table:
    with ThreadPoolExecutor(_READERS) as pool:
        return pa.concat_tables(pool.map(lambda name: workspace.read_table(name, columns), files))


def _write_parts(
    workspace: Workspace, of: tuple[str, ...], names: list[str], table: pa.Table, verb: str
) -> None:
    """Write a part for each part `of` the catalog, with the same rows in the same order."""
    key = KEYS["detections"]
    ids = [workspace.read_table(name, [key]) for name in of]
    _require_rows(table, pa.concat_tables(ids), "detections", verb)
    others = table.drop_columns([key])
    for name, part in zip(names, ids, strict=True):
        rows = others.take(_places(part, table, key))
        workspace.write_table(name, rows.add_column(0, part.schema.field(key), part[key]))


def _require_present(workspace: Workspace, catalog: Publication, verb: str) -> None:
    """Raise PublishedMeanwhileError unless the catalog is the one that is published now."""
    present = require_publication(workspace, catalog.release, catalog.model_id)
    if present.fingerprint != catalog.fingerprint:
        raise PublishedMeanwhileError(
            f"{workspace.absolute_uri(present.name)}: the catalog has changed since raypipe {verb} "
            "read it; run the same command again"
        )


def _require_rows(new: pa.Table, rows: pa.Table, table: TableName, verb: str) -> None:
    """Raise RaypipeError unless each row of `new` is another one of the catalog's `rows`."""
    key = KEYS[table]
    if pc.count_distinct(_texts(new, key)).as_py() != new.num_rows:
        raise RaypipeError(f"raypipe {verb}: a row of its table of {table} is there twice ({key})")
    unknown = _texts(new, key).filter(pc.is_null(_places(new, rows, key)))
    if len(unknown):
        raise RaypipeError(
            f"raypipe {verb}: {len(unknown)} rows of its table of {table} are not in the catalog, "
            f"the first is {unknown[0].as_py()!r}"
        )


def _places(rows: pa.Table, known: pa.Table, key: str) -> pa.Array:
    """Return the place of each id of `rows` among the known ones, null for those not among them."""
    return pc.index_in(_texts(rows, key), _texts(known, key))


def _texts(rows: pa.Table, key: str) -> pa.Array:
    """Return ids as plain strings: tables may also hold them as large strings or a dictionary."""
    return rows[key].cast(pa.string()).combine_chunks()


def _set_columns(rows: pa.Table, more: pa.Table) -> pa.Table:
    """Append columns; one of the same name is replaced if it means the same, else renamed."""
    for field in more.schema:
        same = [name for name in rows.column_names if name.lower() == field.name.lower()]
        for name in same:
            if _ucd(rows.schema.field(name)) == _ucd(field):
                rows = rows.drop_columns([name])
                continue
            taken = {each.lower() for each in [*rows.column_names, *more.column_names]}
            new = free_name(name, taken)
            rows = rows.rename_columns([new if n == name else n for n in rows.column_names])
        rows = rows.append_column(field, more[field.name])
    return rows


def _ucd(field: pa.Field) -> bytes:
    return (field.metadata or {}).get(b"ucd", b"")
