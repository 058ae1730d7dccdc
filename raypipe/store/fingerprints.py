"""Fingerprint a manifest's rows, independent of the order in which they were collected."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

FINGERPRINT = "manifest_part_sha256"
"""Metadata key of Parquet files; its value identifies the rows of the manifest in the file or those
from which the file was made."""

_FILES = ["detection_id", "pha_uri", "arf_uri", "rmf_uri", "background_uri"]


def row_hashes(rows: pa.Table) -> np.ndarray:
    """Return a 64-bit hash of each row's values, independent of the other rows."""
    frame = rows.to_pandas(types_mapper=_nullable)
    return pd.util.hash_pandas_object(frame, index=False).to_numpy()


def part_fingerprint(schema: pa.Schema, hashes: np.ndarray) -> str:
    """Fingerprint a part by its columns and ordered rows, for its metadata under FINGERPRINT."""
    columns = json.dumps([[field.name, str(field.type)] for field in schema])
    return hashlib.sha256(columns.encode() + hashes.tobytes()).hexdigest()


def manifest_fingerprint(part: pa.Table) -> str:
    """Return the fingerprint of a part of a manifest, from its metadata if present there."""
    known = (part.schema.metadata or {}).get(FINGERPRINT.encode())
    return known.decode() if known else part_fingerprint(part.schema, row_hashes(part))


class ManifestFingerprint:
    """Hash all detections of a manifest and their files, in order of detection_id."""

    def __init__(self) -> None:
        self._ids: list[pa.Array] = []
        self._hashes: list[np.ndarray] = []

    def add(self, rows: pa.Table) -> None:
        """Add rows; rows of the same detection must be added in a fixed order."""
        self._ids += rows["detection_id"].chunks
        files = rows.select(_FILES).to_pandas().astype(str)
        self._hashes.append(pd.util.hash_pandas_object(files, index=False).to_numpy())

    def digest(self) -> str:
        """Return the fingerprint of the rows added."""
        order = pc.sort_indices(pa.chunked_array(self._ids)).to_numpy()
        return hashlib.sha256(np.concatenate(self._hashes)[order].tobytes()).hexdigest()[:16]


def _nullable(kind: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    """Return the pandas type that keeps integers or booleans with nulls; None for other types."""
    if pa.types.is_integer(kind):
        return pd.Int64Dtype()
    return pd.BooleanDtype() if pa.types.is_boolean(kind) else None
