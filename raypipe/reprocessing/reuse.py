"""Reuse spectra and rejects of an earlier release for detections whose files are the same."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa

from raypipe.ingestion.reader import OF_FILES, URIS
from raypipe.ingestion.row_cache import ROW_KEYS, row_key
from raypipe.redaction import printable, redact
from raypipe.reprocessing.changes import SAME, Row, by_detection, compare_rows
from raypipe.spectra.responses import chip_rmfs_name
from raypipe.spectra.schema import REJECT_FIELDS, SPECTRUM_FIELDS, has_format
from raypipe.store.fingerprints import FINGERPRINT
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.workspace import Workspace

_CARRIED = "carried"
"""Replaces the manifest's fingerprint in parts that `ingest` still has to complete."""


@dataclass(frozen=True)
class Group:
    """Hold parts of two releases with the same detections; the numbers of parts may differ."""

    base_parts: list[int]
    release_parts: list[int]


def groups(base_parts: int, release_parts: int) -> list[Group]:
    """Group all parts of both releases.

    A hash assigns detections to parts, and numbers of parts are powers of two: part i of the
    coarser division therefore consists of all parts of the finer one with number i modulo the
    coarser number.
    """
    common = min(base_parts, release_parts)
    return [
        Group(list(range(i, base_parts, common)), list(range(i, release_parts, common)))
        for i in range(common)
    ]


def reuse_chip_rmfs(workspace: Workspace, base: str, release: str) -> None:
    """Use in `release` the RMFs that `base` has chosen for chip zones, if it has none."""
    there, wanted = chip_rmfs_name(base), chip_rmfs_name(release)
    if workspace.exists(there) and not workspace.exists(wanted):
        workspace.write_json(wanted, workspace.read_json(there) | {"carried_from": base})


def reuse_group(workspace: Workspace, base: str, release: str, group: Group) -> pa.Table:
    """Publish the rows of `base` that `release` can reuse; returns the change of each detection.

    `ingest` treats the reused rows like those of an interrupted run and completes the part. Parts
    that the release already has are not changed.
    """
    before = by_detection(_manifest_rows(workspace, base, group.base_parts))
    now_by_part = {part: _manifest_rows(workspace, release, [part]) for part in group.release_parts}
    changes = compare_rows(before, by_detection([r for rows in now_by_part.values() for r in rows]))
    same = {
        row["detection_id"]: row["previous_id"]
        for row in changes.to_pylist()
        if row["change"] == SAME
    }
    todo = [
        part
        for part in group.release_parts
        if not workspace.exists(part_name(spectra_folder(release), part))
    ]
    if not todo or not same:
        return changes
    old_rows = {row["detection_id"]: row for row in before.values()}
    for folder, fields in ((rejects_folder, REJECT_FIELDS), (spectra_folder, SPECTRUM_FIELDS)):
        held = _Held(workspace, folder(base), group.base_parts, fields)
        for part in todo:
            rows = [row for row in now_by_part[part] if row["detection_id"] in same]
            pairs = [(row, old_rows[same[row["detection_id"]]]) for row in rows]
            held.publish(part_name(folder(release), part), pairs)
    return changes


class _Held:
    """Hold the published rows, spectra or rejects, of some parts of `base`."""

    def __init__(
        self, workspace: Workspace, folder: str, parts: list[int], fields: list[pa.Field]
    ) -> None:
        self._workspace, self._schema = workspace, pa.schema(fields)
        self._metadata: dict[str, str] = {}
        self._places: dict[str, int] = {}
        tables: list[pa.Table] = []
        for name in (part_name(folder, part) for part in parts):
            if not workspace.exists(name):
                continue
            metadata = workspace.read_metadata(name)
            if not has_format(metadata):
                continue
            if self._metadata and not _same_settings(metadata, self._metadata):
                continue
            self._metadata = self._metadata or metadata
            held = sum(table.num_rows for table in tables)
            keys = json.loads(metadata.get(ROW_KEYS, "[]"))
            self._places |= {key: held + i for i, key in enumerate(keys)}
            table = workspace.read_table(name, self._schema.names)
            tables.append(table.replace_schema_metadata(None).cast(self._schema))
        self._table = pa.concat_tables(tables) if tables else self._schema.empty_table()

    def publish(self, name: str, pairs: list[tuple[Row, Row]]) -> None:
        """Publish the row of the second of each pair under the identity of the first."""
        pairs = [pair for pair in pairs if row_key(pair[1]) in self._places]
        places = [self._places[row_key(old)] for _, old in pairs]
        table = self._table.take(pa.array(places, pa.int64()))
        for column in ("source_uri", "uri"):
            if column in table.column_names:
                moved = [
                    _moved(uri, new, old)
                    for uri, (new, old) in zip(table[column].to_pylist(), pairs, strict=True)
                ]
                index, kind = table.column_names.index(column), pa.string()
                table = table.set_column(index, column, pa.array(moved, kind))
        keys = json.dumps([row_key(new) for new, _ in pairs])
        metadata = self._metadata | {FINGERPRINT: _CARRIED, ROW_KEYS: keys}
        self._workspace.write_table(name, table, metadata)


def _same_settings(one: dict[str, str], other: dict[str, str]) -> bool:
    """Return whether two parts were made with the same settings."""
    made = set(one) | set(other)
    return all(one.get(key) == other.get(key) for key in made - {FINGERPRINT, ROW_KEYS})


def _moved(uri: str | None, new: Row, old: Row) -> str | None:
    """Return the present URI of a file in place of its former one."""
    for key in URIS:
        if uri and old[key] and uri == printable(redact(old[key])):
            return printable(redact(new[key]))
    return uri


def _manifest_rows(workspace: Workspace, release: str, parts: list[int]) -> list[Row]:
    columns = ["detection_id", "name", *OF_FILES]
    return [
        row
        for part in parts
        for row in workspace.read_table(
            part_name(manifest_folder(release), part), columns
        ).to_pylist()
    ]
