"""Hashes that tell a manifest's rows from others, the same however the rows came together."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

FINGERPRINT = "manifest_part_sha256"
"""Key of a Parquet file's metadata that says which rows of the manifest it holds or is made of."""

_FILES = ["detection_id", "pha_uri", "arf_uri", "rmf_uri", "background_uri"]


def row_hashes(rows: pa.Table) -> np.ndarray:
    """A 64-bit hash of each row's values, which other rows do not change."""
    frame = rows.to_pandas(types_mapper=_nullable)
    return pd.util.hash_pandas_object(frame, index=False).to_numpy()


def part_fingerprint(schema: pa.Schema, hashes: np.ndarray) -> str:
    """What goes into a part's metadata under FINGERPRINT: all its columns and rows, in order."""
    columns = json.dumps([[field.name, str(field.type)] for field in schema])
    return hashlib.sha256(columns.encode() + hashes.tobytes()).hexdigest()


def manifest_fingerprint(part: pa.Table) -> str:
    """The fingerprint of a part of a manifest, from its metadata where these have it."""
    known = (part.schema.metadata or {}).get(FINGERPRINT.encode())
    return known.decode() if known else part_fingerprint(part.schema, row_hashes(part))


class ManifestFingerprint:
    """A hash of all detections and their files, in order of detection_id."""

    def __init__(self) -> None:
        self._ids: list[pa.Array] = []
        self._hashes: list[np.ndarray] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows in, those of one detection in their order."""
        self._ids += rows["detection_id"].chunks
        files = rows.select(_FILES).to_pandas().astype(str)
        self._hashes.append(pd.util.hash_pandas_object(files, index=False).to_numpy())

    def digest(self) -> str:
        """The fingerprint of the rows taken in."""
        order = pc.sort_indices(pa.chunked_array(self._ids)).to_numpy()
        return hashlib.sha256(np.concatenate(self._hashes)[order].tobytes()).hexdigest()[:16]


def _nullable(kind: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    """What keeps integers and booleans with nulls as they are."""
    if pa.types.is_integer(kind):
        return pd.Int64Dtype()
    return pd.BooleanDtype() if pa.types.is_boolean(kind) else None
