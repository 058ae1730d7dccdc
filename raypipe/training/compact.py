"""Store spectra compactly: counts as small integers, effective areas in half precision."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.features import Batch, as_batch

_LARGEST_HALF = 6e4
_SHARED = ("responses", "axes")
"""Fields that all rows share."""


@dataclass(frozen=True)
class CompactSpectra:
    """Hold n spectra in channel bins and on the energy grid, in compact types.

    `counts` and `background_counts` (n, bins) are int16, or int32 if a count needs it;
    `background_scale` (n, 1), or (n, bins) where it differs by channel, and `exposure_s` (n,) are
    float32; `arf_cm2` (n, n_energy) float16, with a relative rounding error below 5e-4 (float32 if
    an area is too large); `response_index` (n,) int32 points into `responses` (m, n_energy, bins)
    float32 and `axes`, their channel bins, which all pieces share. As in `Batch`, all but
    `response_index` may be on another device.
    """

    counts: Tensor
    background_counts: Tensor
    background_scale: Tensor
    exposure_s: Tensor
    arf_cm2: Tensor
    response_index: Tensor
    responses: Tensor
    axes: ChannelAxes

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def row_bytes(self) -> int:
        """Return the number of bytes per row, without the responses."""
        return sum(
            value[0].numel() * value.element_size()
            for value in self._by_row().values()
            if len(self)
        )

    def take(self, rows: Tensor) -> Batch:
        """Return rows as a batch for the model, with smoothed background; `rows` is on the host."""
        there = rows.to(self.counts.device, non_blocking=True)
        return as_batch(
            counts=self.counts[there].float(),
            background_counts=self.background_counts[there].float(),
            background_scale=self.background_scale[there],
            exposure_s=self.exposure_s[there],
            arf_cm2=self.arf_cm2[there].float(),
            response_index=self.response_index[rows].long(),
            responses=self.responses,
            axes=self.axes,
        )

    def rows(self, rows: Tensor) -> CompactSpectra:
        """Select rows and keep them compact; the indices `rows` are on the host."""
        chosen = {name: value[rows] for name, value in self._by_row().items()}
        return CompactSpectra(**chosen, responses=self.responses, axes=self.axes)

    @classmethod
    def join(
        cls, pieces: list[CompactSpectra], responses: Tensor, axes: ChannelAxes
    ) -> CompactSpectra:
        """Concatenate pieces, with responses that serve them all; empties the list of pieces.

        Columns are concatenated one at a time, so that at most one of them is in memory twice.
        """
        columns = {}
        by_piece = [piece._by_row() for piece in pieces]
        pieces.clear()
        for name in list(by_piece[0]):
            columns[name] = _joined([columns_of.pop(name) for columns_of in by_piece])
        return cls(**columns, responses=responses, axes=axes)

    def _by_row(self) -> dict[str, Tensor]:
        names = (each.name for each in fields(self) if each.name not in _SHARED)
        return {name: getattr(self, name) for name in names}


def compact_counts(counts: Tensor) -> Tensor:
    """Convert counts to int16, or to int32 if one is too large."""
    fits = counts.numel() == 0 or int(counts.max()) <= torch.iinfo(torch.int16).max
    return counts.to(torch.int16 if fits else torch.int32)


def compact_area(arf_cm2: Tensor) -> Tensor:
    """Convert effective areas, cm2, to float16, or to float32 if one is too large."""
    fits = arf_cm2.numel() == 0 or float(arf_cm2.max()) <= _LARGEST_HALF
    return arf_cm2.to(torch.float16 if fits else torch.float32)


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenate rows; columns of one value (n, 1) are repeated where others have (n, bins)."""
    widest = max((part.shape[1:] for part in parts), key=lambda shape: tuple(shape))
    return torch.cat([part.expand(len(part), *widest) for part in parts])
