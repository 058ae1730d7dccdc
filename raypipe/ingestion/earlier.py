"""What earlier runs published of a part, row by row, so that it is not fetched again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raypipe.config import IngestConfig
from raypipe.ingestion.reader import OF_FILES
from raypipe.ingestion.schema import DUPLICATE, REJECT_FIELDS, RMF, SPECTRUM_FIELDS
from raypipe.workspace import Workspace, part_name, rejects_folder, spectra_folder

ROW_KEYS = "row_keys"
"""Key of a part's metadata with the `row_key` of each of its rows, a JSON list."""

_KEY_LENGTH = 16


@dataclass(frozen=True)
class Earlier:
    """Columns published before, and the row of each key in them."""

    table: pa.Table
    rows: dict[str, int]


def row_key(row: Mapping[str, Any]) -> str:
    """A hash of what a spectrum is made of: the detection, its files' URIs and their stamp."""
    text = json.dumps([row["detection_id"], *(row.get(name) for name in OF_FILES)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_KEY_LENGTH]


def earlier_spectra(
    workspace: Workspace, release: str, part: int, metadata: Mapping[str, str]
) -> Earlier:
    """Spectra of a part on the grids and with the kind of RMF that `metadata` says."""
    name = part_name(spectra_folder(release), part)
    same = ["energy_edges_kev", "first_channel", RMF]
    return _load(workspace, name, SPECTRUM_FIELDS, metadata, same)


def earlier_rejects(
    workspace: Workspace,
    release: str,
    part: int,
    metadata: Mapping[str, str],
    config: IngestConfig,
) -> Earlier:
    """Rejects of a published part that this version of raypipe has settled."""
    if not workspace.exists(part_name(spectra_folder(release), part)):
        return _nothing(pa.schema(REJECT_FIELDS))
    name = part_name(rejects_folder(release), part)
    earlier = _load(workspace, name, REJECT_FIELDS, metadata, ["raypipe_version"])
    settled = [
        config.retry_rejects == "retryable" and not retryable and stage != DUPLICATE
        for retryable, stage in zip(
            earlier.table["retryable"].to_pylist(), earlier.table["stage"].to_pylist(), strict=True
        )
    ]
    return Earlier(earlier.table, {key: i for key, i in earlier.rows.items() if settled[i]})


def _load(
    workspace: Workspace,
    name: str,
    fields: list[pa.Field],
    metadata: Mapping[str, str],
    same: list[str],
) -> Earlier:
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
    return Earlier(
        table.replace_schema_metadata(None).cast(schema), {key: i for i, key in enumerate(keys)}
    )


def _nothing(schema: pa.Schema) -> Earlier:
    return Earlier(schema.empty_table(), {})
