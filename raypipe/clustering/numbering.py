"""Number clusters so that those of an earlier release keep their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import linear_sum_assignment

from raypipe.catalog.added_columns import read_added_table
from raypipe.errors import UsageError
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, find_publication
from raypipe.store.workspace import Workspace

IntArray = npt.NDArray[np.int64]

NUMBERED = "numbered"
"""Name of the table of the sources' clusters by key, which outlives the state of the catalog."""

NUMBERS_USED = "numbers_used"
"""Its metadata key: how many numbers have been given so far."""


@dataclass(frozen=True)
class Numbering:
    """Hold clusters that were numbered before: the cluster of each source, by its key.

    `used` counts all numbers that were ever given, also those of clusters that a later release no
    longer has. `made_by` names the release and the publication.
    """

    keys: IntArray
    clusters: IntArray
    used: int
    made_by: str


def find_numbering(
    workspace: Workspace, release: str, model_id: str, previous: str | None
) -> Numbering | None:
    """Read the numbers that the clusters of a release keep; None if there are none before.

    They are those of the release `previous`; by default those of this release, and if it has none,
    those of the release with the newest clusters by the same model. Raises UsageError if `previous`
    is unknown or has no clusters by the model.
    """
    if previous is not None:
        choose_release(workspace, previous)
        found = find_publication(workspace, previous, model_id, "cluster")
        if found is None:
            raise UsageError(
                f"--previous {previous}: {workspace.uri} has no clusters of this release by "
                f"{model_id}; run raypipe cluster --release {previous} first"
            )
        return _read(workspace, found)
    own = find_publication(workspace, release, model_id, "cluster")
    if own is not None:
        return _read(workspace, own)
    releases = [name for name in workspace.folders("columns") if name != release]
    others = [find_publication(workspace, name, model_id, "cluster") for name in releases]
    known = [each for each in others if each is not None]
    newest = max(known, key=lambda each: each.published, default=None)
    return None if newest is None else _read(workspace, newest)


def number_clusters(
    sources: IntArray, clusters: IntArray, count: int, numbering: Numbering | None
) -> tuple[IntArray, int]:
    """Return the number of each cluster, (count,), and how many numbers are used by now.

    `clusters` (s,) are those of the sources with the keys `sources`, from 0 to `count` - 1. Earlier
    numbers are assigned so that the largest number of sources stays under its number (Hungarian
    method). Clusters that share no source with an earlier one get new numbers, in order.
    """
    if numbering is None:
        return np.arange(count), count
    common, here, there = np.intersect1d(sources, numbering.keys, return_indices=True)
    shared = np.zeros((count, numbering.used), np.int64)
    if len(common):
        np.add.at(shared, (clusters[here], numbering.clusters[there]), 1)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    numbers = np.full(count, -1)
    kept = shared[rows, columns] > 0
    numbers[rows[kept]] = columns[kept]
    new = np.flatnonzero(numbers < 0)
    numbers[new] = numbering.used + np.arange(len(new))
    return numbers, numbering.used + len(new)


def numbered_table(keys: IntArray, clusters: IntArray, used: int) -> pa.Table:
    """Make the table from which a later release takes its numbers."""
    schema = pa.schema({"source_key": pa.int64(), "cluster": pa.int32()})
    table = pa.table([pa.array(keys), pa.array(clusters.astype(np.int32))], schema=schema)
    return table.replace_schema_metadata({NUMBERS_USED: str(used)})


def _read(workspace: Workspace, added: Publication) -> Numbering:
    rows = read_added_table(workspace, added, NUMBERED)
    return Numbering(
        keys=rows["source_key"].to_numpy(),
        clusters=rows["cluster"].to_numpy().astype(np.int64),
        used=int((rows.schema.metadata or {})[NUMBERS_USED.encode()]),
        made_by=f"{added.release} {added.fingerprint}",
    )
