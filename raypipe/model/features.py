"""What the encoder is shown of a spectrum: one normalization, for training and embedding alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from raypipe.model.batch import SpectraBatch

ARF_POINTS = 30
"""Points at which the encoder sees the effective area."""

CONDITIONS = 4 + ARF_POINTS
"""Numbers in the conditioning token."""

_NARROW_BINS = 1.5
_WIDE_BINS = 12.0
_NARROW_WORTH_COUNTS = 20.0
_FLOOR_COUNTS = 0.5


@dataclass(frozen=True)
class Batch:
    """A SpectraBatch as tensors, with the expected background in the source region.

    `counts`, `background` and its variance (n, n_channel_bins); `background_scale` (n, 1);
    `exposure_s` (n,); `arf_cm2` (n, n_energy); `response_index` (n,) into `responses`
    (m, n_energy, n_channel_bins). All are on one device but `response_index`, which is on the
    host: what folds together is decided there, without waiting for a GPU.
    """

    counts: Tensor
    background: Tensor
    background_variance: Tensor
    background_scale: Tensor
    exposure_s: Tensor
    arf_cm2: Tensor
    response_index: Tensor
    responses: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, rows: Tensor) -> Batch:
        """The rows of those indices, with all responses; indices on the host wait for no GPU."""
        there = rows.to(self.counts.device, non_blocking=True)
        return Batch(
            self.counts[there],
            self.background[there],
            self.background_variance[there],
            self.background_scale[there],
            self.exposure_s[there],
            self.arf_cm2[there],
            self.response_index[rows.cpu()],
            self.responses,
        )


def prepare(spectra: SpectraBatch, device: torch.device | str = "cpu") -> Batch:
    """Tensors of a batch, its background made smooth and free of zeros (`smooth_background`)."""

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
) -> Batch:
    """A batch of a SpectraBatch's arrays as float32 tensors on the devices of `Batch`."""
    scale = background_scale[:, None]
    expected, variance = smooth_background(background_counts)
    return Batch(
        counts=counts,
        background=scale * expected,
        background_variance=scale**2 * variance,
        background_scale=scale,
        exposure_s=exposure_s,
        arf_cm2=arf_cm2,
        response_index=response_index,
        responses=responses,
    )


def smooth_background(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Expected counts of the background region from its measured ones, and their variance.

    Both (n, bins), the first never zero and of the measured total. A narrow Gaussian average where
    counts are many, a wide one where they are few, blended by how many the wide one sees; the
    narrow one keeps the instrument's fluorescence lines. The variance is that of the averages of
    Poisson counts, each bin for itself.
    """
    narrow, wide = _gaussian_average(counts, _NARROW_BINS), _gaussian_average(counts, _WIDE_BINS)
    trust = wide / (wide + _NARROW_WORTH_COUNTS * _overlap(_NARROW_BINS, _NARROW_BINS))
    blend = trust * narrow + (1.0 - trust) * wide
    total = counts.sum(-1, keepdim=True).clamp_min(_FLOOR_COUNTS)
    even = _FLOOR_COUNTS / (total + _FLOOR_COUNTS)
    share = blend / blend.sum(-1, keepdim=True).clamp_min(1e-12)
    share = (1.0 - even) * share + even / counts.shape[-1]
    expected = total * share / share.sum(-1, keepdim=True)
    relative = (
        trust**2 * _overlap(_NARROW_BINS, _NARROW_BINS)
        + 2.0 * trust * (1.0 - trust) * _overlap(_NARROW_BINS, _WIDE_BINS)
        + (1.0 - trust) ** 2 * _overlap(_WIDE_BINS, _WIDE_BINS)
    )
    return expected, expected * relative


def encoder_inputs(batch: Batch) -> tuple[Tensor, Tensor]:
    """What the encoder reads of a batch: per-bin features and conditions.

    Features (n, 2, bins): square roots of the counts and of the expected background, both as
    shares of all counts, scaled to a root mean square near one. Conditions (n, CONDITIONS): log
    counts, log exposure, background share, log total area, and the area's shape at ARF_POINTS
    energies.
    """
    total = batch.counts.sum(-1, keepdim=True).clamp_min(1.0)
    bins = batch.counts.shape[-1]
    features = torch.stack([batch.counts, batch.background], 1) / total[:, None]
    background_share = (batch.background.sum(-1, keepdim=True) / total).clamp(0.0, 1.5)
    area = functional.adaptive_avg_pool1d(batch.arf_cm2[:, None], ARF_POINTS)[:, 0]
    mean_area = area.mean(-1, keepdim=True).clamp_min(1e-3)
    conditions = torch.cat(
        [
            torch.log10(total) - 2.5,
            torch.log10(batch.exposure_s[:, None].clamp_min(1.0)) - 4.5,
            background_share,
            torch.log10(mean_area) - 2.0,
            area / mean_area - 1.0,
        ],
        -1,
    )
    return (features * bins).sqrt(), conditions


def _overlap(sigma_bins: float, other_sigma_bins: float) -> float:
    """Sum over bins of the product of two Gaussian kernels; with itself, its average's variance."""
    return 1.0 / math.sqrt(2.0 * math.pi * (sigma_bins**2 + other_sigma_bins**2))


def _gaussian_average(counts: Tensor, sigma_bins: float) -> Tensor:
    reach = int(4 * sigma_bins) + 1
    offsets = torch.arange(-reach, reach + 1, dtype=counts.dtype, device=counts.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_bins) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(counts[:, None], (reach, reach), mode="reflect")
    return functional.conv1d(padded, kernel[None, None])[:, 0]
