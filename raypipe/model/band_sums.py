"""Integrate the fluxes of posterior draws over energy bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from raypipe.errors import UsageError
from raypipe.physics.energy import ERG_PER_KEV
from raypipe.spectra.grid import EnergyGrid

Bands = Mapping[str, tuple[float, float]]
"""Energy bands by name: lower and upper edge, keV."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BandSums:
    """Hold the fluxes of draws in bands, and the mean flux density of the draws.

    `photons` (n, draws, bands) are in photon/cm2/s, `energy` (n, draws, bands) in erg/cm2/s, and
    `mean` (n, n_energy) in photon/cm2/s/keV.
    """

    photons: Tensor
    energy: Tensor
    mean: Tensor

    @classmethod
    def joined(cls, parts: list[BandSums]) -> BandSums:
        """Put rows below each other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))

    def put(self, rows: Tensor, other: BandSums) -> None:
        """Replace the rows of those indices by all rows of `other`."""
        for name, values in vars(self).items():
            values[rows] = getattr(other, name)

    def take(self, rows: Tensor) -> BandSums:
        """Select rows by index."""
        return BandSums(*(values[rows] for values in vars(self).values()))


class BandIntegrals:
    """Integrate flux densities on a grid over bands.

    The flux is constant within a bin of the grid, so that bins at the edges of a band are divided:
    `share` (n_energy, bands) is the share of each bin in each band, and no bin after the first
    `energies` lies in one. `widths_kev` (n_energy,) are
    those of the bins, of the type and on the device of the densities. Raises UsageError for a band
    outside the grid.
    """

    def __init__(self, grid: EnergyGrid, bands: Bands, widths_kev: Tensor) -> None:
        inside = band_shares(grid, bands)
        self.bands = bands
        self.share, kev = (torch.from_numpy(each).to(widths_kev) for each in inside)
        self.energies = int(torch.nonzero(self.share.any(-1))[-1]) + 1
        self._to_sums = torch.cat([self.share, kev * ERG_PER_KEV], 1) * widths_kev[:, None]

    def of(self, density: Tensor, weights: Tensor, log_scale: Tensor | None = None) -> BandSums:
        """Integrate densities (n, draws, energies) of draws with weights (n, draws).

        Each draw's density is multiplied by exp(`log_scale`), (n, draws). The last energies may be
        missing if they lie outside the bands: there the mean is zero.
        """
        energies = density.shape[-1]
        sums, weights = density @ self._to_sums[:energies], weights.to(density.dtype)
        if log_scale is not None:
            scale = torch.exp(log_scale).to(density.dtype)
            sums, weights = sums * scale[..., None], weights * scale
        photons, energy = sums.chunk(2, -1)
        mean = (weights[:, None] @ density)[:, 0]
        return BandSums(photons, energy, functional.pad(mean, (0, len(self.share) - energies)))


def band_shares(grid: EnergyGrid, bands: Bands) -> tuple[Floats, Floats]:
    """Return which share of each bin lies in each band, and the same times its energy in keV.

    Both are (n_energy, bands); the energy is the mean over the part of the bin in the band. Raises
    UsageError without bands, and for one that is empty or not within the grid.
    """
    if not bands:
        raise UsageError("no band is given; give one or more, as in {'b': (0.5, 7.0)}")
    lowest, highest = (float(edge) for edge in grid.edges_kev[[0, -1]])
    for name, edges in bands.items():
        try:
            start, end = map(float, edges)
        except (TypeError, ValueError) as error:
            raise UsageError(f"band {name}: {edges} is not a pair of energies in keV") from error
        if not lowest <= start < end <= highest:
            raise UsageError(
                f"band {name} of {start:g}-{end:g} keV: give a lower and a higher energy "
                f"within {lowest:g}-{highest:g} keV"
            )
    low, high = overlaps(grid, bands)
    share = (high - low) / grid.widths_kev[:, None]
    return share, share * 0.5 * (low + high)


def overlaps(grid: EnergyGrid, bands: Bands) -> tuple[Floats, Floats]:
    """Return the edges of the part of each bin in each band, (n_energy, bands); equal for none."""
    edges = np.array(list(bands.values()), dtype=np.float64).reshape(-1, 2)
    low = np.maximum(grid.edges_kev[:-1, None], edges[:, 0])
    return low, np.maximum(np.minimum(grid.edges_kev[1:, None], edges[:, 1]), low)
