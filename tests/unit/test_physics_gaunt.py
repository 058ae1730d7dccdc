"""Gaunt factors of bremsstrahlung, and its spectra beside XSPEC's."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.physics.components import bremsstrahlung_flux
from raypipe.physics.energy import EnergyGrid
from raypipe.physics.gaunt import gaunt_factor, gaunt_of_electron, thermal_average

GRID = EnergyGrid(0.2, 12.0, 2360)

BREMSS = {
    0.3: {0.3: 3.423, 1.0: 0.06929, 3.0: 2.005e-5},
    1.0: {0.3: 4.843, 1.0: 0.502, 3.0: 0.01547, 7.0: 8.684e-5},
    3.0: {0.3: 4.426, 1.0: 0.7527, 3.0: 0.08994, 7.0: 0.007417},
    10.0: {0.3: 3.384, 1.0: 0.7115, 3.0: 0.1421, 7.0: 0.03082},
    100.0: {0.3: 1.643, 1.0: 0.3992, 3.0: 0.1048, 7.0: 0.03538},
}
"""Photon flux densities of `bremss` in XSPEC 12.14 with norm 1, by kT and energy in keV.

They are those of the bins of 5 eV above these energies. XSPEC's polynomials (Kellogg, Baldwin &
Koch 1975) are themselves within 1-2% of the exact factors.
"""


@pytest.mark.parametrize(
    ("eta_i", "eta_f", "factor"),
    [
        (0.1, 0.5, 0.545164256028),
        (0.01, 0.011, 1.68372603429),
        (1.0, 1.0001, 5.09126140234),
        (0.3, 3.0, 0.941099072942),
        (0.01, 30.0, 0.0671506459402),
    ],
)
def test_gaunt_factor_of_an_electron_is_exact(eta_i: float, eta_f: float, factor: float) -> None:
    """The factors are from the same formula with 40 digits."""
    found = gaunt_of_electron(np.array([eta_i]), np.array([eta_f]))[0]
    assert found == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize(
    ("gamma_squared", "u", "factor"),
    [(1e-3, 1e-2, 3.012525), (1e-2, 1.0, 0.9697628), (0.1, 10, 0.5892886)],
)
def test_thermal_average_is_the_integral_over_the_electrons(
    gamma_squared: float, u: float, factor: float
) -> None:
    """The factors are from adaptive quadrature with 40 digits."""
    found = thermal_average(np.array(gamma_squared), np.array(u))
    assert found == pytest.approx(factor, rel=3e-6)


def test_the_table_keeps_the_averages() -> None:
    energy, kt = np.array([0.15, 0.9, 4.1, 60.0]), np.array([0.06, 1.3, 77.0])
    for charge in (1, 2):
        gamma_squared = charge**2 * 0.013605693 / kt[:, None]
        exact = thermal_average(gamma_squared, energy / kt[:, None])
        np.testing.assert_allclose(gaunt_factor(energy, kt, charge), exact, rtol=2e-5)


@pytest.mark.parametrize("kt_kev", list(BREMSS))
def test_bremsstrahlung_is_that_of_xspec(kt_kev: float) -> None:
    flux = bremsstrahlung_flux(np.array([kt_kev]), GRID)[0]
    for energy, expected in BREMSS[kt_kev].items():
        place = np.argmin(abs(GRID.mid_kev - energy))
        near = flux[place - 1 : place + 2]
        assert near.min() * 0.98 < expected < near.max() * 1.02
