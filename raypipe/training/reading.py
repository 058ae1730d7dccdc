"""Read spectra from the workspace into memory, part by part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from raypipe.errors import RaypipeError
from raypipe.spectra.batch import COLUMNS, background_scales, single, vectors
from raypipe.spectra.grid import Grid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace
from raypipe.training.compact import CompactSpectra, compact_area, compact_counts
from raypipe.training.data import Roster

Rows = npt.NDArray[np.int64]


class PartReader:
    """Reads spectra of a roster, one part file at a time, and keeps one copy of each response."""

    def __init__(self, workspace: Workspace, roster: Roster, device: torch.device) -> None:
        self.workspace, self.roster, self.device = workspace, roster, device
        self._grid = Grid()
        self._library = ResponseLibrary(workspace)
        self._numbers: dict[str, int] = {}
        self._responses = torch.zeros(
            (0, self._grid.n_energy, self._grid.n_channel_bins), device=device
        )

    def read(self, rows: Rows) -> CompactSpectra:
        """Read rows of the roster, in the given order, to the device.

        Rows must be sorted by part, as `Roster.rows` returns them. Each part file is compacted
        before the next is opened. `response_index` stays on the host, as in `Batch`. Raises
        RaypipeError if a row is missing or has values that are not finite.
        """
        pieces = [self._read_part(part) for part in self.by_part(rows)]
        if not pieces:
            pieces = [self._read_part(rows)]
        return CompactSpectra.join(pieces, self._responses)

    def by_part(self, rows: Rows) -> Iterator[Rows]:
        """Yield the rows of each part file."""
        parts = self.roster.part[rows]
        yield from filter(len, np.split(rows, np.flatnonzero(np.diff(parts)) + 1))

    def _read_part(self, rows: Rows) -> CompactSpectra:
        name = self.roster.files[self.roster.part[rows[0]] if len(rows) else 0]
        ids = pa.array(self.roster.detection_ids[rows].tolist(), pa.string())
        table = self.workspace.read_table(name, ["detection_id", *COLUMNS])
        places = pc.index_in(ids, value_set=table["detection_id"].combine_chunks())
        if places.null_count:
            raise RaypipeError(
                f"{self.workspace.absolute_uri(name)} has changed during training; "
                "run the same command again"
            )
        table = table.take(places)
        self._require_finite(table, name)
        return CompactSpectra(
            counts=compact_counts(self._binned(table["counts"])).to(self.device),
            background_counts=compact_counts(self._binned(table["background_counts"])).to(
                self.device
            ),
            background_scale=torch.from_numpy(single(background_scales(table))).to(self.device),
            exposure_s=torch.tensor(
                table["exposure_s"].to_numpy(), dtype=torch.float32, device=self.device
            ),
            arf_cm2=compact_area(torch.from_numpy(vectors(table["arf_cm2"]))).to(self.device),
            response_index=self._response_index(table["rmf_id"]),
            responses=self._responses,
        )

    def _binned(self, column: pa.ChunkedArray) -> Tensor:
        return torch.from_numpy(self._grid.bin_channels(vectors(column)))

    def _response_index(self, column: pa.ChunkedArray) -> Tensor:
        names = [str(name) for name in column.to_pylist()]
        new = [name for name in dict.fromkeys(names) if name not in self._numbers]
        if new:
            loaded = [torch.from_numpy(self._library.load(name)) for name in new]
            self._numbers.update(
                {name: len(self._numbers) + place for place, name in enumerate(new)}
            )
            self._responses = torch.cat([self._responses, torch.stack(loaded).to(self.device)])
        return torch.tensor([self._numbers[name] for name in names], dtype=torch.int32)

    def _require_finite(self, table: pa.Table, name: str) -> None:
        """Raise RaypipeError for exposures and areas that are not finite."""
        columns = {
            "exposure_s": table["exposure_s"].to_numpy()[:, None],
            "arf_cm2": vectors(table["arf_cm2"]),
        }
        for column, values in columns.items():
            bad = np.flatnonzero(~np.isfinite(values).all(-1))
            if len(bad):
                first = table["detection_id"][int(bad[0])].as_py()
                raise RaypipeError(
                    f"{self.workspace.absolute_uri(name)}: {column} of {first} is not finite "
                    f"({len(bad)} rows); "
                    "run ingest again with correct files, or leave these detections out"
                )
