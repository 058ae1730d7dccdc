"""Integrals of a flux over energy bins: smooth ones, lines, edges, and noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.ogip.energies import bins_of, edges_around, same_bins, union_of
from raypipe.ogip.quadrature import integrate

EDGES = np.linspace(0.3, 9.3, 451)
LOW, HIGH = EDGES[:-1], EDGES[1:]


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def gaussian(center: float, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    norm = 1.0 / (sigma * np.sqrt(2 * np.pi))
    return lambda energy: norm * np.exp(-0.5 * ((energy - center) / sigma) ** 2)


class Counted:
    """A flux that counts at how many energies it was asked for."""

    def __init__(self, flux: Callable[[np.ndarray], np.ndarray]) -> None:
        self.flux, self.energies = flux, 0

    def __call__(self, energy: np.ndarray) -> np.ndarray:
        self.energies += energy.size
        return self.flux(energy)


def test_a_smooth_flux_is_looked_at_once() -> None:
    flux = Counted(lambda energy: energy**-1.7)
    exact = (LOW**-0.7 - HIGH**-0.7) / 0.7
    np.testing.assert_allclose(integrate(flux, LOW, HIGH), exact, rtol=1e-9)
    assert flux.energies == 17 * len(LOW)


def test_narrow_bins_need_fewer_samples() -> None:
    flux = Counted(lambda energy: energy**-1.7)
    edges = np.linspace(0.3, 9.3, 1801)
    exact = (edges[:-1] ** -0.7 - edges[1:] ** -0.7) / 0.7
    np.testing.assert_allclose(integrate(flux, edges[:-1], edges[1:]), exact, rtol=1e-9)
    assert flux.energies == 10 * 1800


@given(
    center=st.floats(2.5, 9.0),
    sigma=st.floats(1e-4, 0.25),
    continuum=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=60, deadline=None)
def test_lines_of_any_width_anywhere(center: float, sigma: float, continuum: float) -> None:
    edges = np.linspace(0.02, 16.02, 801)
    line = gaussian(center, sigma)
    whole = integrate(lambda energy: line(energy) + continuum, edges[:-1], edges[1:]).sum()
    assert whole - continuum * 16.0 == pytest.approx(1.0, rel=3e-5)


def test_a_forest_of_narrow_lines() -> None:
    random = np.random.default_rng(3)
    lines = random.uniform(0.5, 9.0, 200)
    shapes = [gaussian(center, 1e-3 * random.uniform(0.1, 3.0)) for center in lines]
    whole = integrate(lambda energy: 0.01 + sum(shape(energy) for shape in shapes), LOW, HIGH)
    assert whole.sum() == pytest.approx(200 + 0.01 * 9.0, rel=1e-6)


@given(st.floats(0.31, 9.29))
@settings(max_examples=40, deadline=None)
def test_an_edge_within_a_bin(edge: float) -> None:
    flux = Counted(lambda energy: np.where(energy < edge, 1.0, 0.25))
    whole = integrate(flux, LOW, HIGH).sum()
    assert whole == pytest.approx((edge - 0.3) + 0.25 * (9.3 - edge), rel=1e-6)
    assert flux.energies < 17 * len(LOW) + 2000


def test_a_flux_constant_over_each_bin_is_smooth() -> None:
    heights = np.random.default_rng(2).uniform(size=len(LOW))
    flux = Counted(lambda energy: heights[np.searchsorted(EDGES, energy, side="right") - 1])
    np.testing.assert_allclose(integrate(flux, LOW, HIGH), heights * (HIGH - LOW), rtol=1e-9)
    assert flux.energies == 17 * len(LOW)


def test_a_bin_from_zero_energy_on_stays_finite() -> None:
    edges = np.array([0.0, 0.1, 0.2])
    flux = Counted(lambda energy: energy**-1.7)
    integral = integrate(flux, edges[:-1], edges[1:])
    assert np.isfinite(integral).all()
    assert integral[1] == pytest.approx((0.1**-0.7 - 0.2**-0.7) / 0.7, rel=1e-6)
    assert flux.energies < 200


def test_noise_ends_with_a_warning() -> None:
    random = np.random.default_rng(1)
    flux = Counted(lambda energy: random.uniform(0.5, 1.5, energy.size))
    with pytest.warns(UserWarning, match="the flux changes too fast for the energy bins"):
        whole = integrate(flux, LOW, HIGH).sum()
    assert whole == pytest.approx(9.0, rel=0.01)
    assert flux.energies < 17 * 50_000


def test_single_precision_is_smooth_enough() -> None:
    flux = Counted(lambda energy: energy.astype(np.float32) ** np.float32(-1.7))
    exact = (LOW**-0.7 - HIGH**-0.7) / 0.7
    np.testing.assert_allclose(integrate(flux, LOW, HIGH), exact, rtol=1e-6)
    assert flux.energies <= 4 * 17 * len(LOW)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_bin(value: float) -> None:
    integral = integrate(lambda energy: np.where(energy > 9.28, value, 1.0), LOW, HIGH)
    assert not np.isfinite(integral[-1])
    np.testing.assert_allclose(integral[:-1], 0.02, rtol=1e-9)


class TestEnergyBins:
    def test_union_of_two_grids(self) -> None:
        one = np.array([1.0, 2.0]), np.array([2.0, 3.0])
        other = np.array([0.5, 2.5]), np.array([1.5, 4.0])
        low, high = union_of([one, other])
        np.testing.assert_array_equal(low, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
        np.testing.assert_array_equal(high, [1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
        np.testing.assert_array_equal(bins_of((low, high), one), [-1, 0, 0, 1, 1, -1])
        np.testing.assert_array_equal(bins_of((low, high), other), [0, 0, -1, -1, 1, 1])

    def test_edges_apart_by_rounding_are_one(self) -> None:
        grid = LOW, HIGH
        rounded = LOW.astype(np.float32).astype(float), HIGH.astype(np.float32).astype(float)
        assert same_bins(grid, rounded)
        assert not same_bins(grid, (LOW, HIGH + 1e-4))
        assert not same_bins(grid, (LOW[1:], HIGH[1:]))
        assert len(union_of([grid, rounded])[0]) == len(LOW)

    def test_pieces_close_in_on_a_line(self) -> None:
        low, high = union_of([(LOW, HIGH), edges_around([6.4037, 99.0], (LOW, HIGH))])
        holds = (low <= 6.4037) & (high >= 6.4037)
        assert (high - low)[holds].max() < 5e-5
        assert low[0] == 0.3
        assert high[-1] == 9.3
        np.testing.assert_array_equal(low[1:], high[:-1])
