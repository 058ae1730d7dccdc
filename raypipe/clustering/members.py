"""Read the rows of a catalog that clusters are found among, as points with errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.catalog.added_columns import KEYS, TableName
from raypipe.errors import RaypipeError
from raypipe.identity import source_keys
from raypipe.latents.flux_shapes import FluxShapes
from raypipe.model.bundle import Model
from raypipe.model.covariance import latents_of_triangle, triangles_of, unpack
from raypipe.model.presets import Folded
from raypipe.store.publication import Publication, detections_of, sources_of
from raypipe.store.workspace import Workspace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 20_000
_EXACT = 2e-3
"""Variance of rows without errors, in units of a direction's variance."""


@dataclass(frozen=True)
class Members:
    """Hold the n rows of a table that have latents, in order of their ids.

    `ids` (n,) are the table's `KEYS`, `sources` (n,) keys of sources, `z` (n, k) latents and
    `triangles` (n, k (k + 1) / 2) their covariances, NaN without errors. `classes` (n,) are labels
    or None, and `class_shares` (n, classes) the probabilities p_<class> of the model's classes.
    """

    ids: npt.NDArray[np.object_]
    sources: IntArray
    z: FloatArray
    triangles: npt.NDArray[np.float32]
    classes: npt.NDArray[np.object_]
    class_shares: FloatArray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Members:
        """Return some of the rows."""
        return Members(
            self.ids[rows],
            self.sources[rows],
            self.z[rows],
            self.triangles[rows],
            self.classes[rows],
            self.class_shares[rows],
        )

    def blocks(self) -> Iterator[Members]:
        """Yield all rows, some at a time."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield self.take(slice(start, start + _ROWS_AT_ONCE))


def read_members(
    workspace: Workspace, catalog: Publication, table: TableName, classes: tuple[str, ...]
) -> Members:
    """Read the rows of a table that have latents; `class_shares` (n, classes) has p_<class>.

    Raises RaypipeError for a catalog of an earlier version, without covariances of latents.
    """
    key = KEYS[table]
    first = workspace.read_schema(catalog.parts[0])
    if "z_cov" not in first.names:
        raise RaypipeError(
            f"{workspace.absolute_uri(catalog.parts[0])} has no errors of latents (column z_cov): "
            "an earlier version of raypipe wrote it; run raypipe embed again"
        )
    latents = [f"z{i}" for i in range(latents_of_triangle(first.field("z_cov").type.list_size))]
    shares = [f"p_{name}" for name in classes]
    columns = list(dict.fromkeys([key, "name", "class", "z_cov", *latents, *shares]))
    read = detections_of if table == "detections" else sources_of
    rows = read(workspace, catalog, columns).sort_by(key)
    z = np.stack([rows[name].to_numpy() for name in latents], axis=1).astype(np.float64)
    measured = np.isfinite(z).all(axis=1)
    rows, z = rows.filter(pa.array(measured)), z[measured]
    ids = rows[key].to_numpy(zero_copy_only=False)
    has_class = "class" in rows.column_names
    return Members(
        ids=ids,
        sources=source_keys(rows["name"].to_pylist(), ids.tolist()),
        z=z,
        triangles=triangles_of(rows["z_cov"]),
        classes=np.array(
            rows["class"].to_pylist() if has_class else [None] * len(ids), dtype=object
        ),
        class_shares=_shares(rows, shares),
    )


def _shares(rows: pa.Table, names: list[str]) -> FloatArray:
    nothing = np.full(rows.num_rows, np.nan)
    found = [rows[name].to_numpy() if name in rows.column_names else nothing for name in names]
    return np.stack(found, axis=1).astype(np.float64) if found else np.zeros((rows.num_rows, 0))


@dataclass(frozen=True)
class Space:
    """Hold the space that clusters are found in: points (n, d) and errors (n, d, d) of members."""

    values: Callable[[Members], FloatArray]
    covariance: Callable[[Members], FloatArray]

    @classmethod
    def fit(cls, model: Model, members: Members, directions: int) -> Space:
        """Make the space of flux shapes, or of scaled latents for a preset without a flux."""
        if isinstance(model.network, Folded):
            shapes = FluxShapes.fit(model.network, members.z, directions)
            return cls(
                lambda some: shapes.values(some.z),
                lambda some: shapes.covariance(some.z, _covariances(some)),
            )
        center, scale = members.z.mean(axis=0), members.z.std(axis=0).clip(1e-9)
        return cls(lambda some: (some.z - center) / scale, lambda some: _exact(some.z))


def _covariances(members: Members) -> FloatArray:
    """Return the covariance of latents (n, k, k); a small one where it is unknown."""
    covariances = unpack(members.triangles.astype(np.float64))
    unknown = ~np.isfinite(covariances).all(axis=(1, 2))
    covariances[unknown] = _exact(members.z[unknown])
    return covariances


def _exact(values: FloatArray) -> FloatArray:
    d = values.shape[1]
    return np.broadcast_to(_EXACT * np.eye(d), (len(values), d, d)).copy()
