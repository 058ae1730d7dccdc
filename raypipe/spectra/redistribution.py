"""Put an RMF of any telescope on the energy grid and in channel bins chosen for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from raypipe.errors import OgipError
from raypipe.ogip import Rmf
from raypipe.spectra.channel_bins import ChannelBins, channel_bins_of
from raypipe.spectra.grid import EnergyGrid

Single = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

MOST_EFFICIENCY = 1.1
"""Largest sum of an RMF's row that counts as a probability: rows of real ones reach 1.01."""

BROAD_BAND_KEV = (0.5, 7.0)
"""The CSC's broad band, which a response for a zone has to cover."""

_DENSE_ELEMENTS = 4096 * 1024
"""Most elements of a file's matrix, cut to the grid, that are made dense: 32 MB."""

_CACHED_BINS = 50_000
_ID_LENGTH = 16
_REACH_FWHM = 1.5
_ACIS_REACH_KEV = (0.3, 9.3)


def overlap_shares(
    lo: npt.NDArray[np.float64], hi: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> sparse.csr_array:
    """Compute the share of each model bin that each bin of a file covers, (model bins, file bins).

    Rows sum to 1 if the file's bins cover the whole model bin.
    """
    first = np.clip(np.searchsorted(edges, lo, side="right") - 1, 0, len(edges) - 2)
    last = np.clip(np.searchsorted(edges, hi, side="left") - 1, 0, len(edges) - 2)
    spans = last - first + 1
    source = np.repeat(np.arange(len(lo)), spans)
    offsets = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
    target = np.repeat(first, spans) + offsets
    width = np.minimum(hi[source], edges[target + 1]) - np.maximum(lo[source], edges[target])
    share = np.clip(width, 0.0, None) / (edges[target + 1] - edges[target])
    return sparse.csr_array((share, (target, source)), shape=(len(edges) - 1, len(lo)))


class Overlap(NamedTuple):
    """Hold the share (n_energy, m) of each grid bin that each of a file's m bins covers.

    `begin`, `end`: places of the file's first bin that reaches the grid and of the one after the
    last; `shares` has only those. `covered` (n_energy,): the sum of a bin's shares.
    """

    shares: sparse.csr_array
    begin: int
    end: int
    covered: Floats


def overlap_of(lo: Floats, hi: Floats, grid: EnergyGrid) -> Overlap:
    """Return how a file's energy bins, keV, overlap the grid's, from a cache if possible."""
    overlap = _overlap_of if len(lo) <= _CACHED_BINS else _overlap_of.__wrapped__
    return overlap(
        np.ascontiguousarray(lo, np.float64).tobytes(),
        np.ascontiguousarray(hi, np.float64).tobytes(),
        grid,
    )


@lru_cache(maxsize=32)
def _overlap_of(lo: bytes, hi: bytes, grid: EnergyGrid) -> Overlap:
    low, high, edges = np.frombuffer(lo), np.frombuffer(hi), grid.edges_kev
    begin = int(np.searchsorted(high, edges[0], side="right"))
    end = int(np.searchsorted(low, edges[-1], side="left"))
    if end <= begin:
        begin = end = 0
        return Overlap(sparse.csr_array((grid.n_energy, 0)), 0, 0, np.zeros(grid.n_energy))
    shares = overlap_shares(low[begin:end], high[begin:end], edges)
    return Overlap(shares, begin, end, np.asarray(shares.sum(axis=1)))


def efficiency_on_grid(rmf: Rmf, grid: EnergyGrid) -> Floats:
    """Compute the probability that a photon is counted in any native channel, (n_energy,).

    It is the mean over each energy bin of the sums of the file's rows. It is at most about 1, or
    the effective area in cm2 if the matrix includes the area.
    """
    overlap = overlap_of(rmf.energy_lo_kev, rmf.energy_hi_kev, grid)
    sums = rmf.matrix[overlap.begin : overlap.end].sum(axis=1, dtype=np.float64)
    return np.asarray(overlap.shares @ np.asarray(sums), dtype=np.float64)


def in_broad_band(response: npt.NDArray[Any], grid: EnergyGrid) -> npt.NDArray[Any]:
    """Return the part of an area or efficiency (n_energy,) that lies in the CSC's broad band."""
    low, high = BROAD_BAND_KEV
    return response[(grid.mid_kev > low) & (grid.mid_kev < high)]


def redistribution_on_grid(
    rmf: Rmf, grid: EnergyGrid, bins: ChannelBins, path: str, areascal: Floats | None = None
) -> Single:
    """Compute the probability that a photon lands in each channel bin, (n_energy, n_bins).

    It is the mean of the file's rows over each energy bin, with native channels summed into channel
    bins. If the matrix includes the effective area, it is divided by the area, which
    `efficiency_on_grid` returns. If AREASCAL differs by channel, `areascal` (n_channels,)
    multiplies the columns before they are summed, so that it is right for each channel. Raises
    OgipError, naming `path`, if the RMF has negative values, rows that sum to more than a
    probability can, no energy bin on the grid, or nothing in the channel bins.
    """
    if rmf.matrix.nnz and rmf.matrix.data.min() < 0:
        raise OgipError(path, "the RMF has negative probabilities: make it again")
    overlap = overlap_of(rmf.energy_lo_kev, rmf.energy_hi_kev, grid)
    efficiency = efficiency_on_grid(rmf, grid)
    if not rmf.includes_area and efficiency.max() > MOST_EFFICIENCY:
        raise OgipError(
            path,
            f"rows of the RMF sum to {efficiency.max():g}, where probabilities sum to 1: make it "
            "again, or set HDUCLAS3 to FULL if the matrix includes the effective area",
        )
    matrix = rmf.matrix
    if areascal is not None:
        scaled = matrix.data * areascal[matrix.indices]
        matrix = sparse.csr_array((scaled, matrix.indices, matrix.indptr), shape=matrix.shape)
    redistribution = overlap.shares @ _in_channel_bins(matrix, overlap, bins)
    if sparse.issparse(redistribution):
        redistribution = redistribution.toarray()
    if rmf.includes_area:
        redistribution /= np.where(efficiency > 0, efficiency, 1.0)[:, None]
    gridded: Single = np.asarray(redistribution).astype(np.float32)
    if not gridded.any():
        edges = grid.edges_kev
        raise OgipError(
            path,
            f"the RMF leads no photon of {edges[0]:g} to {edges[-1]:g} keV into the model's "
            f"channels ({bins.lo_kev[0]:.2g}-{bins.hi_kev[-1]:.2g} keV): make it again",
        )
    return gridded


def _in_channel_bins(matrix: sparse.csr_array, overlap: Overlap, bins: ChannelBins) -> Any:
    """Sum native channels of the rows that reach the grid into channel bins, (rows, n_bins).

    A matrix of usual size is made dense, which is faster than a sparse product. A larger one stays
    sparse, because its dense form could fill the memory. Both give the same bits, because channels
    are summed in order.
    """
    rows = matrix
    if overlap.begin > 0 or overlap.end < matrix.shape[0]:
        rows = matrix[overlap.begin : overlap.end]
    begin, end = int(bins.first[0]), int(bins.first[-1])
    if rows.shape[0] * rows.shape[1] > _DENSE_ELEMENTS:
        places = np.repeat(np.arange(len(bins)), np.diff(bins.first))
        where = np.ones(end - begin), (np.arange(begin, end), places)
        return rows @ sparse.csr_array(where, shape=(matrix.shape[1], len(bins)))
    native = rows.toarray()[:, begin:end]
    first, sizes = bins.first[:-1] - begin, np.diff(bins.first)
    binned = np.zeros((len(native), len(bins)))
    most = int(sizes.max())
    for place in range(most):
        if sizes.min() == most:  # views are faster than the places of channels
            binned += native[:, place::most]
        else:
            longer = sizes > place
            binned[:, longer] += native[:, first[longer] + place]
    return binned


@dataclass(frozen=True, eq=False)
class GriddedResponse:
    """Hold a response on the energy grid.

    `redistribution` (n_energy, n_bins) float32; `bins`: its channel bins; `area_cm2` (n_energy,):
    the area that a matrix with the area in it was divided by, else None.
    """

    redistribution: Single
    bins: ChannelBins
    area_cm2: Floats | None = None

    @cached_property
    def rmf_id(self) -> str:
        """Return the name of the response: a hash of its redistribution and channel bins."""
        digest = hashlib.sha256(np.ascontiguousarray(self.redistribution).data)
        for part in self.bins.parts():
            digest.update(np.ascontiguousarray(part).data)
        digest.update(f"{self.bins.n_channels}|{self.bins.is_acis}".encode())
        return digest.hexdigest()[:_ID_LENGTH]


def put_rmf_on_grid(
    rmf: Rmf,
    grid: EnergyGrid,
    path: str,
    bins: ChannelBins | None = None,
    areascal: Floats | None = None,
) -> GriddedResponse:
    """Put an RMF, or an RSP that includes the area, on the energy grid and in channel bins.

    `bins` are given for a spectrum with fewer channels than the response, `areascal` for one with
    an AREASCAL that differs by channel. Raises what `redistribution_on_grid` and `channel_bins_of`
    do.
    """
    bins = channel_bins_of(rmf, path) if bins is None else bins
    redistribution = redistribution_on_grid(rmf, grid, bins, path, areascal)
    area = efficiency_on_grid(rmf, grid) if rmf.includes_area else None
    return GriddedResponse(redistribution, bins, area)


def reach_kev(bins: ChannelBins) -> tuple[float, float]:
    """Return the energies, keV, that an ARF has to cover for the channel bins to be predicted.

    They extend from 1.5 FWHM below the first bin to 1.5 FWHM above the last; for ACIS, from 0.3 to
    9.3 keV.
    """
    if bins.is_acis:
        return _ACIS_REACH_KEV
    low = bins.lo_kev[0] - _REACH_FWHM * bins.fwhm_kev[0]
    return float(low), float(bins.hi_kev[-1] + _REACH_FWHM * bins.fwhm_kev[-1])


def is_covered(overlap: Overlap, grid: EnergyGrid, reach: tuple[float, float]) -> bool:
    """Tell whether a file's energy bins cover 99% of each of the grid's bins within `reach`."""
    low, high = max(reach[0], grid.edges_kev[0]), min(reach[1], grid.edges_kev[-1])
    needed = (grid.mid_kev > low) & (grid.mid_kev < high)
    return bool((overlap.covered[needed] >= 0.99).all())


def beyond_share(rmf: Rmf, area_cm2: Floats, grid: EnergyGrid, bins: ChannelBins) -> float:
    """Compute the largest share of a channel bin's counts that come from above the grid.

    The spectrum is a power law of photon index 1, seen through `area_cm2` (m,), the area on the
    RMF's energy bins, which is 1 if the matrix includes it. If the share is above 0.001, part of
    the spectrum is not predicted: NuSTAR has 0.015, cameras at most 0.0001.
    """
    low, high = rmf.energy_lo_kev, rmf.energy_hi_kev
    photons = np.log(high / np.maximum(low, 1e-2 * high)) * area_cm2
    counts = bins.bin_counts(rmf.fold(photons))
    beyond = bins.bin_counts(rmf.fold(np.where(low >= grid.edges_kev[-1], photons, 0.0)))
    seen = counts > 1e-3 * counts.max()
    return float((beyond[seen] / counts[seen]).max(initial=0.0))
