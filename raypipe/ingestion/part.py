"""Ingest one part of a manifest: fetch and read what is not published yet, then publish all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe._version import __version__
from raypipe.config import IngestConfig
from raypipe.http.client import Traffic
from raypipe.ingestion.chip_rmfs import chip_rmfs_for
from raypipe.ingestion.reader import OF_FILES, Reader
from raypipe.ingestion.row_cache import ROW_KEYS, RowCache, cached_rejects, cached_spectra, row_key
from raypipe.redaction import printable, redact
from raypipe.spectra.responses import ResponseLibrary
from raypipe.spectra.schema import (
    CHIP_RMFS,
    DUPLICATE,
    FORMAT,
    FROM_MANIFEST,
    MOST_REASON,
    REJECT_FIELDS,
    RMF,
    SPECTRUM_FIELDS,
)
from raypipe.store.fingerprints import FINGERPRINT, manifest_fingerprint
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.workspace import Workspace

_READ = ["detection_id", *OF_FILES, *FROM_MANIFEST]
"""Columns of the manifest that say what to read."""

_IDENTITY = ["detection_id", "obsid", "obi", "region_id", "name", "ra", "dec"]


@dataclass(frozen=True)
class Outcome:
    """Count the spectra and rejects of a part, and the traffic they took.

    `kept` rows had been published before; `rejected` counts rejects by stage and reason; the other
    fields are those of `Traffic`, and include what was read from disk.
    """

    part: int
    spectra: int
    rejects: int
    retryable: int
    rejected: dict[str, dict[str, int]]
    kept: int
    requests: int
    retries: int
    bytes_read: int
    connected_s: float
    rmfs: int
    rmf_bytes: int


def ingest_part(workspace: Workspace, release: str, part: int, config: IngestConfig) -> Outcome:
    """Turn a part of the manifest into a part of spectra and one of rejects.

    Each row of the manifest becomes a row of either table, in the manifest's order. Rows that an
    earlier run has published are copied, except rejects that are worth another try. Rejects are
    published first, spectra last.
    """
    work = _Work(workspace, release, part, config)
    reader = Reader(ResponseLibrary(workspace), work.chips, config)
    for row in reader.read_all([(index, work.rows[index]) for index in work.todo]):
        if row.spectrum is not None:
            work.spectra.add(row.index, row.spectrum)
        else:
            work.rejects.add(row.index, row.reject or {})
    return work.publish(reader.fetcher.traffic)


def is_published(workspace: Workspace, release: str, part: int) -> bool:
    """Tell whether a part of spectra exists, current or not."""
    return workspace.exists(part_name(spectra_folder(release), part))


def copy_part(
    workspace: Workspace, release: str, part: int, config: IngestConfig
) -> Outcome | None:
    """Make a part from rows that are all published already, as `ingest_part` does.

    Returns None, and writes nothing, if a file has to be read.
    """
    work = _Work(workspace, release, part, config)
    return None if work.todo else work.publish(Traffic())


class _Work:
    """Hold the rows of a part: those that are published already, and the others, `todo`."""

    def __init__(self, workspace: Workspace, release: str, part: int, config: IngestConfig) -> None:
        self._workspace, self._release, self._part = workspace, release, part
        self._manifest = workspace.read_table(part_name(manifest_folder(release), part))
        columns = [name for name in _READ if name in self._manifest.column_names]
        self.rows = self._manifest.select(columns).to_pylist()
        self._keys = [row_key(row) for row in self.rows]
        self.chips = chip_rmfs_for(workspace, release, config)
        self._metadata = {
            FINGERPRINT: manifest_fingerprint(self._manifest),
            "raypipe_version": __version__,
            **FORMAT,
            RMF: config.rmf,
            CHIP_RMFS: self.chips.to_json(),
        }
        self.spectra = _Rows(SPECTRUM_FIELDS)
        self.rejects = _Rows(REJECT_FIELDS)
        for index, reject in _duplicates(self.rows).items():
            self.rejects.add(index, reject)
        todo = [index for index in range(len(self.rows)) if index not in self.rejects]
        spectra = cached_spectra(workspace, release, part, self._metadata, self.chips)
        self.spectra.keep(todo, self._keys, spectra)
        todo = [index for index in todo if index not in self.spectra]
        rejects = cached_rejects(workspace, release, part, self._metadata, config)
        self.rejects.keep(todo, self._keys, rejects)
        self.todo = [index for index in todo if index not in self.rejects]

    def publish(self, traffic: Traffic) -> Outcome:
        """Publish the rejects, then the spectra, and count them."""
        manifest, spectra, rejects = self._manifest, self.spectra, self.rejects
        own = manifest.drop_columns([name for name in OF_FILES if name in manifest.column_names])
        identity = manifest.select([name for name in _IDENTITY if name in manifest.column_names])
        reject_table = rejects.beside(identity)
        for folder, table, indices in (
            (rejects_folder(self._release), reject_table, rejects.indices()),
            (spectra_folder(self._release), spectra.beside(own), spectra.indices()),
        ):
            row_keys = {ROW_KEYS: json.dumps([self._keys[index] for index in indices])}
            metadata = self._metadata | row_keys
            self._workspace.write_table(part_name(folder, self._part), table, metadata)
        return Outcome(
            part=self._part,
            spectra=len(spectra.indices()),
            rejects=reject_table.num_rows,
            retryable=sum(reject_table["retryable"].to_pylist()),
            rejected=_tally(reject_table),
            kept=len(self.rows) - len(self.todo),
            requests=traffic.requests,
            retries=traffic.retries,
            bytes_read=traffic.bytes_read,
            connected_s=traffic.connected_s,
            rmfs=traffic.rmfs,
            rmf_bytes=traffic.rmf_bytes,
        )


def _tally(rejects: pa.Table) -> dict[str, dict[str, int]]:
    """Count rejects by stage and reason."""
    tally: dict[str, dict[str, int]] = {}
    for row in rejects.select(["stage", "reason"]).to_pylist():
        reasons = tally.setdefault(row["stage"], {})
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return tally


def _duplicates(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Make a reject, by index, for each row whose detection an earlier row of the manifest has."""
    first: dict[str, str] = {}
    found = {}
    for index, row in enumerate(rows):
        uri = printable(redact(row["pha_uri"] or ""))
        if row["detection_id"] in first:
            reason = (
                f"duplicate of {row['detection_id']}, whose spectrum is "
                f"{first[row['detection_id']]}; leave one of them in the source"
            )
            found[index] = {
                "stage": DUPLICATE,
                "reason": printable(reason, MOST_REASON),
                "retryable": False,
                "uri": uri,
            }
        first.setdefault(row["detection_id"], uri)
    return found


