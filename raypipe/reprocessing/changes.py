"""Classify detections as same, changed, new or vanished by the versions of their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from raypipe.identity import without_release
from raypipe.ingestion.reader import URIS

SAME, CHANGED, NEW, VANISHED = "same", "changed", "new", "vanished"

CHANGE_FIELDS = [
    pa.field("detection_id", pa.string()),
    pa.field("previous_id", pa.string()),
    pa.field("change", pa.string()),
    pa.field("name", pa.string()),
]

Row = Mapping[str, Any]
"""A row of a manifest."""
Version = tuple[tuple[str | None, ...], tuple[str, ...]]


def version_of(row: Row) -> Version:
    """Return the names and sizes of a row's files, independent of their location.

    Names of CSC files contain their version (N). File times are not used: they change when files
    are copied.
    """
    names = tuple(uri.rsplit("/", 1)[-1] if (uri := row.get(key)) else None for key in URIS)
    sizes = tuple(each.split("@")[0] for each in (row.get("files_stamp") or "").split(" "))
    return names, sizes


def by_detection(rows: list[Row]) -> dict[str, Row]:
    """Index rows of a manifest by detection without its release; repeated rows are left out."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(without_release(row["detection_id"]), row)
    return found


def compare_rows(before: Mapping[str, Row], now: Mapping[str, Row]) -> pa.Table:
    """Return a table of CHANGE_FIELDS for two manifests, given as `by_detection` returns them."""
    changes = [
        {
            "detection_id": row["detection_id"],
            "previous_id": before[key]["detection_id"] if key in before else None,
            "change": _change(before.get(key), row),
            "name": row["name"],
        }
        for key, row in now.items()
    ]
    changes += [
        {"previous_id": row["detection_id"], "change": VANISHED, "name": row["name"]}
        for key, row in before.items()
        if key not in now
    ]
    return pa.Table.from_pylist(changes, pa.schema(CHANGE_FIELDS))


def _change(before: Row | None, now: Row) -> str:
    if before is None:
        return NEW
    return SAME if version_of(before) == version_of(now) else CHANGED
