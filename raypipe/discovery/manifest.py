"""The manifest: one row a detection, in parts by a stable key."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe._version import __version__
from raypipe.discovery.catalog_columns import CatalogJoin
from raypipe.discovery.columns import ColumnTypes
from raypipe.discovery.fingerprints import (
    FINGERPRINT,
    ManifestFingerprint,
    part_fingerprint,
    row_hashes,
)
from raypipe.discovery.spill import BUCKETS, MEMORY, Spill, scratch_folder
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import hash_names, without_release
from raypipe.workspace import Workspace, manifest_folder, part_name

log = logging.getLogger(__name__)

MOST_PARTS = 1 << 16
_WRITERS = 8
"""Parts written at once: what takes time on S3 is the wait for it."""


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

    Rows go to parts by a hash of their detection_id without its release, the number of parts being
    a power of two: more detections, or another release, leave most rows where they were. A part is
    in order of detection_id, rows of one detection in the order they came. `join` adds a catalog's
    columns, `made_of` goes into the summary, as do `extra`, which `tables` may fill, and the
    original names of the catalog's columns that were renamed (`renamed`). Rows are put aside in a
    scratch folder once they take more than `memory` bytes.
    The summary is removed first and written last: a manifest with a summary is whole.
    """
    types, rows = ColumnTypes(), 0
    with scratch_folder(workspace, release) as folder:
        spill = Spill(folder, memory)
        for table in tables:
            types.see(table)
            rows += table.num_rows
            if join:
                join.look(table)
            spill.add(table, _id_hashes(table))
        if join:
            join.settle(types.filled, types.types)
        parts = parts_for(rows, part_rows)
        log.info("%d detections, in %d parts", rows, parts)
        if parts == MOST_PARTS and rows > parts * part_rows:
            log.info("more than %d detections a part: there are %d parts at most", part_rows, parts)
        workspace.delete(_summary_name(release))
        fingerprint = ManifestFingerprint()
        shares = min(parts, BUCKETS)
        for number, aside in enumerate(spill.shares(shares)):
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
    }
    workspace.write_json(_summary_name(release), summary)
    return summary


def parts_for(rows: int, part_rows: int) -> int:
    """Number of parts, a power of two, that so many detections go to: `part_rows` each or fewer.

    More each where there would be more than `MOST_PARTS`: Ray and the stores count them.
    """
    return min(MOST_PARTS, 1 << max(0, int(np.ceil(np.log2(max(rows, 1) / part_rows)))))


def read_manifest_summary(workspace: Workspace, release: str) -> dict[str, Any]:
    """What a release's manifest holds; RaypipeError where there is no whole one."""
    name = _summary_name(release)
    if not workspace.exists(name):
        raise RaypipeError(
            f"{workspace.absolute_uri(manifest_folder(release))}: no whole manifest there; "
            "run raypipe discover"
        )
    summary = workspace.read_object(name, {"rows": int, "parts": int, "source": str})
    parts = summary["parts"]
    if not 1 <= parts <= MOST_PARTS or parts & (parts - 1):
        raise workspace.unexpected(name, f"{parts} parts, expected a power of two")
    return summary


def find_manifest(workspace: Workspace, release: str, made_of: str) -> dict[str, Any] | None:
    """The summary of a release's manifest if it is there, whole, and made of that."""
    if not workspace.exists(_summary_name(release)):
        return None
    summary = read_manifest_summary(workspace, release)
    return summary if summary.get("made_of") == made_of else None


def choose_release(workspace: Workspace, release: str | None) -> str:
    """The release that was asked for, or the only one there is.

    Raises UsageError where there is none of that name, none at all, or several to choose from.
    """
    known = [
        name for name in workspace.folders("manifest") if workspace.exists(_summary_name(name))
    ]
    if release is not None:
        if release not in known:
            raise UsageError(
                f"{workspace.uri} has no release {release}; it has {', '.join(known) or 'none'}"
            )
        return release
    if len(known) != 1:
        raise UsageError(
            f"{workspace.uri} has the releases {', '.join(known)}: choose one with --release"
            if known
            else f"{workspace.uri} has no release: run raypipe discover first"
        )
    return known[0]


def set_aside_name(release: str) -> str:
    """Name of the list of files that could have been detections and are none."""
    return f"{manifest_folder(release)}/set_aside.json"


def _summary_name(release: str) -> str:
    return f"{manifest_folder(release)}/manifest.json"


def _id_hashes(rows: pa.Table) -> np.ndarray:
    return hash_names(map(without_release, rows["detection_id"].to_pylist()))


def _write_parts(
    workspace: Workspace, release: str, rows: pa.Table, numbers: range, parts: int
) -> None:
    """Publish the parts of these numbers, which are all that `rows` belong to."""
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
