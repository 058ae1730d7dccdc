"""Define channel bins of a response: whole native channels, as wide as its resolution allows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import OgipError
from raypipe.ogip import Rmf

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_BINS = 256
"""Most channel bins of a response."""

BAND_KEV = (0.3, 10.0)
"""Nominal energies that channel bins cover, where the telescope reaches that far."""

CALIBRATED_KEV = {
    "NUSTAR": (3.0, 79.0),
    "ASCA": (0.4, 10.0),
}
"""Nominal energies outside of which a telescope's response is not calibrated, by TELESCOP; only
those narrower than `BAND_KEV` on a side are of any effect."""

BINS_PER_FWHM = 3.0
"""Most bins within the full width at half maximum of a line: the width of such bins adds 5% to the
variance of a line's shape."""

MOST_RELATIVE_FWHM = 1.0
"""Widest lines, as a share of their energy, of a response with any use here: those of HRC are two
to ten times as wide, those of a proportional counter half of it."""

FEWEST_BINS = 8
"""Fewest bins of a response with any use here: a few bins at one end of the band tell nothing."""

_WIDER = 1.02
"""Factor by which bins widen until there are few enough of them."""

ACIS_CHANNELS = 1024
ACIS_WIDTH_KEV = 0.0146
ACIS_FIRST = 34
ACIS_PER_BIN = 2
"""ACIS PI: 256 bins of two channels of 14.6 eV, the first with the index 34 (channel 35)."""

_ACIS_TOLERANCE_KEV = 0.004
_ROUNDING_KEV = 1e-4
_FIT_KEV = (0.7, 10.0)
_FIT_ROWS = 40
_LEAST_PEAK = 1e-4


