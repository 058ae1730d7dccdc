"""An RMF on the model's grid: the same numbers dense or sparse, and which RMFs are refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from raypipe.errors import OgipError
from raypipe.ogip import Rmf
from raypipe.spectra import redistribution as module
from raypipe.spectra.channel_bins import channel_bins_of
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import (
    efficiency_on_grid,
    overlap_of,
    redistribution_on_grid,
)
from tests.unit.acis_spectra import CHANNEL_EDGES_KEV, CHANNELS, arf, matrix, rmf

GRID = EnergyGrid()
BINS = channel_bins_of(rmf())
NO_PHOTON = "no photon of .* into the model's channels"


def test_a_sparse_product_gives_the_bits_of_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = redistribution_on_grid(rmf(), GRID, BINS, "x.rmf")
    monkeypatch.setattr(module, "_DENSE_ELEMENTS", 10)
    assert np.array_equal(redistribution_on_grid(rmf(), GRID, BINS, "x.rmf"), dense)


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
        redistribution = redistribution_on_grid(fine, GRID, BINS, "fine.rmf")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * n
    inside = (GRID.mid_kev > 0.6) & (GRID.mid_kev < 7.9)
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
        (0.0 * matrix(), NO_PHOTON),
        (
            np.pad(np.ones((900, 1)), [(0, 0), (0, 1023)]),
            NO_PHOTON,
        ),
        (1.3 * matrix(), r"rows of the RMF sum to 1\.3"),
        (_with_value(1e30), r"rows of the RMF sum to .*e\+29"),
    ],
)
def test_what_cannot_be_probabilities_is_refused(values: np.ndarray, said: str) -> None:
    with pytest.raises(OgipError, match=rf"^x\.rmf: .*{said}.*make it again"):
        redistribution_on_grid(rmf(values), GRID, BINS, "x.rmf")


def test_the_area_that_a_matrix_includes_is_divided_out() -> None:
    area = np.linspace(100.0, 500.0, 900)
    whole = rmf(matrix() * area[:, None], includes_area=True)
    folded = efficiency_on_grid(whole, GRID)[:, None] * redistribution_on_grid(
        whole, GRID, BINS, "x"
    )
    shares = overlap_of(arf().energy_lo_kev, arf().energy_hi_kev, GRID).shares
    expected = BINS.bin_counts(shares @ (matrix() * area[:, None]))
    assert folded == pytest.approx(expected, rel=1e-5, abs=1e-9)
