"""Write the manifest: one row per detection, in parts by a stable key."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe._version import __version__
from raypipe.discovery.catalog_join import CatalogJoin
from raypipe.discovery.columns import ColumnTypes
from raypipe.identity import hash_names, without_release
from raypipe.store.fingerprints import (
    FINGERPRINT,
    ManifestFingerprint,
    part_fingerprint,
    row_hashes,
)
from raypipe.store.hash_partitioner import BUCKETS, MEMORY, HashPartitioner, scratch_folder
from raypipe.store.layout import manifest_folder, part_name
from raypipe.store.manifest import (
    MOST_PARTS,
    parts_for,
    summary_name,
)
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

_WRITERS = 8
"""Parts written at the same time, since writing to S3 is mostly waiting."""


def write_manifest(
    workspace: Workspace,
    release: str,
    tables: Iterable[pa.Table],
    part_rows: int,
    source: str,
    *,
    join: CatalogJoin | None = None,
    made_of: str | None = None,
    extra: Mapping[str, Any] | None = None,
    memory: int = MEMORY,
) -> dict[str, Any]:
    """Publish a release's manifest of detections that come in tables; return its summary.

    The part of a row is determined by a hash of its detection_id without the release. The number
    of parts is a power of two, so that most rows stay in their parts if detections are added or
    the release changes. A part is sorted by detection_id; rows of one detection keep their order.
    `join` adds a catalog's columns. The summary includes `made_of`, `extra`, which `tables` may
    fill, and the original names of renamed columns (`renamed`). Rows are written to a scratch
    folder as soon as they need more than `memory` bytes.
    The summary is removed first and written last, so a manifest with a summary is complete.
    """
    types, rows = ColumnTypes(), 0
    with scratch_folder(workspace, release) as folder:
        partitioner = HashPartitioner(folder, memory)
        for table in tables:
            types.see(table)
            rows += table.num_rows
            if join:
                join.look(table)
            partitioner.add(table, _id_hashes(table))
        if join:
            join.settle(types.filled, types.types)
        parts = parts_for(rows, part_rows)
        log.info("%d detections, in %d parts", rows, parts)
        if parts == MOST_PARTS and rows > parts * part_rows:
            log.info("parts have more than %d detections: at most %d parts", part_rows, parts)
        workspace.delete(summary_name(release))
        fingerprint = ManifestFingerprint()
        shares = min(parts, BUCKETS)
        for number, aside in enumerate(partitioner.shares(shares)):
            share = types.unite(aside)
            share = join.add_columns(share) if join else share
            fingerprint.add(share)
            _write_parts(workspace, release, share, range(number, parts, shares), parts)
    for name in workspace.files(manifest_folder(release), ".parquet"):
        if name >= part_name(manifest_folder(release), parts):
            workspace.delete(name)
    summary = {
        "release": release,
        "rows": rows,
        "parts": parts,
        "source": source,
        "fingerprint": fingerprint.digest(),
        "raypipe_version": __version__,
        **({"made_of": made_of} if made_of else {}),
        **(extra or {}),
        **({"renamed": join.renamed} if join and join.renamed else {}),
        **({"joined_by_position": join.summary} if join and join.summary else {}),
    }
    workspace.write_json(summary_name(release), summary)
    return summary


def _id_hashes(rows: pa.Table) -> np.ndarray:
    return hash_names(map(without_release, rows["detection_id"].to_pylist()))


def _write_parts(
    workspace: Workspace, release: str, rows: pa.Table, numbers: range, parts: int
) -> None:
    """Publish the parts of these numbers; `rows` belong to no other part."""
    by_id = pc.sort_indices(rows["detection_id"]).to_numpy()
    part = (_id_hashes(rows) % parts)[by_id]
    order = np.argsort(part, kind="stable")
    rows, part = rows.take(by_id[order]), part[order]
    hashes = row_hashes(rows)

    def write(number: int) -> None:
        start, end = np.searchsorted(part, [number, number + 1]).tolist()
        fingerprint = part_fingerprint(rows.schema, hashes[start:end])
        name = part_name(manifest_folder(release), number)
        workspace.write_table(name, rows.slice(start, end - start), {FINGERPRINT: fingerprint})

    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(write, numbers):
            pass
