"""Hold spectra as tensors with their expected background, alike for training and embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.smooth_background import smooth_background
from raypipe.spectra.batch import SpectraBatch


@dataclass(frozen=True)
class Batch:
    """Hold a SpectraBatch as tensors, with the expected background in the source region.

    `counts`, `background` and `background_variance` (n, bins), 0 in padded bins; `background_scale`
    (n, 1), or (n, bins) where it differs by channel; `exposure_s` (n,); `arf_cm2` (n, n_energy);
    `response_index` (n,) into `responses` (m, n_energy, bins), and into `axes`, their channel bins.
    All are on one device except `response_index`, which is on the host: rows are grouped by
    response there, without waiting for a GPU.
    """

    counts: Tensor
    background: Tensor
    background_variance: Tensor
    background_scale: Tensor
    exposure_s: Tensor
    arf_cm2: Tensor
    response_index: Tensor
    responses: Tensor
    axes: ChannelAxes

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def bin_lo_kev(self) -> Tensor:
        """Return the lower nominal edges of each response's bins, (m, bins), keV."""
        return self.axes.lo_kev

    @property
    def bin_hi_kev(self) -> Tensor:
        """Return the upper nominal edges of each response's bins, (m, bins), keV."""
        return self.axes.hi_kev

    @property
    def fwhm_kev(self) -> Tensor:
        """Return the FWHM of a line at each response's bins, (m, bins), keV."""
        return self.axes.fwhm_kev

    @property
    def valid(self) -> Tensor:
        """Return which bins each response has, (m, bins); the others are padding."""
        return self.axes.valid

    @property
    def response_index_there(self) -> Tensor:
        """Return `response_index`, (n,), on the device of the other tensors."""
        return self.response_index.to(self.counts.device, non_blocking=True)

    @property
    def n_bins(self) -> Tensor:
        """Return the number of channel bins of each row, (n,)."""
        return self.valid.sum(-1)[self.response_index_there]

    def take(self, rows: Tensor) -> Batch:
        """Select rows and keep all responses; indices on the host do not wait for a GPU."""
        there = rows.to(self.counts.device, non_blocking=True)
        return replace(
            self,
            counts=self.counts[there],
            background=self.background[there],
            background_variance=self.background_variance[there],
            background_scale=self.background_scale[there],
            exposure_s=self.exposure_s[there],
            arf_cm2=self.arf_cm2[there],
            response_index=self.response_index[rows.cpu()],
        )


def prepare(spectra: SpectraBatch, device: torch.device | str = "cpu") -> Batch:
    """Convert a batch to tensors, with a smooth background free of zeros (`smooth_background`)."""

    def tensor(values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return as_batch(
        counts=tensor(spectra.counts),
        background_counts=tensor(spectra.background_counts),
        background_scale=tensor(spectra.background_scale),
        exposure_s=tensor(spectra.exposure_s),
        arf_cm2=tensor(spectra.arf_cm2),
        response_index=torch.from_numpy(spectra.response_index),
        responses=tensor(spectra.responses),
        axes=ChannelAxes.of(spectra.bins, device),
    )


def as_batch(
    *,
    counts: Tensor,
    background_counts: Tensor,
    background_scale: Tensor,
    exposure_s: Tensor,
    arf_cm2: Tensor,
    response_index: Tensor,
    responses: Tensor,
    axes: ChannelAxes,
) -> Batch:
    """Make a batch from the arrays of a SpectraBatch, given as float32 tensors on their devices."""
    scale = background_scale if background_scale.ndim == 2 else background_scale[:, None]
    kinds = axes.kind[response_index]
    expected, variance = smooth_background(background_counts, kinds, axes.kernels)
    return Batch(
        counts=counts,
        background=scale * expected,
        background_variance=scale**2 * variance,
        background_scale=scale,
        exposure_s=exposure_s,
        arf_cm2=arf_cm2,
        response_index=response_index,
        responses=responses,
        axes=axes,
    )
