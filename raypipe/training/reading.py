"""Read spectra from the workspace into memory, part by part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raypipe.errors import RaypipeError
from raypipe.model.channel_axes import ChannelAxes
from raypipe.spectra.batch import stack_responses
from raypipe.spectra.decoding import COLUMNS, DecodedSpectra, SpectraDecoder
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace
from raypipe.training.compact import CompactSpectra, compact_area, compact_counts
from raypipe.training.data import Roster

Rows = npt.NDArray[np.int64]


class PartReader:
    """Read spectra of a roster, one part file at a time, and keep one copy of each response."""

    def __init__(self, workspace: Workspace, roster: Roster, device: torch.device) -> None:
        self.workspace, self.roster, self.device = workspace, roster, device
        self._decoder = SpectraDecoder(ResponseLibrary(workspace))
        self._responses = torch.from_numpy(stack_responses([])).to(device)
        self._axes = ChannelAxes.of([], device)

    def read(self, rows: Rows) -> CompactSpectra:
        """Read rows of the roster, in the given order, to the device.

        Rows must be sorted by part, as `Roster.rows` returns them. Each part file is compacted
        before the next is opened. `response_index` stays on the host, as in `Batch`. Raises
        RaypipeError if a row is missing or has values that are not finite.
        """
        pieces = [self._read_part(part) for part in self.by_part(rows)]
        if not pieces:
            pieces = [self._read_part(rows)]
        return CompactSpectra.join(pieces, self._responses, self._axes)

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
        decoded = self._decoder.decode(table)
        self._require_finite(table, decoded, name)
        self._add_responses()
        return CompactSpectra(
            counts=compact_counts(torch.from_numpy(decoded.counts)).to(self.device),
            background_counts=compact_counts(torch.from_numpy(decoded.background_counts)).to(
                self.device
            ),
            background_scale=torch.from_numpy(decoded.background_scale_by_bin).to(self.device),
            exposure_s=torch.from_numpy(decoded.exposure_s).to(self.device),
            arf_cm2=compact_area(torch.from_numpy(decoded.arf_cm2)).to(self.device),
            response_index=torch.from_numpy(decoded.response_index.astype(np.int32)),
            responses=self._responses,
            axes=self._axes,
        )

    def _add_responses(self) -> None:
        """Add the responses that the decoder has met since the last call."""
        responses = self._decoder.responses
        new = responses[len(self._responses) :]
        if new:
            stacked = torch.from_numpy(stack_responses(new)).to(self.device)
            self._responses = torch.cat([self._responses, stacked])
            self._axes = ChannelAxes.of([each.bins for each in responses], self.device)

    def _require_finite(self, table: pa.Table, decoded: DecodedSpectra, name: str) -> None:
        """Refuse exposures and areas that are not finite, before the loss suffers from them."""
        columns = {"exposure_s": decoded.exposure_s[:, None], "arf_cm2": decoded.arf_cm2}
        for column, values in columns.items():
            bad = np.flatnonzero(~np.isfinite(values).all(-1))
            if len(bad):
                first = table["detection_id"][int(bad[0])].as_py()
                raise RaypipeError(
                    f"{self.workspace.absolute_uri(name)}: {column} of {first} is not finite "
                    f"({len(bad)} rows); "
                    "run ingest again with correct files, or leave these detections out"
                )
