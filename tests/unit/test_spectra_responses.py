"""An RMF on the model's grid: the same numbers dense or sparse, and which RMFs are refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from raypipe.errors import OgipError
from raypipe.ogip import Rmf
from raypipe.spectra import responses
from raypipe.spectra.grid import Grid
from raypipe.spectra.responses import efficiency_on_grid, redistribution_on_grid
from tests.unit.acis_spectra import CHANNEL_EDGES_KEV, CHANNELS, arf, matrix, rmf

GRID = Grid()


def test_a_sparse_product_gives_the_bits_of_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = redistribution_on_grid(rmf(), GRID, "x.rmf")
    monkeypatch.setattr(responses, "_DENSE_ROWS", 10)
    assert np.array_equal(redistribution_on_grid(rmf(), GRID, "x.rmf"), dense)


def test_memory_follows_the_elements_of_a_matrix_not_its_rows() -> None:
    """Three million energy bins with one element each: 12 GB were they made dense."""
    n = 3_000_000
    edges = np.linspace(0.3, 9.3, n + 1)
    places = np.clip(np.searchsorted(CHANNEL_EDGES_KEV[:, 1], edges[:-1]), 0, 1023)
    native = sparse.csr_array(
        (np.ones(n, np.float32), places.astype(np.int32), np.arange(n + 1, dtype=np.int32)),
        shape=(n, len(CHANNELS)),
    )
    fine = Rmf(edges[:-1], edges[1:], CHANNELS, CHANNEL_EDGES_KEV, native, False, {})
    tracemalloc.start()
    try:
        redistribution = redistribution_on_grid(fine, GRID, "fine.rmf")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * n
    inside = (GRID.energy_mid_kev > 0.6) & (GRID.energy_mid_kev < 7.9)
    assert redistribution.sum(1)[inside] == pytest.approx(1.0, abs=1e-6)


def _with_value(value: float) -> np.ndarray:
    values = matrix()
    values[400, 300] = value
    return values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (_with_value(-1e-3), "negative probabilities"),
        (-matrix(), "negative probabilities"),
        (0.0 * matrix(), "no photon into the model's channels"),
        (np.pad(np.ones((900, 1)), [(0, 0), (0, 1023)]), "no photon into the model's channels"),
        (1.3 * matrix(), r"rows of the RMF sum to 1\.3"),
        (_with_value(1e30), r"rows of the RMF sum to .*e\+29"),
    ],
)
def test_what_cannot_be_probabilities_is_refused(values: np.ndarray, said: str) -> None:
    with pytest.raises(OgipError, match=rf"^x\.rmf: .*{said}.*make it again"):
        redistribution_on_grid(rmf(values), GRID, "x.rmf")


def test_the_area_that_a_matrix_includes_is_divided_out() -> None:
    area = np.linspace(100.0, 500.0, 900)
    whole = rmf(matrix() * area[:, None], includes_area=True)
    folded = efficiency_on_grid(whole, GRID)[:, None] * redistribution_on_grid(whole, GRID, "x")
    shares = responses.overlap_of(arf().energy_lo_kev, arf().energy_hi_kev, GRID).shares
    expected = GRID.bin_channels(shares @ (matrix() * area[:, None]))
    assert folded == pytest.approx(expected, rel=1e-5, abs=1e-9)
