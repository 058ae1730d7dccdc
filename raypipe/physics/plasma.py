"""Model optically thin thermal plasma in collisional ionization equilibrium.

The model consists of bremsstrahlung of hydrogen and helium, and of the strongest lines between 0.35
and 8 keV at their laboratory energies. The emissivity of a line has its maximum near the
temperature at which its ion is most abundant, and falls off on both sides as a log-normal function
of temperature. Emissivities, temperatures and widths are approximate numbers of the size that
plasma codes give (AtomDB, Foster et al. 2012, ApJ 756, 128). They are not from its tables and were
not compared with them line by line: single lines may be wrong by a factor of two. Weak lines,
recombination edges and two-photon emission are left out. A CCD resolves what the model has: line
complexes that change with temperature and scale with abundance. Do not fit these spectra with a
plasma code.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raypipe.physics.components import bremsstrahlung_shape, normalized
from raypipe.physics.emissivities import Emissivities
from raypipe.physics.energy import EnergyGrid, FloatArray

LINE_UNIT = 1e-17
"""Unit of the emissivities of `LINES`, photons cm3/s."""
NORM = 1e14
"""Flux per norm and emissivity: the norm is in units of 1e-14."""
KELVIN_PER_KEV = 1.160452e7
"""1 keV over the Boltzmann constant (CODATA)."""
TEMPERATURES_KEV = np.geomspace(0.05, 90.0, 160)
BREMSSTRAHLUNG_EMISSIVITY = 1.03e-11
"""Photons cm3 / s / keV at 1 keV, 1 K and unit Gaunt factor, for one electron and one proton:
6.8e-38 erg cm3 / s / Hz (Rybicki & Lightman 1979, eq. 5.14b) over the Planck constant in erg s."""
HELIUM_AND_METALS = 0.42
"""Sum of Z^2 over the ions other than hydrogen, per hydrogen nucleus: 4 x 0.098 for helium, and a
little for the metals."""


class Line(NamedTuple):
    """Describe an emission line.

    `emissivity` is that at the maximum, 1e-17 photons cm3/s; `log_t` is log10 of the temperature of
    the maximum, K; `below` and `above` are the widths in temperature on its two sides, dex.
    """

    ion: str
    energy_kev: float
    emissivity: float
    log_t: float
    below: float = 0.15
    above: float = 0.32


def _fe_l(ion: str, energy_kev: float, emissivity: float, log_t: float) -> Line:
    """Return a line of an iron L-shell ion, which exists in a narrow range of temperatures."""
    return Line(ion, energy_kev, emissivity, log_t, below=0.13, above=0.19)


# Energies are laboratory energies; all other numbers are approximate, as explained above.
LINES = (
    Line("C VI", 0.3675, 100.0, 6.10),
    Line("N VI", 0.4307, 12.0, 6.20),
    Line("N VII", 0.5003, 24.0, 6.32),
    Line("O VII", 0.5610, 45.0, 6.30),
    Line("O VII", 0.5686, 10.0, 6.30),
    Line("O VII", 0.5739, 65.0, 6.30),
    Line("O VIII", 0.6536, 140.0, 6.50),
    Line("O VII", 0.6656, 8.0, 6.35),
    Line("O VIII", 0.7746, 18.0, 6.52),
    _fe_l("Fe XVII", 0.7252, 85.0, 6.75),
    _fe_l("Fe XVII", 0.7271, 90.0, 6.75),
    _fe_l("Fe XVII", 0.7389, 65.0, 6.75),
    _fe_l("Fe XVIII", 0.7715, 30.0, 6.85),
    _fe_l("Fe XVII", 0.8120, 40.0, 6.77),
    _fe_l("Fe XVII", 0.8258, 130.0, 6.77),
    _fe_l("Fe XVIII", 0.8625, 25.0, 6.86),
    _fe_l("Fe XVIII", 0.8727, 60.0, 6.86),
    _fe_l("Fe XIX", 0.9172, 45.0, 6.92),
    _fe_l("Fe XIX", 0.9226, 20.0, 6.92),
    _fe_l("Fe XX", 0.9652, 40.0, 7.00),
    _fe_l("Fe XXI", 1.0090, 50.0, 7.04),
    _fe_l("Fe XXII", 1.0534, 30.0, 7.10),
    _fe_l("Fe XXIV", 1.1098, 25.0, 7.26),
    _fe_l("Fe XXIII", 1.1286, 20.0, 7.17),
    _fe_l("Fe XXIV", 1.1675, 25.0, 7.28),
    Line("Ne IX", 0.9051, 13.0, 6.58),
    Line("Ne IX", 0.9148, 3.5, 6.58),
    Line("Ne IX", 0.9220, 20.0, 6.60),
    Line("Ne X", 1.0219, 35.0, 6.76),
    Line("Ne X", 1.2109, 5.0, 6.80),
    Line("Mg XI", 1.3312, 7.0, 6.80),
    Line("Mg XI", 1.3431, 2.0, 6.80),
    Line("Mg XI", 1.3523, 12.0, 6.81),
    Line("Mg XII", 1.4724, 13.0, 7.00),
    Line("Mg XII", 1.7447, 1.8, 7.02),
    Line("Si XIII", 1.8395, 7.5, 7.00),
    Line("Si XIII", 1.8538, 2.0, 7.00),
    Line("Si XIII", 1.8650, 12.0, 7.01),
    Line("Si XIV", 2.0055, 11.0, 7.20),
    Line("Si XIII", 2.1825, 1.6, 7.05),
    Line("Si XIV", 2.3765, 1.6, 7.22),
    Line("S XV", 2.4303, 2.8, 7.18),
    Line("S XV", 2.4606, 5.0, 7.20),
    Line("S XVI", 2.6218, 4.2, 7.40),
    Line("S XVI", 3.1067, 0.6, 7.42),
    Line("Ar XVII", 3.1042, 0.6, 7.34),
    Line("Ar XVII", 3.1396, 1.1, 7.36),
    Line("Ar XVIII", 3.3211, 0.8, 7.58),
    Line("Ca XIX", 3.8612, 0.4, 7.48),
    Line("Ca XIX", 3.9024, 0.7, 7.50),
    Line("Ca XX", 4.1052, 0.45, 7.75),
    Line("Fe XXV", 6.6366, 1.4, 7.74, below=0.18),
    Line("Fe XXV", 6.6740, 1.0, 7.78, below=0.18),
    Line("Fe XXV", 6.7004, 3.4, 7.80, below=0.18),
    Line("Fe XXVI", 6.9660, 2.4, 8.15, below=0.20),
    Line("Fe XXV", 7.8810, 0.6, 7.85, below=0.16),
)


def thermal_plasma(
    kt_kev: FloatArray, abundance: FloatArray, grid: EnergyGrid, apec_dir: str | None = None
) -> FloatArray:
    """Return plasma spectra (B, n), normalized to one photon/cm2/s between 0.5 and 7 keV.

    The arguments are those of `plasma_flux`.
    """
    return normalized(plasma_flux(kt_kev, abundance, grid, apec_dir), grid)


def plasma_flux(
    kt_kev: FloatArray, abundance: FloatArray, grid: EnergyGrid, apec_dir: str | None = None
) -> FloatArray:
    """Return plasma spectra of unit norm, (B, n), photon/cm2/s/keV.

    `kt_kev` (B,) is the temperature, 0.05-90 keV, and `abundance` (B,) the abundance of metals
    relative to solar. The norm is that of XSPEC's `apec`: 1e-14 / (4 pi D^2) times the integral of
    n_e n_H over the volume. With `apec_dir`, a folder with the tables of AtomDB, emissivities are
    from these (`raypipe.physics.apec.read_apec`).
    """
    return NORM * emissivities(grid, apec_dir).at(kt_kev, abundance)


@cache
def emissivities(grid: EnergyGrid, apec_dir: str | None = None) -> Emissivities:
    """Return the emissivities of raypipe's own plasma, or of the tables in a folder, on a grid."""
    if apec_dir is None:
        return Emissivities(TEMPERATURES_KEV, *_emissivity_tables(grid))
    from raypipe.physics.apec import read_apec

    return read_apec(Path(apec_dir), grid)


