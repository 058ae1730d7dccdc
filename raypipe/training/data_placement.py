"""Decide whether a worker's spectra stay in memory or are read again in each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psutil
import torch
import torch.distributed as dist

from raypipe.config import TrainConfig
from raypipe.training.batch_streams import BatchStream, FileStream, ResidentStream
from raypipe.training.reading import PartReader, Rows

_SHARE_OF_MEMORY = 0.5
"""Fraction of a device's free memory for spectra; the model and temporary arrays use the rest."""


@dataclass(frozen=True)
class DataPlacement:
    """Hold a decision with its reasons: bytes per row, number of rows, available bytes."""

    name: Literal["resident", "stream"]
    row_bytes: int
    rows: int
    room_bytes: int

    @property
    def text(self) -> str:
        """Return the decision in words."""
        what = "kept in memory" if self.name == "resident" else "read again in each epoch"
        size_mb, room_mb = self.rows * self.row_bytes / 1e6, self.room_bytes / 1e6
        return (
            f"spectra are {what}: those of the first worker take {size_mb:,.1f} MB, "
            f"and {room_mb:,.0f} MB are free for them"
        )


def open_stream(
    reader: PartReader, shares: list[Rows], config: TrainConfig, workers_here: int
) -> tuple[DataPlacement, list[BatchStream]]:
    """Open a stream for each share of a worker, and decide whether spectra stay in memory.

    All workers make the same decision. `workers_here` is the number of workers on this machine.
    With `train.data = "auto"`, spectra stay in memory if those of every worker fit in half of its
    free memory.
    """
    rows = sum(map(len, shares))
    sample = next(reader.by_part(shares[0]))
    row_bytes = reader.read(sample).row_bytes
    room = int(_free_bytes(reader.device, workers_here) * _SHARE_OF_MEMORY)
    name = config.data if config.data != "auto" else _fitting(row_bytes * rows, room, reader.device)
    placement = DataPlacement(name, row_bytes, rows, room)
    if name == "resident":
        return placement, [ResidentStream(reader.read(share)) for share in shares]
    return placement, [FileStream(reader, share, config.stream_rows) for share in shares]


def _fitting(needed: int, room: int, device: torch.device) -> Literal["resident", "stream"]:
    """Decide to keep the spectra in memory if they fit on every worker."""
    fits = torch.tensor(float(needed <= room), device=device)
    if dist.is_initialized():
        dist.all_reduce(fits, dist.ReduceOp.MIN)
    return "resident" if fits > 0 else "stream"


def _free_bytes(device: torch.device, workers_here: int) -> int:
    """Return the free memory of this worker: of its GPU, or its part of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available // workers_here)
