"""Prepare the encoder's input from a spectrum, identically for training and embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from raypipe.spectra.batch import SpectraBatch

ARF_POINTS = 30
"""Number of energies at which the encoder sees the effective area."""

CONDITIONS = 4 + ARF_POINTS
"""Length of the conditioning vector."""

_NARROW_BINS = 1.5
"""Sigma, in channel bins of 29.2 eV, of the average that resolves fluorescence lines (44 eV)."""
_WIDE_BINS = 12.0
"""Sigma, in channel bins, of the average for sparse counts (350 eV)."""
_NARROW_WORTH_COUNTS = 20.0
"""Counts under the narrow kernel at which both averages have equal weight."""
_FLOOR_COUNTS = 0.5
"""Counts that are spread evenly over all bins, so that no bin expects zero."""


@dataclass(frozen=True)
class Batch:
    """A SpectraBatch as tensors, with the expected background in the source region.

    `counts`, `background` and `background_variance` (n, n_channel_bins); `background_scale` (n, 1);
    `exposure_s` (n,); `arf_cm2` (n, n_energy); `response_index` (n,) into `responses` (m, n_energy,
    n_channel_bins). All are on one device except `response_index`, which is on the host: rows are
    grouped by response there, without waiting for a GPU.
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
        """Select rows and keep all responses; indices on the host do not wait for a GPU."""
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
    """Make a batch from the arrays of a SpectraBatch, given as float32 tensors on their devices."""
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
    """Estimate the expected counts of the background region, and the variance of the estimate.

    Both are (n, bins). The estimate is never zero and keeps the measured total. It is a Gaussian
    average of the counts, narrow where counts are many, to keep the instrument's fluorescence
    lines, and wide where they are few. The variance is that of an average of Poisson counts, for
    each bin without the covariances.
    """
    narrow, wide = _gaussian_average(counts, _NARROW_BINS), _gaussian_average(counts, _WIDE_BINS)
    # Weight of the narrow average: its kernel covers 1 / overlap bins, so wide / overlap counts.
    trust = wide / (wide + _NARROW_WORTH_COUNTS * _overlap(_NARROW_BINS, _NARROW_BINS))
    blend = trust * narrow + (1.0 - trust) * wide
    # Mix in an even floor of half a count, and restore the measured total.
    total = counts.sum(-1, keepdim=True).clamp_min(_FLOOR_COUNTS)
    even = _FLOOR_COUNTS / (total + _FLOOR_COUNTS)
    share = blend / blend.sum(-1, keepdim=True).clamp_min(1e-12)
    share = (1.0 - even) * share + even / counts.shape[-1]
    expected = total * share / share.sum(-1, keepdim=True)
    # Variance of a weighted sum of Poisson counts: sum of weight^2 * expectation, the weight being
    # trust * narrow kernel + (1 - trust) * wide kernel.
    relative = (
        trust**2 * _overlap(_NARROW_BINS, _NARROW_BINS)
        + 2.0 * trust * (1.0 - trust) * _overlap(_NARROW_BINS, _WIDE_BINS)
        + (1.0 - trust) ** 2 * _overlap(_WIDE_BINS, _WIDE_BINS)
    )
    return expected, expected * relative


def encoder_inputs(batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute the encoder's input from a batch: features per bin, and conditions.

    Features (n, 2, bins) are the square roots of the counts and of the expected background, both as
    shares of the total counts, scaled to a root mean square near one. Conditions (n, CONDITIONS)
    are log counts, log exposure, background share, log mean area, and the area's relative deviation
    from its mean at ARF_POINTS energies.
    """
    total = batch.counts.sum(-1, keepdim=True).clamp_min(1.0)
    bins = batch.counts.shape[-1]
    features = torch.stack([batch.counts, batch.background], 1) / total[:, None]
    background_share = (batch.background.sum(-1, keepdim=True) / total).clamp(0.0, 1.5)
    area = functional.adaptive_avg_pool1d(batch.arf_cm2[:, None], ARF_POINTS)[:, 0]
    mean_area = area.mean(-1, keepdim=True).clamp_min(1e-3)
    # Offsets bring typical values near zero: 300 counts, 30 ks, 100 cm2.
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
    """Sum over bins of the product of two normalized Gaussian kernels of these widths.

    For equal kernels it is the variance of the average of counts with unit variance.
    """
    return 1.0 / math.sqrt(2.0 * math.pi * (sigma_bins**2 + other_sigma_bins**2))


def _gaussian_average(counts: Tensor, sigma_bins: float) -> Tensor:
    reach = int(4 * sigma_bins) + 1  # beyond 4 sigma the kernel is negligible
    offsets = torch.arange(-reach, reach + 1, dtype=counts.dtype, device=counts.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_bins) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(counts[:, None], (reach, reach), mode="reflect")
    return functional.conv1d(padded, kernel[None, None])[:, 0]