def _emissivity_tables(grid: EnergyGrid) -> tuple[FloatArray, FloatArray]:
    """Return continuum and lines for solar abundance, (160, n) each, photons cm3/s/keV."""
    # Bremsstrahlung: n_e n_i sum(Z^2 g) T^(-1/2) exp(-E/kT) / E photons.
    kelvin = TEMPERATURES_KEV * KELVIN_PER_KEV
    scale = BREMSSTRAHLUNG_EMISSIVITY / np.sqrt(kelvin)
    continuum = scale[:, None] * bremsstrahlung_shape(TEMPERATURES_KEV, HELIUM_AND_METALS, grid)
    lines = np.zeros((len(TEMPERATURES_KEV), grid.n))
    for each in LINES:
        bins, shares = _shared_bins(each.energy_kev, grid)
        offset = np.log10(kelvin) - each.log_t
        width = np.where(offset < 0, each.below, each.above)
        emissivity = LINE_UNIT * each.emissivity * np.exp(-0.5 * (offset / width) ** 2)
        lines[:, bins] += np.outer(emissivity, shares) / grid.width_kev
    return continuum, lines


def _shared_bins(energy_kev: float, grid: EnergyGrid) -> tuple[list[int], list[float]]:
    """Return the two bins around an energy, and fractions that preserve the mean energy."""
    position = (energy_kev - grid.mid_kev[0]) / grid.width_kev
    lower = int(np.floor(position))
    pair = [(lower, 1 - (position - lower)), (lower + 1, position - lower)]
    inside = [(index, share) for index, share in pair if 0 <= index < grid.n]
    return [index for index, _ in inside], [share for _, share in inside]
