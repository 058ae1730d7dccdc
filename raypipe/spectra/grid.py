"""Define the energy bins of the photon flux, which all telescopes share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ANCHOR_LO_KEV, _ANCHOR_HI_KEV, _ANCHOR_BINS = 0.3, 9.3, 450
_BELOW, _ABOVE = 5, 135
"""Even bins that are added below and above the 450 from 0.3 to 9.3 keV: 0.2 to 12 keV in all."""


@dataclass(frozen=True)
class EnergyGrid:
    """Define the energy bins: even ones of 20 eV from 0.2 to 12 keV, divided at low energies.

    `divisions` says up to which energy, keV, the even bins are divided in how many. The default has
    5 eV up to 1 keV, 10 eV up to 3 keV, 20 eV above: 810 bins, through which counts of smooth
    spectra come out within 0.1% of those through a file's own bins. Without divisions there are 590
    even bins. Edges between even bins from 0.3 to 9.3 keV are those of the former grid of 450 bins,
    bit for bit.
    """

    divisions: tuple[tuple[float, int], ...] = ((1.0, 4), (3.0, 2))

    @cached_property
    def even_edges_kev(self) -> Floats:
        """Return the edges of the even bins, (n_even + 1,), keV."""
        step = (_ANCHOR_HI_KEV - _ANCHOR_LO_KEV) / _ANCHOR_BINS
        edges = _ANCHOR_LO_KEV + step * np.arange(-_BELOW, _ANCHOR_BINS + _ABOVE + 1)
        anchors = np.linspace(_ANCHOR_LO_KEV, _ANCHOR_HI_KEV, _ANCHOR_BINS + 1)
        edges[_BELOW : _BELOW + _ANCHOR_BINS + 1] = anchors
        edges[0], edges[-1] = 0.2, 12.0
        return np.asarray(edges, dtype=np.float64)

    @cached_property
    def even_bin(self) -> npt.NDArray[np.int64]:
        """Return the number of the even bin that contains each energy bin, (n_energy,)."""
        tops = self.even_edges_kev[1:]
        parts = np.ones(len(tops), dtype=np.int64)
        for limit, number in reversed(self.divisions):
            parts[tops <= limit + 1e-6] = number
        return np.repeat(np.arange(len(tops)), parts)

    @cached_property
    def edges_kev(self) -> Floats:
        """Return the edges of the bins, (n_energy + 1,), keV."""
        even, inside = self.even_edges_kev, self.even_bin
        parts = np.bincount(inside)
        place = np.arange(len(inside)) - np.repeat(np.cumsum(parts) - parts, parts)
        low = even[inside] + place * ((even[inside + 1] - even[inside]) / parts[inside])
        low[place == 0] = even[inside[place == 0]]
        return np.append(low, even[-1])

    @cached_property
    def widths_kev(self) -> Floats:
        """Return the widths of the bins, (n_energy,), keV."""
        return np.diff(self.edges_kev)

    @cached_property
    def mid_kev(self) -> Floats:
        """Return the middles of the bins, (n_energy,), keV."""
        return 0.5 * (self.edges_kev[1:] + self.edges_kev[:-1])

    @property
    def n_energy(self) -> int:
        """Return the number of bins."""
        return len(self.even_bin)
