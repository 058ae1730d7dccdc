"""What the encoder is shown of a spectrum: one normalization, for training and embedding alike."""

from __future__ import annotations

from dataclasses import dataclass

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

    `counts`, `background` (n, n_channel_bins); `exposure_s` (n,); `arf_cm2` (n, n_energy);
    `response_index` (n,) into `responses` (m, n_energy, n_channel_bins).
    """

    counts: Tensor
    background: Tensor
    exposure_s: Tensor
    arf_cm2: Tensor
    response_index: Tensor
    responses: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, rows: Tensor) -> Batch:
        """The rows of those indices, with all responses."""
        return Batch(
            self.counts[rows],
            self.background[rows],
            self.exposure_s[rows],
            self.arf_cm2[rows],
            self.response_index[rows],
            self.responses,
        )


def prepare(spectra: SpectraBatch, device: torch.device | str = "cpu") -> Batch:
    """Tensors of a batch, its background made smooth and free of zeros (`smooth_background`)."""
    scale = torch.from_numpy(spectra.background_scale)[:, None]
    measured = torch.from_numpy(spectra.background_counts)
    background = torch.where(scale > 0, scale * smooth_background(measured), 0.0)
    return Batch(
        counts=torch.from_numpy(spectra.counts).to(device),
        background=background.to(device),
        exposure_s=torch.from_numpy(spectra.exposure_s).to(device),
        arf_cm2=torch.from_numpy(spectra.arf_cm2).to(device),
        response_index=torch.from_numpy(spectra.response_index).to(device),
        responses=torch.from_numpy(spectra.responses).to(device),
    )


def smooth_background(counts: Tensor) -> Tensor:
    """Expected counts of the background region from its measured ones, (n, bins), never zero.

    A narrow Gaussian average where the counts under it are many, a wide one where they are few,
    blended by their number; the narrow one keeps the instrument's fluorescence lines.
    """
    floor = _FLOOR_COUNTS / counts.shape[-1]
    narrow, kernel_sum_of_squares = _gaussian_average(counts, _NARROW_BINS)
    wide, _ = _gaussian_average(counts, _WIDE_BINS)
    counts_under_narrow = narrow / kernel_sum_of_squares
    trust = counts_under_narrow / (counts_under_narrow + _NARROW_WORTH_COUNTS)
    return trust * narrow + (1.0 - trust) * wide + floor


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


def _gaussian_average(counts: Tensor, sigma_bins: float) -> tuple[Tensor, float]:
    reach = int(4 * sigma_bins) + 1
    offsets = torch.arange(-reach, reach + 1, dtype=counts.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_bins) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(counts[:, None], (reach, reach), mode="reflect")
    smooth = functional.conv1d(padded, kernel[None, None])[:, 0]
    return smooth, float((kernel**2).sum())
