"""Read effective areas from ancillary response files (ARF).

Source: OGIP memo CAL/GEN/92-002, "The Calibration Requirements for Spectral Analysis".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.errors import OgipError
from raypipe.ogip.columns import (
    AREA,
    coverage_notes,
    energy_grid_kev,
    not_negative,
    tables_of_class,
)
from raypipe.ogip.energies import same_bins
from raypipe.ogip.fits import Floats, read_hdus
from raypipe.ogip.loading import Source
from raypipe.ogip.notes import Note
from raypipe.ogip.table import Table

_CM2 = frozenset({"", "CM**2", "CM^2", "CM2"})


@dataclass(frozen=True, slots=True, eq=False)
class Arf:
    """Hold the effective area per energy bin.

    `energy_lo_kev`, `energy_hi_kev` (m,): edges of the bins, keV, ascending; `area_cm2` (m,),
    finite and not negative; `header`: the keywords of its HDU; `warnings`: notes on what is odd in
    the file, each with its code (`raypipe.ogip.notes`).
    """

    energy_lo_kev: Floats
    energy_hi_kev: Floats
    area_cm2: Floats
    header: Mapping[str, Any]
    warnings: tuple[Note, ...] = ()

    def area_on(self, energy_lo_kev: Floats, energy_hi_kev: Floats) -> Floats:
        """Return the area (k,), cm2, on other energy bins: the mean weighted by overlap.

        Where a bin reaches beyond the ARF, the area there counts as zero.
        """
        if same_bins((energy_lo_kev, energy_hi_kev), (self.energy_lo_kev, self.energy_hi_kev)):
            return self.area_cm2
        # Interpolate the area's integral, which is linear in each bin and constant in gaps.
        edges = np.column_stack([self.energy_lo_kev, self.energy_hi_kev]).ravel()
        edges = np.maximum.accumulate(edges)
        pieces = self.area_cm2 * (self.energy_hi_kev - self.energy_lo_kev)
        integral = np.repeat(np.concatenate([[0.0], np.cumsum(pieces)]), 2)[1:-1]
        upper = np.interp(energy_hi_kev, edges, integral)
        lower = np.interp(energy_lo_kev, edges, integral)
        area: Floats = (upper - lower) / (energy_hi_kev - energy_lo_kev)
        return area


def read_arf(source: Source, *, name: str | None = None) -> Arf:
    """Read the ARF of a path or of bytes (called `name` in errors).

    Energy bins without width are left out. Raises OgipError for a malformed file: energies that do
    not ascend, an area that is negative or not finite, no SPECRESP table.
    """
    hdus = read_hdus(source, name=name)
    found = tables_of_class(hdus, AREA)
    if not found:
        raise OgipError(hdus[0].path, "no effective area (HDUCLAS2 SPECRESP) in the file")
    table = Table(found[0])
    grid = energy_grid_kev(table)
    unit = table.keyword("TUNIT", "SPECRESP")
    if isinstance(unit, str) and unit.replace(" ", "").upper() not in _CM2:
        raise table.hdu.error(f"SPECRESP is in {unit!r}, expected cm**2")
    area = not_negative(table, "SPECRESP")[grid.rows]
    notes = coverage_notes("ARF", grid.low, grid.high, area)
    return Arf(grid.low, grid.high, area, table.hdu.header, notes)
