"""Describe the spectra on which a model is trained, for its bundle."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.catalog.split import TRAIN
from raypipe.model.training_record import TrainedOn
from raypipe.store.manifest import is_simulated
from raypipe.store.workspace import Workspace
from raypipe.training.data import Roster

_COLUMNS = ["telescope", "instrument", "rmf_id"]


def describe_training_spectra(
    workspace: Workspace, release: str, roster: Roster, counts: npt.NDArray[np.float64]
) -> TrainedOn:
    """Describe the training spectra of a roster by the spectra table of the release.

    `counts` (n,) are the counts of the training spectra in the model's channel bins, in any order.
    """
    rows = roster.rows(TRAIN)
    ids = pa.array(roster.detection_ids[rows].tolist(), pa.string())
    telescopes: Counter[str] = Counter()
    responses: set[str] = set()
    for name in roster.files:
        table = workspace.read_table(name, ["detection_id", *_COLUMNS])
        table = table.filter(pc.is_in(table["detection_id"].cast(pa.string()), value_set=ids))
        read = {each: table[each].to_pylist() for each in _COLUMNS if each in table.column_names}
        unnamed = [None] * table.num_rows
        pairs = zip(read.get("telescope", unnamed), read.get("instrument", unnamed), strict=True)
        telescopes.update(" ".join(filter(None, pair)) or "unknown" for pair in pairs)
        responses.update(filter(None, read.get("rmf_id", unnamed)))
    return TrainedOn(
        survey=release,
        simulated=is_simulated(workspace, release),
        detections=len(rows),
        sources=len(np.unique(roster.keys[rows])),
        counts=(int(counts.min()), int(counts.max())),
        responses=len(responses),
        telescopes=dict(sorted(telescopes.items())),
        classes=class_numbers(roster),
    )


def class_numbers(roster: Roster) -> dict[str, int]:
    """Count the labeled training spectra of each class."""
    labels = roster.labels[roster.rows(TRAIN)]
    return dict(sorted(Counter(str(label) for label in labels if label).items()))
