"""Find the rows of a part that earlier runs published, so that they are not fetched again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raypipe.config import IngestConfig
from raypipe.ingestion.chip_rmfs import ChipRmfs
from raypipe.ingestion.reader import OF_FILES
from raypipe.spectra.schema import CHIP_RMFS, DUPLICATE, FORMAT, REJECT_FIELDS, RMF, SPECTRUM_FIELDS
from raypipe.store.layout import part_name, rejects_folder, spectra_folder
from raypipe.store.workspace import Workspace

ROW_KEYS = "row_keys"
"""Key of a part's metadata with the `row_key` of each of its rows, a JSON list."""

_KEY_LENGTH = 16


@dataclass(frozen=True)
class RowCache:
    """Hold columns that were published before, and the row of each key in them."""

    table: pa.Table
    rows: dict[str, int]


def row_key(row: Mapping[str, Any]) -> str:
    """Hash the inputs of a spectrum: the detection, its files' URIs and their stamp."""
    text = json.dumps([row["detection_id"], *(row.get(name) for name in OF_FILES)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_KEY_LENGTH]


def cached_spectra(
    workspace: Workspace, release: str, part: int, metadata: Mapping[str, str], chips: ChipRmfs
) -> RowCache:
    """Return the spectra of a part whose format and kind of RMF are those in `metadata`.

    Spectra are left out if their RMF is not the one that `chips` gives them. So are all spectra of
    parts without a record of their RMFs, which were made before numbers were checked.
    """
    name = part_name(spectra_folder(release), part)
    same = [*FORMAT, RMF]
    cached = _load(workspace, name, SPECTRUM_FIELDS, metadata, same)
    if not cached.rows:
        return cached
    choice = workspace.read_metadata(name).get(CHIP_RMFS)
    if choice is None:
        return _nothing(pa.schema(SPECTRUM_FIELDS))
    made_with = json.loads(choice)
    rmf_ids = cached.table["rmf_id"].to_pylist()
    kept = {rmf_id for rmf_id in set(rmf_ids) if chips.keeps(rmf_id, made_with)}
    return RowCache(cached.table, {key: i for key, i in cached.rows.items() if rmf_ids[i] in kept})


def cached_rejects(
    workspace: Workspace,
    release: str,
    part: int,
    metadata: Mapping[str, str],
    config: IngestConfig,
) -> RowCache:
    """Return the rejects of a part that this version has settled with these RMFs."""
    if not workspace.exists(part_name(spectra_folder(release), part)):
        return _nothing(pa.schema(REJECT_FIELDS))
    name = part_name(rejects_folder(release), part)
    cached = _load(
        workspace, name, REJECT_FIELDS, metadata, [*FORMAT, "raypipe_version", CHIP_RMFS]
    )
    settled = [
        config.retry_rejects == "retryable" and not retryable and stage != DUPLICATE
        for retryable, stage in zip(
            cached.table["retryable"].to_pylist(), cached.table["stage"].to_pylist(), strict=True
        )
    ]
    return RowCache(cached.table, {key: i for key, i in cached.rows.items() if settled[i]})


def _load(
    workspace: Workspace,
    name: str,
    fields: list[pa.Field],
    metadata: Mapping[str, str],
    same: list[str],
) -> RowCache:
    schema = pa.schema(fields)
    if not workspace.exists(name):
        return _nothing(schema)
    known = workspace.read_metadata(name)
    keys = json.loads(known.get(ROW_KEYS, "[]"))
    if any(known.get(key) != metadata[key] for key in same):
        return _nothing(schema)
    table = workspace.read_table(name, schema.names)
    if table.column_names != schema.names or table.num_rows != len(keys):
        return _nothing(schema)
    return RowCache(
        table.replace_schema_metadata(None).cast(schema), {key: i for i, key in enumerate(keys)}
    )


def _nothing(schema: pa.Schema) -> RowCache:
    return RowCache(schema.empty_table(), {})
