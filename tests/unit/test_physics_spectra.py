"""Absorption, spectral components and plasma."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.physics.absorption import cross_section, transmission
from raypipe.physics.components import (
    black_body,
    bremsstrahlung,
    disk_black_body,
    line,
    power_law,
)
from raypipe.physics.energy import EnergyGrid, FloatArray
from raypipe.physics.plasma import thermal_plasma

GRID = EnergyGrid()


def one(value: float) -> FloatArray:
    return np.array([value])


def photons_between(flux: FloatArray, low: float, high: float) -> FloatArray:
    inside = (GRID.mid_kev >= low) & (GRID.mid_kev < high)
    return flux[:, inside].sum(axis=1) * GRID.width_kev


def test_cross_section_is_that_of_the_interstellar_medium() -> None:
    at_1_kev, at_5_kev = cross_section(np.array([1.0, 5.0]))
    assert at_1_kev == pytest.approx(2.0e-22, rel=0.25)
    assert at_5_kev == pytest.approx(2.6e-24, rel=0.25)


@pytest.mark.parametrize(("element", "edge_kev"), [("O", 0.5431), ("Fe", 7.112), ("Si", 1.839)])
def test_cross_section_jumps_at_the_edges(element: str, edge_kev: float) -> None:
    below, above = cross_section(np.array([edge_kev - 0.003, edge_kev + 0.003]))
    assert above > 1.02 * below


@settings(deadline=None, max_examples=30)
@given(nh=st.floats(0.0, 500.0), more=st.floats(1e-3, 500.0))
def test_a_larger_column_lets_less_through(nh: float, more: float) -> None:
    less = transmission(np.array([nh, nh + more]), GRID)
    assert np.all(less[1] <= less[0])
    assert np.all((less >= 0) & (less <= 1))
    assert less[1, 50] < less[0, 50] or less[0, 50] < 1e-80


def test_no_column_lets_everything_through() -> None:
    np.testing.assert_array_equal(transmission(one(0.0), GRID), 1.0)


def test_components_hold_one_photon_in_the_broad_band() -> None:
    spectra = (
        power_law(one(1.7), GRID),
        black_body(one(0.1), GRID),
        disk_black_body(one(1.0), GRID),
        bremsstrahlung(one(5.0), GRID),
        thermal_plasma(one(0.8), one(0.3), GRID),
    )
    for flux in spectra:
        assert photons_between(flux, 0.5, 7.0) == pytest.approx(1.0)


def test_black_body_follows_planck() -> None:
    flux = black_body(one(0.5), GRID)[0]
    energy = GRID.mid_kev
    planck = energy**2 / np.expm1(energy / 0.5)
    np.testing.assert_allclose(flux / flux[100], planck / planck[100], rtol=1e-9)


def test_disk_approaches_its_known_slopes() -> None:
    """E^-2/3 photons far below kT_in, a Wien tail near that of the inner edge far above."""
    flux = disk_black_body(one(30.0), GRID)[0]
    slope = np.diff(np.log(flux[[0, 20]])) / np.diff(np.log(GRID.mid_kev[[0, 20]]))
    assert slope == pytest.approx(-2 / 3, abs=0.08)
    cool = disk_black_body(one(0.3), GRID)[0]
    decay = -np.diff(np.log(cool[[700, 800]])) / 1.0
    assert decay == pytest.approx(1 / 0.3, rel=0.1)


def test_line_holds_its_photons_at_its_energy() -> None:
    flux = line(one(6.4), 0.02, GRID)
    assert photons_between(flux, 6.2, 6.6) == pytest.approx(1.0, rel=1e-6)
    assert GRID.mid_kev[flux[0].argmax()] == pytest.approx(6.4, abs=0.01)


@pytest.mark.parametrize(
    ("kt_kev", "low", "high"),
    [(0.18, 0.55, 0.58), (0.7, 0.81, 0.84), (1.0, 1.85, 1.875), (1.6, 1.99, 2.02), (6, 6.69, 6.71)],
)
def test_plasma_lines_stand_out_where_their_ion_lives(
    kt_kev: float, low: float, high: float
) -> None:
    with_metals = thermal_plasma(one(kt_kev), one(1.0), GRID)
    without = thermal_plasma(one(kt_kev), one(0.0), GRID)
    contrast = photons_between(with_metals, low, high) / photons_between(without, low, high)
    assert contrast > 3 * photons_between(with_metals, 2.9, 3.0) / photons_between(
        without, 2.9, 3.0
    )


def test_plasma_scales_with_abundance_and_hardens_with_temperature() -> None:
    metals = np.array([0.1, 0.3, 1.0])
    poor_to_rich = thermal_plasma(np.full(3, 0.7), metals, GRID)
    assert np.all(np.diff(photons_between(poor_to_rich, 0.7, 1.1)) > 0)
    cool_to_hot = thermal_plasma(np.array([0.3, 0.6, 1.2, 2.5, 5.0, 20.0]), np.full(6, 0.5), GRID)
    assert np.all(np.diff(photons_between(cool_to_hot, 2.0, 7.0)) > 0)


def test_iron_complex_has_the_equivalent_width_of_a_hot_cluster() -> None:
    """About 0.9 keV for Fe XXV at 5 keV and solar abundance (Rothenflug & Arnaud 1985)."""
    lines = thermal_plasma(one(5.0), one(1.0), GRID)
    continuum = thermal_plasma(one(5.0), one(0.0), GRID)
    beside = photons_between(lines, 6.3, 6.4) / photons_between(continuum, 6.3, 6.4)
    excess = photons_between(lines, 6.6, 6.75) - beside * photons_between(continuum, 6.6, 6.75)
    width = excess / (beside * continuum[0, 637])
    assert 0.5 < width < 1.3


def test_covering_grid_holds_every_bin_and_keeps_to_whole_multiples() -> None:
    grid = EnergyGrid.covering([np.array([0.255, 12.0]), np.array([0.30000001, 9.3000002])])
    assert grid.lo_kev == pytest.approx(0.25)
    assert grid.hi_kev == pytest.approx(12.0)
    assert grid.n == 1175
    assert EnergyGrid.covering([EnergyGrid().edges_kev]) == EnergyGrid()