@dataclass(frozen=True, eq=False)
class ChannelBins:
    """Hold the channel bins of one response, each made of whole native channels.

    `first` (n_bins + 1,): place of each bin's first channel among the response's channels, counted
    from 0, and last the place after the last bin's last; `lo_kev`, `hi_kev` (n_bins,): nominal
    edges, keV; `fwhm_kev` (n_bins,): full width at half maximum of a line at each bin's middle;
    `n_channels`: channels of the response, in bins or not; `is_acis`: whether these are the bins
    that ACIS has always had.
    """

    first: Integers
    lo_kev: Floats
    hi_kev: Floats
    fwhm_kev: Floats
    n_channels: int
    is_acis: bool = False

    def __len__(self) -> int:
        return len(self.lo_kev)

    @property
    def mid_kev(self) -> Floats:
        """Return the nominal energies at the middle of the bins, (n_bins,), keV."""
        return 0.5 * (self.lo_kev + self.hi_kev)

    @property
    def width_kev(self) -> Floats:
        """Return the nominal widths of the bins, (n_bins,), keV."""
        return self.hi_kev - self.lo_kev

    def parts(self) -> tuple[Integers, Floats, Floats, Floats]:
        """Return `first`, `lo_kev`, `hi_kev` and `fwhm_kev`, which together make the bins."""
        return self.first, self.lo_kev, self.hi_kev, self.fwhm_kev

    def bin_counts(self, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum native channels (..., n_channels) into bins (..., n_bins).

        Whole numbers become int64, which no sum of int32 overflows; other types stay.

        Raises ValueError for another number of channels.
        """
        if counts.shape[-1] != self.n_channels:
            raise ValueError(f"{counts.shape[-1]} channels, expected {self.n_channels}")
        begin, end = int(self.first[0]), int(self.first[-1])
        kept, sizes = counts[..., begin:end], np.diff(self.first)
        kind = np.int64 if counts.dtype.kind in "iu" else counts.dtype
        if len(sizes) and (sizes == sizes[0]).all():  # sums of views are faster than reduceat
            size = int(sizes[0])
            binned = kept[..., ::size].astype(kind)
            for place in range(1, size):
                binned += kept[..., place::size]
            return binned
        summed: npt.NDArray[Any] = np.add.reduceat(
            kept, self.first[:-1] - begin, axis=-1, dtype=kind
        )
        return summed

    def within(self, begin: int, end: int) -> ChannelBins:
        """Return the bins that lie wholly between two places of channels, `end` not included.

        They are the bins of a spectrum that has fewer channels than its response. Raises ValueError
        if there are none.
        """
        kept = np.flatnonzero((self.first[:-1] >= begin) & (self.first[1:] <= end))
        if not len(kept):
            raise ValueError(f"no channel bin lies within places {begin} to {end}")
        if len(kept) == len(self):
            return self
        one, last = int(kept[0]), int(kept[-1]) + 1
        return replace(
            self,
            first=self.first[one : last + 1],
            lo_kev=self.lo_kev[one:last],
            hi_kev=self.hi_kev[one:last],
            fwhm_kev=self.fwhm_kev[one:last],
        )


def channel_bins_of(rmf: Rmf, path: str = "RMF") -> ChannelBins:
    """Choose the channel bins of a response, reproducibly.

    A 1024-channel ACIS response gets `ACIS_PER_BIN` channels per bin. Any other gets bins of whole
    channels from 0.3 to 10 keV, or as far as its telescope is calibrated. They are a third of the
    FWHM wide, or wider if there would be more than `MOST_BINS`. Channels at either end that no
    photon reaches are left out. Raises OgipError, naming `path`, if nominal energies do not ascend,
    if no channel is left, and for a response with almost no energy resolution or only a few bins.
    """
    edges = rmf.channel_energy_kev
    fwhm = fwhm_of(rmf)
    if is_acis(rmf):
        return acis_bins(fwhm)
    first = _first_channels(rmf, fwhm, path)
    lo, hi = edges[first[:-1], 0], edges[first[1:] - 1, 1]
    bins = ChannelBins(first, lo, hi, _single(fwhm(0.5 * (lo + hi))), len(edges))
    widest = bins.fwhm_kev / bins.mid_kev
    if float(np.median(widest)) > MOST_RELATIVE_FWHM:
        raise OgipError(
            path,
            f"almost no energy resolution (lines of {bins.mid_kev[len(bins) // 2]:.2g} keV are "
            f"{bins.fwhm_kev[len(bins) // 2]:.2g} keV wide): outside the latent model",
        )
    if len(bins) < FEWEST_BINS:
        raise OgipError(
            path,
            f"only {len(bins)} bins lie between {BAND_KEV[0]:g} and {BAND_KEV[1]:g} keV "
            f"({bins.lo_kev[0]:.2g}-{bins.hi_kev[-1]:.2g} keV): outside the latent model",
        )
    return bins


def acis_bins(fwhm: Resolution) -> ChannelBins:
    """Return the standard bins of ACIS for a response of this resolution."""
    first = ACIS_FIRST + ACIS_PER_BIN * np.arange(MOST_BINS + 1)
    edges = np.asarray(first * ACIS_WIDTH_KEV, dtype=np.float64)
    lo, hi = edges[:-1], edges[1:]
    return ChannelBins(first, lo, hi, _single(fwhm(0.5 * (lo + hi))), ACIS_CHANNELS, True)


def _single(values: Floats) -> Floats:
    """Round to single precision, so that machines agree on the hash."""
    return values.astype(np.float32).astype(np.float64)


def acis_edges_kev() -> Floats:
    """Return the nominal edges of the PI channels of ACIS, (1024, 2), keV."""
    edges = ACIS_WIDTH_KEV * np.arange(ACIS_CHANNELS + 1)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def is_acis(rmf: Rmf) -> bool:
    """Tell by its nominal energies whether a response has the 1024 PI channels of ACIS."""
    edges = rmf.channel_energy_kev
    if len(edges) != ACIS_CHANNELS:
        return False
    tops = ACIS_WIDTH_KEV * np.arange(1, ACIS_CHANNELS + 1)
    return bool(np.abs(edges[:, 1] - tops).max() <= _ACIS_TOLERANCE_KEV)


@dataclass(frozen=True)
class Resolution:
    """Model the FWHM of a line: its square is a + b E + c E^2, with no negative coefficient."""

    coefficients: tuple[float, float, float]

    def __call__(self, energy_kev: npt.ArrayLike) -> Floats:
        """Return the FWHM in keV at these energies, keV."""
        energies = np.asarray(energy_kev, dtype=np.float64)
        a, b, c = self.coefficients
        return np.asarray(np.sqrt(a + b * energies + c * energies**2))


def fwhm_of(rmf: Rmf) -> Resolution:
    """Estimate the width of lines from rows of the matrix between 0.7 and 10 keV.

    The width of each row's peak is measured at half its height, and a curve is fitted with the
    least squares of relative deviations. If no row has a peak, lines count as no wider than a
    channel.
    """
    from scipy.optimize import nnls  # takes long to import, and workers seldom need it

    middle = 0.5 * (rmf.energy_lo_kev + rmf.energy_hi_kev)
    wanted = np.geomspace(*_FIT_KEV, _FIT_ROWS)
    rows = np.unique(np.clip(np.searchsorted(middle, wanted), 0, len(middle) - 1))
    rows = rows[(middle[rows] > 0.5 * _FIT_KEV[0]) & (middle[rows] < 1.2 * _FIT_KEV[1])]
    edges = rmf.channel_energy_kev
    widths = np.maximum(edges[:, 1] - edges[:, 0], 1e-6)
    # A channel more at either end stands for what lies beyond: nothing.
    at = np.concatenate([edges[:1, 0], 0.5 * (edges[:, 0] + edges[:, 1]), edges[-1:, 1]])
    channel_width = float(np.median(edges[:, 1] - edges[:, 0]))
    pairs = [(middle[row], _half_width(rmf, int(row), middle[row], at, widths)) for row in rows]
    found = np.array([pair for pair in pairs if pair[1] > 0]).reshape(-1, 2)
    if not len(found):
        return Resolution((channel_width**2, 0.0, 0.0))
    energy, squared = found[:, 0], np.maximum(found[:, 1], channel_width) ** 2
    basis = np.stack([np.ones_like(energy), energy, energy**2], 1)
    curve, expected, trust = np.zeros(3), squared, np.ones_like(energy)
    for _ in range(4):  # rows far off the curve (escape peaks, edges) lose their weight
        weight = trust / expected
        curve, _ = nnls(basis * weight[:, None], squared * weight)
        expected = np.maximum(basis @ curve, channel_width**2)
        off = np.abs(np.log(expected / squared))
        trust = 1.0 / np.maximum(1.0, off / max(float(np.median(off)), 1e-3))
    a, b, c = (float(f"{value:.5g}") for value in curve)  # so that machines agree on the bins
    return Resolution((a, b, c))


def _half_width(rmf: Rmf, row: int, energy: float, middle: Floats, widths: Floats) -> float:
    """Measure the FWHM of the peak of a row, keV; 0 for a row without a peak."""
    begin, end = rmf.matrix.indptr[row : row + 2]
    density = np.zeros(len(middle))
    density[1 + rmf.matrix.indices[begin:end]] = rmf.matrix.data[begin:end]
    density[1:-1] /= widths
    near = np.flatnonzero(np.abs(middle - energy) < max(0.25 * energy, 0.1))
    if not len(near):
        return 0.0
    peak = int(near[density[near].argmax()])
    half = 0.5 * density[peak]
    if half <= 0.5 * _LEAST_PEAK * density.max():
        return 0.0
    below, above = density[:peak] <= half, density[peak:] <= half
    if not (below.any() and above.any()):
        return 0.0
    left = int(np.flatnonzero(below)[-1])
    right = peak + int(above.argmax())
    if left == 0 or right == len(density) - 1:  # cut off where the channels end
        return 0.0
    lower = _crossing(middle, density, left, left + 1, half)
    upper = _crossing(middle, density, right - 1, right, half)
    return float(upper - lower)


def _crossing(middle: Floats, density: Floats, one: int, other: int, half: float) -> float:
    share = (half - density[one]) / (density[other] - density[one])
    return float(middle[one] + share * (middle[other] - middle[one]))


def _first_channels(rmf: Rmf, fwhm: Resolution, path: str) -> Integers:
    """Choose the places of the bins' first channels, and the place after the last bin."""
    edges = rmf.channel_energy_kev
    begin, end = _usable(rmf, path)
    bins_per_fwhm = BINS_PER_FWHM
    while True:
        first = _divided(edges[begin:end], fwhm, bins_per_fwhm)
        if len(first) <= MOST_BINS + 1:
            return first + begin
        bins_per_fwhm /= _WIDER


def _divided(edges: Floats, fwhm: Resolution, bins_per_fwhm: float) -> Integers:
    """Divide channels at places (n_bins + 1,), into bins of about the FWHM over `bins_per_fwhm`.

    A last bin with less than half of the channels that it should have is added to the one before.
    """
    wanted = fwhm(edges[:, 0]) / bins_per_fwhm
    due = np.maximum(1, np.rint(wanted / np.maximum(edges[:, 1] - edges[:, 0], 1e-6)))
    first, place = [], 0
    while place < len(edges):
        first.append(place)
        place += int(due[place])
    if len(first) > 1 and len(edges) - first[-1] < 0.5 * due[first[-1]]:
        first.pop()
    return np.array([*first, len(edges)], dtype=np.int64)


def _usable(rmf: Rmf, path: str) -> tuple[int, int]:
    """Find the places of the first channel to use and of the one after the last."""
    edges = rmf.channel_energy_kev
    low, high = BAND_KEV
    named = str(rmf.header.get("TELESCOP", "")).strip().upper()
    if named in CALIBRATED_KEV:
        least, most = CALIBRATED_KEV[named]
        low, high = max(low, least), min(high, most)
    inside = (edges[:, 0] >= low - _ROUNDING_KEV) & (edges[:, 1] <= high + _ROUNDING_KEV)
    reached = np.bincount(rmf.matrix.indices, rmf.matrix.data > 0, len(edges)) > 0
    places = np.flatnonzero(inside & reached)
    if not len(places):
        raise OgipError(
            path,
            f"no channel between {low:g} and {high:g} keV that a photon reaches: give an RMF of an "
            "X-ray telescope, with the energies of its channels in EBOUNDS",
        )
    begin, end = int(places[0]), int(places[-1]) + 1
    if (np.diff(edges[begin:end], axis=0) <= 0).any():
        raise OgipError(
            path,
            "energies of channels do not ascend: dispersed orders and channels of wavelength are "
            "outside the latent model",
        )
    return begin, end
