"""Read the stored spectra of aligned detections, as far as they fit into memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa

from raypipe.aligning.pairs import Pairs
from raypipe.aligning.tune import PairedSpectra
from raypipe.errors import RaypipeError, UsageError
from raypipe.model.features import prepare
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import MOST_BINS
from raypipe.spectra.decoding import COLUMNS
from raypipe.spectra.detection_rows import iterate_spectra
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import spectra_folder
from raypipe.store.workspace import Workspace

_TELESCOPE = ["telescope", "instrument"]
_FLOAT_BYTES = 4
_ARRAYS_OF_BINS = 6
"""Arrays with a number per channel bin of each spectrum: those of a Batch, and their sources."""
_COPIES = 2
"""Copies of arrays that are in memory together: of all spectra, and of the parts of the split."""
_SHARE_OF_MEMORY = 0.5
"""Share of the free memory for spectra; the network's steps use the rest."""


@dataclass(frozen=True)
class Origin:
    """Count the telescopes and the different responses of spectra."""

    telescopes: dict[str, int]
    responses: int


def read_paired_spectra(
    workspace: Workspace, release: str, pairs: Pairs, detection_ids: list[str]
) -> tuple[PairedSpectra, Origin]:
    """Read the spectra of these detections, which are those of the pairs, in their order.

    Raises UsageError if a spectrum is not in the workspace, and RaypipeError if they do not fit
    into half of the free memory.
    """
    table = _read(workspace, release, detection_ids)
    batch = prepare(SpectraBatch.from_table(table, ResponseLibrary(workspace)))
    names = [name for name in _TELESCOPE if name in table.column_names]
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    telescopes = Counter(" ".join(filter(None, row)) or "unknown" for row in rows)
    origin = Origin(dict(sorted(telescopes.items())), len(set(table["rmf_id"].to_pylist())))
    return PairedSpectra(pairs, batch), origin


def _read(workspace: Workspace, release: str, detection_ids: list[str]) -> pa.Table:
    folder = workspace.absolute_uri(spectra_folder(release))
    names = _rows_with_responses(workspace, release, detection_ids)
    if missing := [name for name in detection_ids if name not in names]:
        raise UsageError(
            f"{folder}: no spectrum of {missing[0]}, nor of {len(missing) - 1} others among the "
            f"{len(detection_ids)} detections with a view; --finetune needs them: run raypipe "
            "ingest again"
        )
    grid = EnergyGrid()
    row_bytes = _FLOAT_BYTES * (_ARRAYS_OF_BINS * MOST_BINS + grid.n_energy)
    response_bytes = _FLOAT_BYTES * MOST_BINS * grid.n_energy
    needed = _COPIES * len(names) * row_bytes + len(set(names.values())) * response_bytes
    _require_room(folder, needed, len(names))
    parts: list[pa.Table] = []
    columns = [*COLUMNS, *_TELESCOPE]
    for part in iterate_spectra(workspace, release, detection_ids, columns):
        parts.append(part.combine_chunks())
        rows = sum(map(len, parts))
        tables = sum(each.nbytes for each in parts) * len(names) // max(rows, 1)
        _require_room(folder, needed + tables, len(names))
    table = pa.concat_tables(parts, promote_options="permissive")
    place = {name: row for row, name in enumerate(table["detection_id"].to_pylist())}
    return table.take(np.array([place[name] for name in detection_ids]))


def _rows_with_responses(
    workspace: Workspace, release: str, detection_ids: list[str]
) -> dict[str, str]:
    """Return the id of the response of each of the detections that has a spectrum."""
    found: dict[str, str] = {}
    for part in iterate_spectra(workspace, release, detection_ids, ["rmf_id"]):
        found |= dict(
            zip(part["detection_id"].to_pylist(), part["rmf_id"].to_pylist(), strict=True)
        )
    return found


def _require_room(folder: str, needed: int, spectra: int) -> None:
    room = int(psutil.virtual_memory().available * _SHARE_OF_MEMORY)
    if needed > room:
        raise RaypipeError(
            f"{folder}: the {spectra:,} spectra with a view need {needed / 1e9:.3g} GB, and "
            f"{room / 1e9:.3g} GB are free for them; use a machine with more memory, or a table "
            "with fewer rows"
        )
