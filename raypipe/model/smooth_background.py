"""Smooth background spectra in energy, over channel bins of unequal widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.model.folding import redistribute
from raypipe.spectra.channel_bins import MOST_BINS, ChannelBins

Floats = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

NARROW_KEV = 0.0438
"""Least sigma of the average that resolves fluorescence lines: 1.5 bins of ACIS."""
WIDE_KEV = 0.3504
"""Least sigma of the average for sparse counts: 12 bins of ACIS."""
NARROW_FWHM = 1.0 / 3.0
"""Least sigma of the narrow average in units of the FWHM of a line, beyond ACIS."""

_NARROW_WORTH_COUNTS = 20.0
_FLOOR_COUNTS = 0.5
_CUT_SIGMA = 4.0
_TOLERANCE = 1.0 + 1e-6


@dataclass(frozen=True)
class BackgroundKernels:
    """Hold matrices that average each response's channel bins in energy, padded to equal size.

    `narrow` and `wide` (m, bins, bins): what a count in the first bin gives to the second;
    `narrow_overlap`, `mixed_overlap`, `wide_overlap` (m, bins): variance of the averages of counts
    with unit variance, and their covariance; `even` (m, bins): the share of a bin of a spectrum
    that is even in energy. All are zero where a response has no bin.
    """

    narrow: Tensor
    wide: Tensor
    narrow_overlap: Tensor
    mixed_overlap: Tensor
    wide_overlap: Tensor
    even: Tensor

    def to(self, device: torch.device | str) -> BackgroundKernels:
        """Return the kernels on another device."""
        return BackgroundKernels(*(each.to(device) for each in vars(self).values()))


def kernels_of(responses: Sequence[ChannelBins], n_bins: int = MOST_BINS) -> BackgroundKernels:
    """Make the averages of responses, whose bins are padded to `n_bins`.

    The two sigmas are 44 and 350 eV for ACIS. For others the narrow one is a third of the FWHM of a
    line where that is more than 44 eV, and the wide one is eight times as much. Counts are
    reflected at both ends, so that edges lose none.
    """
    made = [_kernels(bins, n_bins) for bins in responses]
    if not made:
        square, line = torch.zeros(0, n_bins, n_bins), torch.zeros(0, n_bins)
        return BackgroundKernels(square, square, line, line, line, line)
    stacked = [np.stack(each) for each in zip(*made, strict=True)]
    return BackgroundKernels(*(torch.from_numpy(each) for each in stacked))


def narrow_sigma_kev(bins: ChannelBins) -> Floats:
    """Return the sigma of the narrow average at each bin, (n_bins,), keV."""
    narrow = np.full(len(bins), NARROW_KEV)
    return narrow if bins.is_acis else np.maximum(narrow, NARROW_FWHM * bins.fwhm_kev)


def _kernels(bins: ChannelBins, n_bins: int) -> tuple[Single, ...]:
    parts = bins.lo_kev, bins.hi_kev, narrow_sigma_kev(bins)
    return _kernels_of(*(part.tobytes() for part in parts), n_bins)


@lru_cache(maxsize=64)
def _kernels_of(lo: bytes, hi: bytes, sigma: bytes, n_bins: int) -> tuple[Single, ...]:
    low, high, narrow = (np.frombuffer(each) for each in (lo, hi, sigma))
    middle, width = 0.5 * (low + high), high - low
    wide = narrow * (WIDE_KEV / NARROW_KEV)
    matrices = [_average(middle, width, each).T for each in (narrow, wide)]
    overlaps = [_overlap(width, *pair) for pair in ((narrow, narrow), (narrow, wide), (wide, wide))]
    short = n_bins - len(low)
    kernels = (
        *(np.pad(each, [(0, short), (0, short)]) for each in matrices),
        *(np.pad(each, (0, short)) for each in (*overlaps, width / width.sum())),
    )
    return tuple(each.astype(np.float32) for each in kernels)


def _average(middle: Floats, width: Floats, sigma: Floats) -> Floats:
    """Return the matrix (from, to) that spreads each bin's counts by a Gaussian of its sigma, keV.

    Each bin gets its width's worth of the mean density around. Beyond either end lie the mirror
    images of all bins but the last, and beyond 4 sigma and a bin the kernel is cut.
    """
    bins = len(middle)
    images = [
        (middle, width, np.arange(bins)),
        (2 * middle[0] - middle[1:], width[1:], np.arange(1, bins)),
        (2 * middle[-1] - middle[:-1], width[:-1], np.arange(bins - 1)),
    ]
    matrix, total = np.zeros((bins, bins)), np.zeros(bins)
    for at, extent, source in images:
        distance = np.abs(middle[:, None] - at)
        kernel = np.exp(-0.5 * (distance / sigma[:, None]) ** 2)
        kernel[distance > (_CUT_SIGMA * sigma + width)[:, None] * _TOLERANCE] = 0.0
        matrix[:, source] += kernel
        total += kernel @ extent
    return np.asarray(matrix * (width / total)[:, None])


def _overlap(width: Floats, sigma: Floats, other: Floats) -> Floats:
    """Integrate the product of two normalized kernels of these sigmas over bins, at most 1."""
    return np.minimum(width / np.sqrt(2.0 * math.pi * (sigma**2 + other**2)), 1.0)


def smooth_background(
    counts: Tensor, response_index: Tensor, kernels: BackgroundKernels
) -> tuple[Tensor, Tensor]:
    """Estimate the expected counts of the background region, and the variance of the estimate.

    Both are (n, bins), as `counts`; `response_index` (n,), on the host, says which response's bins
    a row has. The estimate is zero in none of them and keeps the measured total. It is a Gaussian
    average of the counts in energy, narrow where counts are many, to keep the instrument's
    fluorescence lines, and wide where they are few. The variance is that of an average of Poisson
    counts, for each bin without the covariances.
    """
    narrow = redistribute(counts, response_index, kernels.narrow)
    wide = redistribute(counts, response_index, kernels.wide)
    there = response_index.to(counts.device, non_blocking=True)
    narrow_overlap, mixed_overlap, wide_overlap, evenly = (
        each.index_select(0, there)
        for each in (
            kernels.narrow_overlap,
            kernels.mixed_overlap,
            kernels.wide_overlap,
            kernels.even,
        )
    )
    # Weight of the narrow average: its kernel covers 1 / overlap bins, so wide / overlap counts.
    trust = wide / (wide + _NARROW_WORTH_COUNTS * narrow_overlap).clamp_min(1e-30)
    blend = trust * narrow + (1.0 - trust) * wide
    # Mix in an even floor of half a count, and restore the measured total.
    total = counts.sum(-1, keepdim=True).clamp_min(_FLOOR_COUNTS)
    even = _FLOOR_COUNTS / (total + _FLOOR_COUNTS)
    share = blend / blend.sum(-1, keepdim=True).clamp_min(1e-12)
    share = (1.0 - even) * share + even * evenly
    expected = total * share / share.sum(-1, keepdim=True)
    # Variance of a weighted sum of Poisson counts: sum of weight^2 * expectation, the weight being
    # trust * narrow kernel + (1 - trust) * wide kernel.
    relative = (
        trust**2 * narrow_overlap
        + 2.0 * trust * (1.0 - trust) * mixed_overlap
        + (1.0 - trust) ** 2 * wide_overlap
    )
    return expected, expected * relative
