"""The manifest: one row a detection, in parts by a stable key."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from raypipe._version import __version__
from raypipe.errors import RaypipeError, UsageError
from raypipe.workspace import Workspace, manifest_folder, part_name

_SUMMARY = "manifest.json"


def write_manifest(
    workspace: Workspace, release: str, rows: pd.DataFrame, part_rows: int, source: str
) -> dict[str, Any]:
    """Publish a release's manifest and return its summary.

    Rows go to parts by a hash of their detection_id, the number of parts being a power of two, so
    that more detections leave most rows where they were. The summary is removed first and
    written last: a manifest with a summary is whole.
    """
    folder = manifest_folder(release)
    parts = 1 << max(0, int(np.ceil(np.log2(max(len(rows), 1) / part_rows))))
    rows = rows.sort_values("detection_id", kind="stable", ignore_index=True)
    part = np.array([_part_of(identifier, parts) for identifier in rows["detection_id"]], dtype=int)
    workspace.delete(f"{folder}/{_SUMMARY}")
    schema = pa.Schema.from_pandas(rows, preserve_index=False).remove_metadata()
    ends = np.cumsum(np.bincount(part, minlength=parts))
    for number, places in enumerate(np.split(np.argsort(part, kind="stable"), ends[:-1])):
        table = pa.Table.from_pandas(rows.iloc[places], schema, preserve_index=False)
        workspace.write_table(part_name(folder, number), table.replace_schema_metadata(None))
    for name in workspace.files(folder, ".parquet"):
        if name >= part_name(folder, parts):
            workspace.delete(name)
    summary = {
        "release": release,
        "rows": len(rows),
        "parts": parts,
        "source": source,
        "fingerprint": _fingerprint(rows),
        "raypipe_version": __version__,
    }
    workspace.write_json(f"{folder}/{_SUMMARY}", summary)
    return summary


def read_manifest_summary(workspace: Workspace, release: str) -> dict[str, Any]:
    """What a release's manifest holds; RaypipeError where there is no whole one."""
    name = f"{manifest_folder(release)}/{_SUMMARY}"
    if not workspace.exists(name):
        raise RaypipeError(
            f"{workspace.absolute_uri(manifest_folder(release))}: no whole manifest there; "
            "run raypipe discover"
        )
    summary: dict[str, Any] = workspace.read_json(name)
    return summary


def choose_release(workspace: Workspace, release: str | None) -> str:
    """The release that was asked for, or the only one there is.

    Raises UsageError where there is none of that name, none at all, or several to choose from.
    """
    known = [
        name
        for name in workspace.folders("manifest")
        if workspace.exists(f"{manifest_folder(name)}/{_SUMMARY}")
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


def _part_of(identifier: str, parts: int) -> int:
    digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % parts


def _fingerprint(rows: pd.DataFrame) -> str:
    columns = ["detection_id", "pha_uri", "arf_uri", "rmf_uri", "background_uri"]
    hashed = pd.util.hash_pandas_object(rows[columns].astype(str), index=False).to_numpy()
    return hashlib.sha256(hashed.tobytes()).hexdigest()[:16]
