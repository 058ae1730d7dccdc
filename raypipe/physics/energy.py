"""Define the energy grid on which source spectra are computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

BAND_KEV = (0.5, 7.0)
"""The broad band (b) of the Chandra Source Catalog, to which counts and fluxes refer, keV."""

ERG_PER_KEV = 1.602176634e-9

SPECTRA_KEV = (0.1, 80.0)
"""Energies at which sources emit: where the cross-sections of absorption hold, up to the end of the
mirrors of NuSTAR."""
HARD_KEV = 20.0
"""Instruments that reach further have bins of tens of eV, and a grid to match."""


@dataclass(frozen=True)
class EnergyGrid:
    """Hold energy bins of equal width, `n` of them from `lo_kev` to `hi_kev`.

    The default is the grid of ACIS responses in the Chandra Source Catalog: 0.3-9.3 keV in 900 bins
    of 10 eV.
    """

    lo_kev: float = 0.3
    hi_kev: float = 9.3
    n: int = 900

    @cached_property
    def edges_kev(self) -> FloatArray:
        """Return the edges of the bins, (n + 1,), keV."""
        return np.linspace(self.lo_kev, self.hi_kev, self.n + 1)

    @cached_property
    def mid_kev(self) -> FloatArray:
        """Return the middles of the bins, (n,), keV."""
        return 0.5 * (self.edges_kev[1:] + self.edges_kev[:-1])

    @property
    def width_kev(self) -> float:
        """Return the width of a bin, keV."""
        return (self.hi_kev - self.lo_kev) / self.n

    @cached_property
    def in_band(self) -> npt.NDArray[np.bool_]:
        """Return whether the middle of each bin lies in `BAND_KEV`, (n,)."""
        return (self.mid_kev >= BAND_KEV[0]) & (self.mid_kev < BAND_KEV[1])

    @classmethod
    def covering(cls, edges: Iterable[FloatArray], width_kev: float = 0.01) -> EnergyGrid:
        """Return the grid that covers `edges`, with edges at integer multiples of `width_kev`."""
        ends = [(float(e[0]), float(e[-1])) for e in edges]
        first = int(np.floor(min(lo for lo, _ in ends) / width_kev + 1e-3))
        last = int(np.ceil(max(hi for _, hi in ends) / width_kev - 1e-3))
        return cls(first * width_kev, last * width_kev, last - first)


def source_grids(edges: Sequence[FloatArray]) -> list[EnergyGrid]:
    """Return the grid on which spectra are computed for each instrument with these energy edges.

    Bins are 10 eV wide and shared by all instruments that end at `HARD_KEV` or below, 20 eV and
    shared by the others. Both kinds hold the broad band, in which spectra are normalized, and end
    where `SPECTRA_KEV` does.
    """
    ends = [np.clip([each[0], each[-1]], *SPECTRA_KEV) for each in edges]
    is_hard = [each[1] > HARD_KEV for each in ends]
    grids = {
        hard: EnergyGrid.covering(
            [np.array(BAND_KEV), *(e for e, h in zip(ends, is_hard, strict=True) if h == hard)],
            width_kev=0.02 if hard else 0.01,
        )
        for hard in set(is_hard)
    }
    return [grids[hard] for hard in is_hard]
