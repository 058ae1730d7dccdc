"""Read a release's manifest: its columns, its summary, and which releases a workspace has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import RaypipeError, UsageError
from raypipe.store.layout import manifest_folder
from raypipe.store.workspace import Workspace

MOST_PARTS = 1 << 16
SIMULATED = "simulated"
"""Key of a manifest's summary: whether `simulate` made the detections; absent if unknown."""


def parts_for(rows: int, part_rows: int) -> int:
    """Return the number of parts for this number of detections, a power of two.

    A part has at most `part_rows` detections, or more if there would be more than `MOST_PARTS`
    parts, since Ray and the stores handle each of them.
    """
    return min(MOST_PARTS, 1 << max(0, int(np.ceil(np.log2(max(rows, 1) / part_rows)))))


def read_manifest_summary(workspace: Workspace, release: str) -> dict[str, Any]:
    """Read the summary of a release's manifest; raise RaypipeError if there is no complete one."""
    name = summary_name(release)
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
    """Return the summary of a complete manifest made from `made_of`, None if there is none."""
    if not workspace.exists(summary_name(release)):
        return None
    summary = read_manifest_summary(workspace, release)
    return summary if summary.get("made_of") == made_of else None


def choose_release(workspace: Workspace, release: str | None) -> str:
    """Return the release that was asked for, or the only one in the workspace.

    Raises UsageError if there is none of that name, none at all, or several to choose from.
    """
    known = [name for name in workspace.folders("manifest") if workspace.exists(summary_name(name))]
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


def is_simulated(workspace: Workspace, release: str) -> bool | None:
    """Return whether raypipe simulated the detections of a release, None if that is unknown.

    A folder without the description of a survey may hold simulated spectra nevertheless.
    """
    summary = read_manifest_summary(workspace, release)
    if isinstance(summary.get(SIMULATED), bool):
        return bool(summary[SIMULATED])
    return None


def set_aside_name(release: str) -> str:
    """Return the name of the list of files that were set aside, with the reasons."""
    return f"{manifest_folder(release)}/set_aside.json"


def summary_name(release: str) -> str:
    """Return the name of the summary, whose presence says that the manifest is complete."""
    return f"{manifest_folder(release)}/manifest.json"


OWN_TYPES = {
    "detection_id": pa.large_string(),
    "obsid": pa.int64(),
    "obi": pa.int64(),
    "region_id": pa.int64(),
    "name": pa.large_string(),
    "ra": pa.float64(),
    "dec": pa.float64(),
    "pha_uri": pa.large_string(),
    "arf_uri": pa.large_string(),
    "rmf_uri": pa.large_string(),
    "background_uri": pa.large_string(),
    "files_stamp": pa.large_string(),
}
"""Columns of every manifest, whatever it is made of, in order."""

HEADER_TYPES = {"target_name": pa.large_string(), "position_from": pa.large_string()}
"""Columns of spectra outside the Chandra Source Catalog that their headers fill."""


IDENTITY = ("detection_id", "obsid", "obi", "region_id", "name", "ra", "dec", "class")
"""Columns that identify the detection and the source of a row, and the source's class."""

ORIGINAL_NAME = b"original_name"
"""Key of a field's metadata for the name of its column in the original table."""
