"""The spectra a training worker keeps in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.config import TrainConfig
from raypipe.errors import RaypipeError
from raypipe.ingestion.progress import require_ingested
from raypipe.ingestion.responses import ResponseLibrary
from raypipe.model.batch import COLUMNS, SpectraBatch
from raypipe.model.split import TEST, TRAIN, VALIDATION, assign_splits, source_keys
from raypipe.workspace import Workspace, spectra_folder

_MIN_TRAIN = 16
_LEARNED = ["name", "class", "content_sha256"]
"""Columns beside the identity that decide what is learned: another value, another model."""


@dataclass(frozen=True)
class Roster:
    """Which detections are for what: the same on every worker, in order of detection_id.

    `keys` (n,) of their sources, `split` (n,), `usable` (n,) whether a row has counts to learn
    from; `fingerprint` names the data.
    """

    detection_ids: npt.NDArray[Any]
    keys: npt.NDArray[np.int64]
    split: npt.NDArray[np.str_]
    usable: npt.NDArray[np.bool_]
    fingerprint: str

    def rows(self, part: str) -> npt.NDArray[np.int64]:
        """Indices of the usable rows of a part of the data."""
        return np.flatnonzero((self.split == part) & self.usable)

    def sizes(self) -> dict[str, int]:
        """Usable rows of each part."""
        return {part: len(self.rows(part)) for part in (TRAIN, VALIDATION, TEST)}


def read_roster(workspace: Workspace, release: str, config: TrainConfig) -> Roster:
    """Decide the split of a release's spectra; RaypipeError where too few are to train on."""
    require_ingested(workspace, release)
    table = workspace.read_folder(spectra_folder(release), ["detection_id", "counts_b", *_LEARNED])
    table = table.sort_by("detection_id")
    ids = table["detection_id"].to_pylist()
    keys = source_keys(table["name"].to_pylist(), ids)
    split = assign_splits(keys, config.seed, config.test_fraction, config.validation_fraction)
    learned = table.select([name for name in table.column_names if name in _LEARNED])
    digest = hashlib.sha256(json.dumps([ids, learned.to_pydict()]).encode())
    roster = Roster(
        detection_ids=np.array(ids, dtype=object),
        keys=keys,
        split=split,
        usable=table["counts_b"].to_numpy() > 0,
        fingerprint=digest.hexdigest()[:16],
    )
    least = max(_MIN_TRAIN, config.num_workers)
    if len(roster.rows(TRAIN)) < least or len(roster.rows(VALIDATION)) == 0:
        raise RaypipeError(
            f"{workspace.uri} {release}: {roster.sizes()} spectra are too few to train on; "
            "ingest more, or embed them with a model trained elsewhere (--model)"
        )
    return roster


def read_spectra(
    workspace: Workspace, release: str, detection_ids: npt.NDArray[Any]
) -> tuple[SpectraBatch, npt.NDArray[Any]]:
    """Spectra of those detections, in their order, and their class labels (None where unknown)."""
    wanted = pa.array(detection_ids.tolist(), pa.string())
    tables = []
    for name in workspace.files(spectra_folder(release), ".parquet"):
        table = workspace.read_table(name, ["detection_id", "class", *COLUMNS])
        tables.append(table.filter(pa.compute.is_in(table["detection_id"], wanted)))
    table = pa.concat_tables(tables, promote_options="permissive")
    order = {identifier: i for i, identifier in enumerate(table["detection_id"].to_pylist())}
    table = table.take(pa.array([order[i] for i in detection_ids], pa.int64()))
    labels = (
        np.array(table["class"].to_pylist(), dtype=object)
        if "class" in table.column_names
        else np.full(len(table), None, dtype=object)
    )
    return SpectraBatch.from_table(table, ResponseLibrary(workspace)), labels
