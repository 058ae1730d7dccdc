"""Hold the channel bins of several responses as tensors, padded to one number of bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.config import PRESET_BINS
from raypipe.model.smooth_background import BackgroundKernels, kernels_of, narrow_sigma_kev
from raypipe.spectra.channel_bins import (
    ACIS_FIRST,
    ACIS_PER_BIN,
    ACIS_WIDTH_KEV,
    MOST_BINS,
    ChannelBins,
)

EVEN_BINS = PRESET_BINS["paper"]
EVEN_BAND_KEV = (
    ACIS_WIDTH_KEV * ACIS_FIRST,
    ACIS_WIDTH_KEV * (ACIS_FIRST + ACIS_PER_BIN * MOST_BINS),
)
"""Even bins of the published recipe, over the nominal energies of the channel bins of ACIS."""

_PADDING_WIDTH_KEV = 0.1
"""Width and FWHM of padded bins, so that no formula meets a zero."""


@dataclass(frozen=True, eq=False)
class ChannelAxes:
    """Hold the channel bins of m responses.

    `lo_kev`, `hi_kev`, `fwhm_kev` (m, bins): nominal edges, and the full width at half maximum of a
    line, keV; padded bins continue above the last bin, with a positive width and FWHM. `valid`
    (m, bins): which bins a response has. `kind` (m,), on the host, says which of the k distinct
    `bins` and `kernels` are the response's own: those of ACIS have one kind.
    """

    lo_kev: Tensor
    hi_kev: Tensor
    fwhm_kev: Tensor
    valid: Tensor
    kind: Tensor
    bins: tuple[ChannelBins, ...]
    kernels: BackgroundKernels

    def __len__(self) -> int:
        return len(self.valid)

    def to(self, device: torch.device | str) -> ChannelAxes:
        """Return the axes on another device; `kind` stays on the host."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("lo_kev", "hi_kev", "fwhm_kev", "valid", "kernels")
        }
        return replace(self, **moved)

    @cached_property
    def even_shares(self) -> Tensor:
        """Compute the share (k, bins, EVEN_BINS) of each kind's bins that lies in each even bin."""
        shares = np.zeros((len(self.bins), MOST_BINS, EVEN_BINS), np.float32)
        for padded, bins in zip(shares, self.bins, strict=True):
            edges = np.linspace(*EVEN_BAND_KEV, EVEN_BINS + 1)
            low = np.maximum(bins.lo_kev[:, None], edges[:-1])
            high = np.minimum(bins.hi_kev[:, None], edges[1:])
            padded[: len(bins)] = np.clip(high - low, 0.0, None) / bins.width_kev[:, None]
        return torch.from_numpy(shares).to(self.valid.device)

    @classmethod
    def of(cls, bins: Sequence[ChannelBins], device: torch.device | str = "cpu") -> ChannelAxes:
        """Make the axes of m responses with these channel bins."""
        return _axes_of(tuple(bins), str(device))


@lru_cache(maxsize=4)
def _axes_of(bins: tuple[ChannelBins, ...], device: str) -> ChannelAxes:
    """Make the axes of sets of bins, compared by identity: a library reads each response once."""
    kinds: dict[tuple[bytes, ...], int] = {}
    distinct: list[ChannelBins] = []
    kind = []
    for each in bins:
        key = tuple(part.tobytes() for part in (each.lo_kev, each.hi_kev, narrow_sigma_kev(each)))
        if key not in kinds:
            kinds[key] = len(distinct)
            distinct.append(each)
        kind.append(kinds[key])
    padded = np.zeros((3, len(bins), MOST_BINS), np.float32)
    for number, each in enumerate(bins):
        padded[:, number] = _padded(each)
    lo, hi, fwhm = torch.from_numpy(padded).to(device)
    sizes = torch.tensor([len(each) for each in bins], dtype=torch.long)
    return ChannelAxes(
        lo_kev=lo,
        hi_kev=hi,
        fwhm_kev=fwhm,
        valid=(torch.arange(MOST_BINS) < sizes[:, None]).to(device),
        kind=torch.tensor(kind, dtype=torch.long),
        bins=tuple(distinct),
        kernels=kernels_of(distinct).to(device),
    )


def _padded(bins: ChannelBins) -> npt.NDArray[np.float64]:
    """Return lower edges, upper edges and FWHM, (3, 256), padded with bins of one width."""
    short = MOST_BINS - len(bins)
    edges = bins.hi_kev[-1] + _PADDING_WIDTH_KEV * np.arange(short + 1)
    return np.stack(
        [
            np.append(bins.lo_kev, edges[:-1]),
            np.append(bins.hi_kev, edges[1:]),
            np.append(bins.fwhm_kev, np.full(short, _PADDING_WIDTH_KEV)),
        ]
    )
