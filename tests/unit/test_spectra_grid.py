"""The energy grid that all telescopes share."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.spectra.grid import EnergyGrid

GRID, EVEN = EnergyGrid(), EnergyGrid(())
FORMER_EDGES_KEV = np.linspace(0.3, 9.3, 451)


def test_the_former_edges_are_among_the_new_ones_bit_for_bit() -> None:
    assert np.array_equal(EVEN.edges_kev[5:456], FORMER_EDGES_KEV)
    assert np.isin(EVEN.edges_kev, GRID.edges_kev).all()


def test_bins_cover_the_range_and_are_divided_at_low_energies() -> None:
    assert (EVEN.n_energy, GRID.n_energy) == (590, 810)
    assert GRID.edges_kev[[0, -1]].tolist() == [0.2, 12.0]
    for energy, width in ((0.5, 0.005), (1.5, 0.01), (6.0, 0.02)):
        place = np.searchsorted(GRID.edges_kev, energy) - 1
        assert GRID.widths_kev[place] == pytest.approx(width, rel=1e-9)
    assert np.diff(GRID.edges_kev).min() > 0
