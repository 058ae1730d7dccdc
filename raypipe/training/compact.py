"""Store spectra compactly: counts as small integers, effective areas in half precision."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from raypipe.model.features import Batch, as_batch

_LARGEST_HALF = 6e4


@dataclass(frozen=True)
class CompactSpectra:
    """Spectra on the model's grid, n rows, in compact types.

    `counts` and `background_counts` (n, n_channel_bins) are int16, or int32 if a count needs it;
    `background_scale` and `exposure_s` (n,) float32; `arf_cm2` (n, n_energy) float16, with a
    relative rounding error below 5e-4 (float32 if an area is too large); `response_index` (n,)
    int32 is an index into `responses` (m, n_energy, n_channel_bins) float32, which all pieces
    share. As in `Batch`, everything except `response_index` may be on another device.
    """

    counts: Tensor
    background_counts: Tensor
    background_scale: Tensor
    exposure_s: Tensor
    arf_cm2: Tensor
    response_index: Tensor
    responses: Tensor

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
        )

    def rows(self, rows: Tensor) -> CompactSpectra:
        """Return rows in compact form; `rows` is on the host."""
        return replace(self, **{name: value[rows] for name, value in self._by_row().items()})

    @classmethod
    def join(cls, pieces: list[CompactSpectra], responses: Tensor) -> CompactSpectra:
        """Concatenate pieces that share `responses`; empties the list of pieces.

        Columns are concatenated one at a time, so that at most one of them is in memory twice.
        """
        columns = {}
        by_piece = [piece._by_row() for piece in pieces]
        pieces.clear()
        for name in list(by_piece[0]):
            columns[name] = torch.cat([columns_of.pop(name) for columns_of in by_piece])
        return cls(**columns, responses=responses)

    def _by_row(self) -> dict[str, Tensor]:
        names = (each.name for each in fields(self) if each.name != "responses")
        return {name: getattr(self, name) for name in names}


def compact_counts(counts: Tensor) -> Tensor:
    """Convert counts to int16, or to int32 if one is too large."""
    fits = counts.numel() == 0 or int(counts.max()) <= torch.iinfo(torch.int16).max
    return counts.to(torch.int16 if fits else torch.int32)


def compact_area(arf_cm2: Tensor) -> Tensor:
    """Convert effective areas, cm2, to float16, or to float32 if one is too large."""
    fits = arf_cm2.numel() == 0 or float(arf_cm2.max()) <= _LARGEST_HALF
    return arf_cm2.to(torch.float16 if fits else torch.float32)
