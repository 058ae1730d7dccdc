"""Compute spectral shapes, scaled to one photon/cm2/s between 0.5 and 7 keV before absorption.

Every function takes arrays of B parameters and returns photon flux densities (B, n) at the middles
of the grid's bins. A weighted sum of components has their photons in the ratio of the weights.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from raypipe.physics.energy import EnergyGrid, FloatArray
from raypipe.physics.gaunt import gaunt_factor

HELIUM_OF_BREMSSTRAHLUNG = 0.085
"""Helium nuclei per hydrogen nucleus in XSPEC's `bremss`."""

_X_TABLE = np.geomspace(1e-4, 700.0, 4000)
_LOG_X_TABLE = np.log(_X_TABLE)
_LOWEST_LOG = -600.0


def normalized(flux: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Scale spectra (B, n) in place to one photon/cm2/s between 0.5 and 7 keV."""
    photons = flux[:, grid.in_band].sum(axis=1) * grid.width_kev
    flux /= photons[:, None]
    return flux


def power_law(photon_index: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return power laws E^-Gamma, (B, n)."""
    return normalized(power_law_flux(photon_index, grid), grid)


def power_law_flux(photon_index: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return E^-Gamma, (B, n): power laws of one photon/cm2/s/keV at 1 keV."""
    flux: FloatArray = np.exp(np.multiply.outer(-photon_index, np.log(grid.mid_kev)))
    return flux


def black_body(kt_kev: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return Planck spectra of temperature kT, (B, n)."""
    return normalized(black_body_flux(kt_kev, grid), grid)


def black_body_flux(kt_kev: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return E^2 / (exp(E/kT) - 1), (B, n), photon/cm2/s/keV with E in keV.

    The amplitude of one is that of Sherpa's `bbody`, which the Chandra Source Catalog fits.
    """
    # E^2 exp(-x) / (1 - exp(-x)) neither overflows for large x nor cancels for small x.
    x = grid.mid_kev[None, :] / kt_kev[:, None]
    flux: FloatArray = np.exp(2 * np.log(grid.mid_kev)[None, :] - x) / -np.expm1(-x)
    return flux


def disk_black_body(kt_kev: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return multicolor disks of inner temperature kT, (B, n).

    See Mitsuda et al. (1984, PASJ 36, 741) and Makishima et al. (1986, ApJ 308, 635).
    """
    return normalized(_interpolated(_disk_table(), kt_kev, grid, power=2), grid)


def bremsstrahlung(kt_kev: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return thermal bremsstrahlung of temperature kT, (B, n)."""
    return normalized(bremsstrahlung_flux(kt_kev, grid), grid)


def bremsstrahlung_flux(kt_kev: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return bremsstrahlung of temperature kT and unit norm, (B, n), photon/cm2/s/keV.

    The norm is that of XSPEC's `bremss`: 3.02e-15 / (4 pi D^2) times the integral of n_e n_H over
    the volume, D in cm and densities in cm^-3. As there, helium is 8.5% of hydrogen by number.
    """
    helium = 4.0 * HELIUM_OF_BREMSSTRAHLUNG
    return bremsstrahlung_shape(kt_kev, helium, grid) / np.sqrt(kt_kev)[:, None]


def bremsstrahlung_shape(kt_kev: FloatArray, helium: float, grid: EnergyGrid) -> FloatArray:
    """Return (g1 + `helium` g2) exp(-E/kT) / E, (B, n), 1/keV.

    g1 and g2 are the Gaunt factors of ions of charge one and two (`raypipe.physics.gaunt`), and
    `helium` is the sum of Z^2 of the latter per hydrogen nucleus.
    """
    factors = gaunt_factor(grid.mid_kev, kt_kev, 1)
    factors += helium * gaunt_factor(grid.mid_kev, kt_kev, 2)
    exponent = np.maximum(-grid.mid_kev[None, :] / kt_kev[:, None], _LOWEST_LOG)
    factors *= np.exp(exponent)
    factors /= grid.mid_kev
    return factors


def line(energy_kev: FloatArray, sigma_kev: float, grid: EnergyGrid) -> FloatArray:
    """Return Gaussian lines (B, n) of one photon/cm2/s each at `energy_kev` (B,)."""
    z = (grid.mid_kev[None, :] - energy_kev[:, None]) / sigma_kev
    shape = np.exp(-0.5 * np.minimum(z * z, 1200.0))
    shape /= sigma_kev * np.sqrt(2 * np.pi)
    return shape


def _interpolated(
    log_table: FloatArray, kt_kev: FloatArray, grid: EnergyGrid, *, power: int
) -> FloatArray:
    """Return E^power f(E/kT) from ln f on `_X_TABLE`."""
    log_energy = np.log(grid.mid_kev)
    log_x = log_energy[None, :] - np.log(kt_kev)[:, None]
    return np.exp(np.interp(log_x, _LOG_X_TABLE, log_table) + power * log_energy[None, :])


@cache
def _disk_table() -> FloatArray:
    """Return ln of the integral over t = T/T_in from 0 to 1 of t^(-11/3) / (exp(x/t) - 1)."""
    # With s = ln t the integrand is t^(-8/3) / (exp(x/t) - 1), which is negligible below s = -9 for
    # x above 0.01. Gauss-Legendre nodes are mapped from (-1, 1) to (-9, 0); 4.5 is the Jacobian.
    # The sum is formed from logarithms because terms underflow for large x.
    nodes, weights = np.polynomial.legendre.leggauss(400)
    log_t = 0.5 * (nodes - 1.0) * 9.0
    t = np.exp(log_t)
    log_occupation = -_X_TABLE[:, None] / t - np.log(-np.expm1(-_X_TABLE[:, None] / t))
    log_terms = log_occupation - (8.0 / 3.0) * log_t + np.log(weights * 4.5)
    return np.maximum(np.logaddexp.reduce(log_terms, axis=1), _LOWEST_LOG)
