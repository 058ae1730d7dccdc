"""Read the background that a telescope measured: its shape per channel and its rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from raypipe.ogip import Pha, Rmf
from raypipe.ogip.spectrum import channel_places
from raypipe.physics.energy import FloatArray

KERNEL_WIDTHS_KEV = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Standard deviations of the Gaussians that smooth a background, the narrowest first."""
KERNEL_COUNTS = 60.0
"""Counts under a kernel from which it is wide enough: the smoothed value is good to 13%."""
LEAST_COUNTS = 200
"""Fewest counts of a background that say enough of its shape."""


@dataclass(frozen=True, eq=False)
class MeasuredBackground:
    """Describe a measured background region.

    `rate` (n,) is in counts/s per channel and unit of BACKSCAL, smoothed; `source_backscal` is the
    BACKSCAL of the source region of the same observation.
    """

    rate: FloatArray
    source_backscal: float


def measured_background(
    spectrum: Pha, background: Pha | None, rmf: Rmf, path: str
) -> MeasuredBackground | None:
    """Return the background of a spectrum on the channels of `rmf`.

    `background` comes from a separate file; without it, the block beside the spectrum is used.
    Return None if there is no background, if it has fewer than `LEAST_COUNTS` counts or values
    that are not counts, or if exposure or scales are unusable.
    """
    region = background or spectrum.background
    if region is None or region.counts.min() < 0 or region.counts.sum() < LEAST_COUNTS:
        return None
    scale = float(np.mean(region.backscal)) * float(np.mean(region.areascal)) * region.exposure_s
    source_backscal = float(np.mean(spectrum.backscal))
    if not (0 < scale < np.inf and 0 < source_backscal < np.inf):
        return None
    counts = np.zeros(len(rmf.channels))
    counts[channel_places(region.channels, rmf, path)] = region.counts
    width = float(np.median(np.diff(rmf.channel_energy_kev, axis=1)))
    return MeasuredBackground(smoothed(counts, width) / scale, source_backscal)


def smoothed(counts: FloatArray, channel_width_kev: float) -> FloatArray:
    """Smooth counts (n,) by the narrowest of the kernels that holds enough of them at a channel.

    The sum is kept.
    """
    smooth = np.full(len(counts), counts.mean())
    for width in reversed(KERNEL_WIDTHS_KEV):
        sigma = width / channel_width_kev
        averaged = gaussian_filter1d(counts, sigma, mode="reflect")
        # 2 sqrt(pi) sigma channels of equal weight average as well as a Gaussian does.
        enough = averaged * 2 * np.sqrt(np.pi) * sigma >= KERNEL_COUNTS
        smooth = np.where(enough, averaged, smooth)
    total: FloatArray = smooth * (counts.sum() / smooth.sum())
    return total
