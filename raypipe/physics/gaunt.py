"""Compute the Gaunt factor of thermal bremsstrahlung from the exact non-relativistic theory.

The free-free Gaunt factor of an electron in the field of an ion is expressed with hypergeometric
functions by Karzas & Latter (1961, ApJS 6, 167, eq. 16-18), after Biedenharn (1956, Phys. Rev. 102,
262). Its average over a Maxwell distribution depends on two numbers: u = E / kT, E being the energy
of the photon, and gamma^2 = Z^2 Ry / kT (van Hoof et al. 2014, MNRAS 444, 420, whose tables it
equals). It is tabulated once per process.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import loggamma

if TYPE_CHECKING:
    from scipy.interpolate import RectBivariateSpline

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complexfloating[Any, Any]]

RYDBERG_KEV = 0.013605693
"""Ionization energy of hydrogen for an infinitely heavy nucleus (CODATA)."""
LOG_TEMPERATURE = (-0.25, 4.25)
"""Range of the table in log10 of kT / (Z^2 Ry): from 31 eV for helium, to 240 keV for hydrogen."""
LOG_PHOTON = (0.25, 4.0)
"""Range of the table in log10 of E / (Z^2 Ry): from 0.1 keV for helium, to 136 keV for hydrogen."""
_ENERGIES = 40
"""Nodes of the integral over the energy of the electron after emission."""
_LOWEST_Y = 1e-6
"""Lowest of these energies over kT: below it, one electron in a million."""
_TERMS = 70
"""Terms of the hypergeometric series, in which no argument is above one half."""


def gaunt_factor(energy_kev: FloatArray, kt_kev: FloatArray, charge: int) -> FloatArray:
    """Return the thermally averaged Gaunt factor for ions of that charge, (B, n).

    `energy_kev` (n,) are the energies of photons, `kt_kev` (B,) temperatures. Both are clipped to
    the range of the table, which holds all energies and temperatures of raypipe's models.
    """
    log_unit = np.log10(charge**2 * RYDBERG_KEV)
    temperature = np.clip(np.log10(kt_kev) - log_unit, *LOG_TEMPERATURE)
    photon = np.clip(np.log10(energy_kev) - log_unit, *LOG_PHOTON)
    factors: FloatArray = _spline().ev(temperature[:, None], photon[None, :])
    return factors


@cache
def _spline() -> RectBivariateSpline:
    from scipy.interpolate import RectBivariateSpline  # Slow to import.

    temperature = np.arange(LOG_TEMPERATURE[0], LOG_TEMPERATURE[1] + 0.01, 0.125)
    photon = np.arange(LOG_PHOTON[0], LOG_PHOTON[1] + 0.01, 0.125)
    gamma_squared = 10.0 ** -temperature[:, None]
    table = thermal_average(gamma_squared, 10.0 ** photon[None, :] * gamma_squared)
    return RectBivariateSpline(temperature, photon, table)


def thermal_average(gamma_squared: FloatArray, u: FloatArray) -> FloatArray:
    """Return the average of the Gaunt factor over a Maxwell distribution; arguments broadcast.

    With y = E_f / kT, E_f being the energy of the electron after emission, it is the integral of
    exp(-y) g(E_f + E, E_f) over y. Accurate where E is above Z^2 Ry.
    """
    # y = exp(t) resolves the slow variation of g with log y at low energies.
    nodes, weights = np.polynomial.legendre.leggauss(_ENERGIES)
    low, high = np.log(_LOWEST_Y), np.log(60.0)
    y = np.exp(0.5 * (high - low) * (nodes + 1.0) + low)
    weights = 0.5 * (high - low) * weights * y * np.exp(-y)
    squares, photon = np.broadcast_arrays(gamma_squared[..., None], u[..., None])
    values = gaunt_of_electron(np.sqrt(squares / (y + photon)), np.sqrt(squares / y))
    average: FloatArray = values @ weights
    return average


def gaunt_of_electron(eta_i: FloatArray, eta_f: FloatArray) -> FloatArray:
    """Return the free-free Gaunt factor of an electron; arguments broadcast.

    `eta_i` and `eta_f` are Z (Ry / E)^(1/2) for the energy of the electron before and after
    emission, the latter being the larger.
    """
    zero, one = (_integral(order, eta_i, eta_f) for order in (0, 1))
    product = eta_i * eta_f
    both = eta_i**2 + eta_f**2 + 2.0 * product**2
    roots = np.sqrt((1.0 + eta_i**2) * (1.0 + eta_f**2))
    bracket = both * zero - 2.0 * product * roots * one
    factor: FloatArray = 2.0 * np.sqrt(3.0) / (np.pi * product) * bracket * zero
    return factor


def _integral(order: int, eta_i: FloatArray, eta_f: FloatArray) -> FloatArray:
    """Return I_0 or I_1 of Karzas & Latter (1961, eq. 17)."""
    apart, total = eta_f - eta_i, eta_f + eta_i
    ratio = 4.0 * eta_i * eta_f / apart**2
    # The logarithm of all that precedes G_l.
    gammas = (loggamma(order + 1.0 + 1j * each).real for each in (eta_i, eta_f))
    size = np.log(0.25) + (order + 1.0) * np.log(ratio) + 0.5 * np.pi * apart + sum(gammas)
    if order == 1:
        size -= np.log(6.0)
    # G_l = (apart / total)^(i total) F(l+1-i eta_f, l+1-i eta_i; 2l+2; -ratio), in which Pfaff's
    # transformation brings the argument to w = ratio / (1 + ratio), between 0 and 1.
    a, b = order + 1.0 - 1j * eta_f, order + 1.0 + 1j * eta_i
    turned = 1j * total * np.log(apart / total) + 2.0 * a * np.log(apart / total)
    value = _hypergeometric(a, b, 2 * order + 2, ratio, size + turned)
    return np.asarray(value.real, dtype=np.float64)


def _hypergeometric(
    a: ComplexArray, b: ComplexArray, c: int, ratio: FloatArray, log_factor: ComplexArray
) -> ComplexArray:
    """Return exp(log_factor) F(a, b; c; w) at w = ratio / (1 + ratio), Re(a) = Re(b) = c / 2.

    Above one half the argument becomes 1 - w (Abramowitz & Stegun 1964, eq. 15.3.6). Factors are
    multiplied as logarithms because some overflow.
    """
    w, rest = ratio / (1.0 + ratio), 1.0 / (1.0 + ratio)
    far = w > 0.5
    near_value = _series(a, b, np.full_like(a, c), np.where(far, 0.0, w))
    other = np.where(far, rest, 0.0)
    s = c - a - b
    first = loggamma(c) + loggamma(s) - loggamma(c - a) - loggamma(c - b)
    second = loggamma(c) + loggamma(-s) - loggamma(a) - loggamma(b) + s * np.log(rest)
    far_value = np.exp(log_factor + first) * _series(a, b, 1.0 - s, other)
    far_value += np.exp(log_factor + second) * _series(c - a, c - b, 1.0 + s, other)
    return np.where(far, far_value, np.exp(log_factor) * near_value)


def _series(a: ComplexArray, b: ComplexArray, c: ComplexArray, x: FloatArray) -> ComplexArray:
    term = np.ones(np.broadcast_shapes(a.shape, x.shape), dtype=np.complex128)
    total = term.copy()
    for k in range(_TERMS):
        term = term * ((a + k) * (b + k) / ((c + k) * (k + 1.0))) * x
        total += term
    return total
