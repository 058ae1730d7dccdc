"""Define the energy and channel grid that spectra, responses and models share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NATIVE_CHANNELS = 1024
"""Number of channels of an ACIS PI spectrum; the first is channel 1."""

CHANNEL_WIDTH_KEV = 0.0146
"""Nominal width of an ACIS PI channel."""


@dataclass(frozen=True)
class Grid:
    """Energy bins of the photon flux and channel bins of the counts.

    `n_energy` energy bins of equal width cover `energy_lo_kev` to `energy_hi_kev`. Each of the
    `n_channel_bins` channel bins sums `channels_per_bin` native PI channels, beginning with
    `first_channel` (the first native channel is 1). The default channel bins cover 0.496-7.972 keV;
    whole channels are summed, without interpolation, so that Poisson counts stay Poisson.
    """

    energy_lo_kev: float = 0.3
    energy_hi_kev: float = 9.3
    n_energy: int = 450
    first_channel: int = 35
    channels_per_bin: int = 2
    n_channel_bins: int = 256

    @property
    def energy_edges_kev(self) -> npt.NDArray[np.float64]:
        """Edges of the energy bins, (n_energy + 1,), keV."""
        return np.linspace(self.energy_lo_kev, self.energy_hi_kev, self.n_energy + 1)

    @property
    def energy_mid_kev(self) -> npt.NDArray[np.float64]:
        """Centers of the energy bins, (n_energy,), keV."""
        edges = self.energy_edges_kev
        return 0.5 * (edges[1:] + edges[:-1])

    @property
    def energy_width_kev(self) -> float:
        """Width of an energy bin, keV."""
        return (self.energy_hi_kev - self.energy_lo_kev) / self.n_energy

    @property
    def channel_edges_kev(self) -> npt.NDArray[np.float64]:
        """Nominal energies at the edges of the channel bins, (n_channel_bins + 1,), keV."""
        first = self.first_channel - 1 + self.channels_per_bin * np.arange(self.n_channel_bins + 1)
        return np.asarray(first * CHANNEL_WIDTH_KEV, dtype=np.float64)

    @property
    def channel_mid_kev(self) -> npt.NDArray[np.float64]:
        """Nominal energies at the centers of the channel bins, (n_channel_bins,), keV."""
        edges = self.channel_edges_kev
        return 0.5 * (edges[1:] + edges[:-1])

    def bin_channels(self, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum native channels (..., 1024) into channel bins (..., n_channel_bins)."""
        start = self.first_channel - 1
        stop = start + self.channels_per_bin * self.n_channel_bins
        kept = counts[..., start:stop]
        binned: npt.NDArray[Any] = kept.reshape(
            *counts.shape[:-1], self.n_channel_bins, self.channels_per_bin
        ).sum(axis=-1)
        return binned
