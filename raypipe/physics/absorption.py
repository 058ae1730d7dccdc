"""Compute photoelectric absorption by the interstellar medium."""

from __future__ import annotations

from functools import cache

import numpy as np
import xraydb

from raypipe.physics.energy import EnergyGrid, FloatArray

WILMS_ABUNDANCES = {
    "H": 1.0,
    "He": 9.77e-2,
    "C": 2.40e-4,
    "N": 7.59e-5,
    "O": 4.90e-4,
    "Ne": 8.71e-5,
    "Na": 1.45e-6,
    "Mg": 2.51e-5,
    "Al": 2.14e-6,
    "Si": 1.86e-5,
    "P": 2.63e-7,
    "S": 1.23e-5,
    "Cl": 1.32e-7,
    "Ar": 2.57e-6,
    "Ca": 1.58e-6,
    "Ti": 6.46e-8,
    "Cr": 3.24e-7,
    "Mn": 2.19e-7,
    "Fe": 2.69e-5,
    "Co": 8.32e-8,
    "Ni": 1.12e-6,
}
"""Atoms per hydrogen atom in the interstellar medium (Wilms, Allen & McCray 2000, ApJ 542, 914), as
in XSPEC's abundance table `wilm`."""

AVOGADRO = 6.02214076e23
"""Atoms per mole (exact in the SI since 2019)."""
HIGHEST_DEPTH = 200.0
"""Optical depths are limited to this: exp(-200) is 1e-87, far above the slow denormal numbers."""


def cross_section(energy_kev: FloatArray) -> FloatArray:
    """Return the photoelectric cross-section of the interstellar medium per hydrogen atom, cm2.

    This is the sum of the elements' cross-sections (Elam, Ravel & Sieber 2002, Radiat. Phys. Chem.
    63, 121), weighted by `WILMS_ABUNDANCES`. All atoms are in the gas phase: there are no molecules
    and no grains. Valid for 0.1-100 keV.
    """
    energy_ev = 1e3 * np.asarray(energy_kev, dtype=float)
    total = np.zeros_like(energy_ev)
    for element, abundance in WILMS_ABUNDANCES.items():
        # cm2 per gram, times grams per atom: the molar mass over Avogadro's number.
        per_gram = xraydb.mu_elam(element, energy_ev, kind="photo")
        total += abundance * per_gram * xraydb.atomic_mass(element) / AVOGADRO
    return total


@cache
def _cross_section_1e22(grid: EnergyGrid) -> FloatArray:
    return 1e22 * cross_section(grid.mid_kev)


def transmission(nh_1e22: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return the transmission (B, n) of column densities `nh_1e22` (B,), 10^22 cm^-2."""
    # exp(-NH sigma(E)), computed in place: the arrays are large.
    depth = np.multiply.outer(np.asarray(nh_1e22, dtype=float), _cross_section_1e22(grid))
    np.minimum(depth, HIGHEST_DEPTH, out=depth)
    np.negative(depth, out=depth)
    transmitted: FloatArray = np.exp(depth, out=depth)
    return transmitted
