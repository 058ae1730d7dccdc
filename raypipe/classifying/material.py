"""Read the features, latents, labels and votes of a catalog that a classification needs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe.catalog.labels import clean_classes, join_labels, read_labels
from raypipe.catalog.schema import classes_in
from raypipe.classifying.features import Features, feature_columns
from raypipe.identity import source_keys
from raypipe.store.publication import Publication, detections_of, sources_of
from raypipe.store.workspace import Workspace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_IDENTITY = ("detection_id", "obsid", "obi", "region_id", "name", "class")


@dataclass(frozen=True)
class Material:
    """Hold one state of a catalog: rows of detections, and keys and votes of its sources.

    `frame` has identity and the columns of features; `z` (n, k) are latents, and `usable` (n,)
    marks the rows that have them. `keys` (n,) and `source_keys` (s,) identify sources. `votes` and
    `source_votes` are the columns p_<class> of detections and sources.
    """

    catalog: Publication
    frame: pd.DataFrame
    catalog_ids: pa.ChunkedArray
    z: FloatArray
    keys: IntArray
    votes: pa.Table
    source_ids: pa.ChunkedArray
    source_keys: IntArray
    source_votes: pa.Table

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Return which rows have latents, (n,)."""
        return np.asarray(np.isfinite(self.z).all(axis=1) & (self.z.shape[1] > 0))

    def labels(self, table: str | os.PathLike[str] | None) -> npt.NDArray[np.object_]:
        """Return the classes of the rows (n,) by a table, else by the catalog; None if unknown.

        Raises UsageError for a table that matches no row.
        """
        frame = self.frame
        if table is not None and len(frame):
            frame, _ = join_labels(frame, read_labels(table))
        if "class" not in frame:
            return np.full(len(frame), None, dtype=object)
        return clean_classes(frame["class"])

    def fingerprint(self, classes: npt.NDArray[np.object_]) -> str:
        """Hash the labels of the rows."""
        text = pd.Series(np.where(classes == None, "", classes), dtype=str)  # noqa: E711
        hashes = pd.util.hash_pandas_object(text, index=False).to_numpy()
        return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]


def read_material(workspace: Workspace, catalog: Publication, columns: Sequence[str]) -> Material:
    """Read the detections and sources of one publication; `columns` are further context."""
    schema = workspace.read_schema(catalog.parts[0])
    latents = _latents(schema.names)
    votes = [f"p_{name}" for name in classes_in(schema)]
    wanted = list(dict.fromkeys([*_IDENTITY, *latents, *feature_columns(columns)]))
    table = detections_of(workspace, catalog, [*wanted, *votes])
    frame = table.select([name for name in wanted if name in table.column_names]).to_pandas()
    sources = sources_of(workspace, catalog, ["best_detection_id", "name", *votes])
    z = frame[latents].to_numpy(dtype=np.float64) if len(latents) else np.zeros((len(frame), 0))
    return Material(
        catalog=catalog,
        frame=frame,
        catalog_ids=table["detection_id"],
        z=z,
        keys=_keys(table, "detection_id"),
        votes=table.select([name for name in votes if name in table.column_names]),
        source_ids=sources["best_detection_id"],
        source_keys=_keys(sources, "best_detection_id"),
        source_votes=sources.select([name for name in votes if name in sources.column_names]),
    )


def rows_of(features: Features, rows: npt.NDArray[np.int64]) -> Features:
    """Return the features of some rows."""
    return Features(features.names, features.groups, features.values[rows])


def _latents(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    while f"z{len(found)}" in names:
        found.append(f"z{len(found)}")
    return found


def _keys(table: pa.Table, key: str) -> IntArray:
    names = table["name"].to_pylist() if "name" in table.column_names else [None] * len(table)
    return source_keys(names, table[key].to_pylist())
