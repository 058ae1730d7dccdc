"""Decide which detections are used for training, validation and test."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.catalog.split import TEST, TRAIN, VALIDATION, assign_splits
from raypipe.config import TrainConfig
from raypipe.errors import RaypipeError
from raypipe.identity import source_keys
from raypipe.spectra.decoding import background_scales, single
from raypipe.spectra.gridding import NO_COUNTS
from raypipe.store.layout import spectra_folder
from raypipe.store.parts import require_ingested
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

_MIN_TRAIN = 16
_HASHED_AT_ONCE = 10_000
_JUDGED = ["counts_b", "exposure_s", "background_scale", "flags"]
_LEARNED = ["name", "class", "content_sha256"]
"""Columns beside the identity that affect training: a change in them changes the model's id."""


@dataclass(frozen=True)
class Roster:
    """Hold the detections of a release and their splits, sorted by detection_id.

    It is identical on every worker. `keys` (n,) identify the sources, and `names` (n,) name them,
    or the detection where a source has no name; `labels` (n,) are their
    classes, None if unknown; `split` (n,) is the split; `usable` (n,) says whether training can use
    a row; `part` (n,) is the index into `files` of the file with the row. `fingerprint` identifies
    the data.
    """

    detection_ids: npt.NDArray[Any]
    names: pa.ChunkedArray
    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[Any]
    split: npt.NDArray[np.str_]
    usable: npt.NDArray[np.bool_]
    part: npt.NDArray[np.int32]
    files: list[str]
    fingerprint: str

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Return the indices of the usable rows of a split, ordered by part file."""
        rows = np.flatnonzero((self.split == split) & self.usable)
        return rows[np.argsort(self.part[rows], kind="stable")]

    def sizes(self) -> dict[str, int]:
        """Count the usable rows of each split."""
        usable = self.split[self.usable]
        return {split: int((usable == split).sum()) for split in (TRAIN, VALIDATION, TEST)}


def read_roster(workspace: Workspace, release: str, config: TrainConfig) -> Roster:
    """Assign the spectra of a release to splits; raises RaypipeError if too few are usable.

    Spectra without counts or without a valid exposure or background scale are not used.
    """
    require_ingested(workspace, release)
    files = workspace.files(spectra_folder(release), ".parquet")
    columns = ["detection_id", *_JUDGED, *_LEARNED]
    tables = [workspace.read_table(name, columns) for name in files]
    part = np.repeat(np.arange(len(files), dtype=np.int32), [len(table) for table in tables])
    table = pa.concat_tables(tables, promote_options="permissive")
    table = table.append_column("part", pa.array(part)).sort_by("detection_id")
    ids = table["detection_id"].to_pylist()
    keys = source_keys(table["name"].to_pylist(), ids)
    split = assign_splits(keys, config.seed, config.test_fraction, config.validation_fraction)
    labels = table["class"].to_pylist() if "class" in table.column_names else [None] * len(table)
    roster = Roster(
        detection_ids=np.array(ids, dtype=object),
        names=pc.coalesce(table["name"], table["detection_id"]),
        keys=keys,
        labels=np.array(labels, dtype=object),
        split=split,
        usable=_usable(table),
        part=table["part"].to_numpy(),
        files=files,
        fingerprint=_fingerprint(table),
    )
    sizes = roster.sizes()
    if sizes[TRAIN] < max(_MIN_TRAIN, config.workers[0]) or sizes[VALIDATION] == 0:
        raise RaypipeError(
            f"{workspace.uri} {release}: the spectra are too few to train on ({sizes}); "
            "ingest more, or embed them with a model trained elsewhere (--model)"
        )
    return roster


def _usable(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Return whether each spectrum has counts and a valid exposure and background scale, (n,)."""
    exposure, scale = single(table["exposure_s"]), single(background_scales(table))
    sound = (exposure > 0) & (exposure < np.inf) & (scale >= 0) & (scale < np.inf)
    if not sound.all():
        log.warning(
            "train: %d spectra are left out because their exposure or background scale is invalid",
            (~sound).sum(),
        )
    # The broad band is null where a telescope does not cover it: then the flag alone decides.
    in_band = table["counts_b"].fill_null(1).to_numpy() > 0
    empty = pc.match_substring(table["flags"].fill_null(""), NO_COUNTS).to_numpy()
    return np.asarray(sound & in_band & ~empty)


def _fingerprint(table: pa.Table) -> str:
    """Hash the columns that affect training, in order of detection_id, block by block."""
    learned = table.select([n for n in table.column_names if n in {"detection_id", *_LEARNED}])
    digest = hashlib.sha256()
    for start in range(0, len(learned), _HASHED_AT_ONCE):
        rows = learned.slice(start, _HASHED_AT_ONCE).to_pydict()
        digest.update(json.dumps(rows, sort_keys=True).encode())
    return digest.hexdigest()[:16]
