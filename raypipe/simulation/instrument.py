"""Define instruments, which turn photons into counts: effective area, redistribution, fold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import sparse

from raypipe.physics.energy import BAND_KEV, EnergyGrid, FloatArray
from raypipe.simulation.measured_background import MeasuredBackground
from raypipe.spectra.channel_bins import ACIS_CHANNELS

VIGNETTING_LOSS = 0.0025
"""Loss of area per arcmin^2 below 3 keV."""
VIGNETTING_HARDNESS = ((3.0, 1.0), (4.0, 1.4), (5.0, 2.5), (6.0, 3.6), (7.0, 4.8), (8.0, 5.5))
"""How much more is lost at higher energies (keV), where only small grazing angles reflect."""

_ROWS_AT_ONCE = 256
"""Energy bins whose overlaps with a grid are computed at once, to bound memory."""


@dataclass(frozen=True, eq=False)
class Instrument:
    """Describe a detector at one epoch, on axis.

    `energy_edges_kev` (m + 1,), `area_cm2` (m,), `redistribution` (m, n) with the probability that
    a photon of energy bin m is counted in channel n, `channel_energy_kev` (n, 2). `detnam` names
    the chip, `back_illuminated` says its kind, `year` the epoch. Where `vignettes`, sources lie off
    axis and lose area; the area of a response made for one position holds that loss already.
    `telescope` and `camera` are TELESCOP and INSTRUME, channels are numbered from `first_channel`,
    and `background` is what the telescope measured, where that is known.
    """

    name: str
    detnam: str
    back_illuminated: bool
    year: float
    energy_edges_kev: FloatArray
    area_cm2: FloatArray
    redistribution: sparse.csr_array
    channel_energy_kev: FloatArray
    vignettes: bool = True
    telescope: str = "CHANDRA"
    camera: str = "ACIS"
    first_channel: int = 1
    background: MeasuredBackground | None = None

    @property
    def mission(self) -> str:
        """Name the telescope with its camera, as "XMM EPN"."""
        return f"{self.telescope} {self.camera}"

    @property
    def is_acis(self) -> bool:
        """Tell whether the instrument is ACIS with the channels of its PI spectra."""
        is_named = self.telescope == "CHANDRA" and self.camera.startswith("ACIS")
        return is_named and len(self.channel_energy_kev) == ACIS_CHANNELS

    @property
    def energy_mid_kev(self) -> FloatArray:
        """Return the middles of the energy bins, (m,), keV."""
        return 0.5 * (self.energy_edges_kev[1:] + self.energy_edges_kev[:-1])

    @property
    def channels_in_band(self) -> npt.NDArray[np.bool_]:
        """Return which channels have their middle in the broad band, (n,)."""
        middle = self.channel_energy_kev.mean(axis=1)
        return (middle >= BAND_KEV[0]) & (middle < BAND_KEV[1])


def vignetting(energy_kev: FloatArray, off_axis_arcmin: FloatArray) -> FloatArray:
    """Return the share of the on-axis area left off axis: (B, m) for angles (B,).

    The loss grows with the square of the angle, several times faster for hard photons; its size
    is that of areas in the Chandra Source Catalog 9 arcmin off axis.
    """
    hardness = np.interp(energy_kev, *np.transpose(VIGNETTING_HARDNESS))
    loss = VIGNETTING_LOSS * np.multiply.outer(np.square(off_axis_arcmin), hardness)
    remaining: FloatArray = 1 / (1 + loss)
    return remaining


def effective_area(
    instrument: Instrument, off_axis_arcmin: FloatArray, psf_fraction: FloatArray
) -> npt.NDArray[np.float32]:
    """Return each detection's effective area on the instrument's bins, cm2: (B, m) float32."""
    area = instrument.area_cm2 * psf_fraction[:, None]
    if instrument.vignettes:
        area = area * vignetting(instrument.energy_mid_kev, off_axis_arcmin)
    return area.astype(np.float32)


def fold(
    instrument: Instrument, grid: EnergyGrid, flux: FloatArray, area_cm2: npt.NDArray[np.float32]
) -> FloatArray:
    """Return expected counts per second and channel, (B, n).

    `flux` (B, grid.n) is in photon/cm2/s/keV on the source grid, `area_cm2` (B, m) on the
    instrument's own bins.
    """
    photons = flux * grid.width_kev
    if not _same_bins(instrument, grid):
        photons = (_rebinning(instrument, grid) @ photons.T).T
    detected: FloatArray
    if instrument.is_acis:
        detected = (photons * area_cm2) @ instrument.redistribution
    else:
        matrix = _dense_rows(instrument, grid)
        reached = len(matrix)
        detected = np.asarray(
            (photons * area_cm2)[:, :reached].astype(np.float32) @ matrix, dtype=float
        )
    return detected


@lru_cache(maxsize=64)
def _dense_rows(instrument: Instrument, grid: EnergyGrid) -> npt.NDArray[np.float32]:
    """Return the rows of the redistribution that begin within the grid, dense.

    A tenth to all of the elements of such matrices are filled: for tens of fluxes at once a dense
    product in single precision takes a fraction of the time of a sparse one.
    """
    reached = int(np.searchsorted(instrument.energy_edges_kev[:-1], grid.hi_kev))
    rows: npt.NDArray[np.float32] = instrument.redistribution[:reached].toarray()
    return rows


def _same_bins(instrument: Instrument, grid: EnergyGrid) -> bool:
    edges = instrument.energy_edges_kev
    return len(edges) == grid.n + 1 and np.allclose(edges, grid.edges_kev, rtol=0, atol=1e-5)


@lru_cache(maxsize=64)
def _rebinning(instrument: Instrument, grid: EnergyGrid) -> sparse.csr_array:
    """Return the share of each source-grid bin's photons in each instrument bin, (m, grid.n)."""
    edges = instrument.energy_edges_kev
    blocks = [
        _shares(edges[start : start + _ROWS_AT_ONCE + 1], grid)
        for start in range(0, len(edges) - 1, _ROWS_AT_ONCE)
    ]
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _shares(edges_kev: FloatArray, grid: EnergyGrid) -> sparse.csr_array:
    lower = np.maximum(grid.edges_kev[None, :-1], edges_kev[:-1, None])
    upper = np.minimum(grid.edges_kev[None, 1:], edges_kev[1:, None])
    share = np.clip(upper - lower, 0.0, None) / grid.width_kev
    share[share < 1e-4] = 0.0
    return sparse.csr_array(share)