class _Rows:
    """Collect the columns measured for some rows of the manifest, in any order."""

    def __init__(self, fields: list[pa.Field]) -> None:
        self._fields = fields
        self._new: dict[int, Mapping[str, Any]] = {}
        self._kept: dict[int, int] = {}
        self._old = pa.schema(fields).empty_table()

    def __contains__(self, index: int) -> bool:
        return index in self._new or index in self._kept

    def add(self, index: int, values: Mapping[str, Any]) -> None:
        self._new[index] = values

    def keep(self, indices: list[int], keys: list[str], cached: RowCache) -> None:
        """Take over the rows that an earlier run published under the same key."""
        self._old = cached.table.select([field.name for field in self._fields])
        self._kept = {i: cached.rows[keys[i]] for i in indices if keys[i] in cached.rows}

    def indices(self) -> list[int]:
        """Return the indices of the collected rows, in the manifest's order."""
        return sorted([*self._new, *self._kept])

    def beside(self, manifest: pa.Table) -> pa.Table:
        """Join the collected columns to those of the manifest, in the manifest's order."""
        measured = pa.concat_tables(
            [self._old.take(pa.array(list(self._kept.values()), pa.int64())), self._new_table()]
        )
        order = np.argsort([*self._kept, *self._new]).astype(np.int64)
        measured = measured.take(pa.array(order)).combine_chunks()
        names = [name for name in manifest.column_names if name not in measured.column_names]
        table = manifest.select(names).take(pa.array(self.indices(), pa.int64()))
        for field in self._fields:
            table = table.append_column(field, measured[field.name])
        return table

    def _new_table(self) -> pa.Table:
        columns = [
            _column([row[field.name] for row in self._new.values()], field.type)
            for field in self._fields
        ]
        return pa.Table.from_arrays(columns, schema=pa.schema(self._fields))


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Make a column of plain values, or of arrays (or None) if the rows hold lists."""
    if not pa.types.is_fixed_size_list(kind) and not pa.types.is_list(kind):
        return pa.array(values, kind)
    absent = pa.array([value is None for value in values], pa.bool_())
    number = kind.value_type.to_pandas_dtype()
    if pa.types.is_list(kind):
        lengths = [0 if value is None else len(value) for value in values]
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        there = [np.asarray(value, number) for value in values if value is not None]
        flat = pa.array(np.concatenate([np.zeros(0, number), *there]), kind.value_type)
        return pa.ListArray.from_arrays(offsets, flat, type=kind, mask=absent)
    matrix = np.zeros((len(values), kind.list_size), number)
    for row, value in zip(matrix, values, strict=True):
        if value is not None:
            row[:] = value
    return pa.FixedSizeListArray.from_arrays(matrix.ravel(), type=kind, mask=absent)
