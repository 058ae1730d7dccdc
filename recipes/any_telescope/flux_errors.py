"""Measure how far the fluxes of a network are off when the counts have no noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.model.band_sums import BandIntegrals
from raypipe.model.features import Batch
from raypipe.model.flux_errors import WHOLLY, FluxErrors
from raypipe.model.fluxes import DETECTED, LEAST_SEEN, BandFluxes, Estimate, band_fluxes
from raypipe.model.posterior import draw
from raypipe.model.presets import Folded
from raypipe.model.refine import refine
from recipes.any_telescope.fresh import FreshStream

EDGES_KEV = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 4.5, 7.0, 10.0, 12.0)
"""Edges of the bands; among them are those of the Chandra Source Catalog."""
COUNTS = 1e6
"""Source counts without noise: far more than the prior weighs."""
DRAWS = 64
SHARE = 0.6827
"""Share of the spectra whose limits shall contain the truth."""

Floats = npt.NDArray[np.float64]


def measure_flux_errors(network: Folded, stream: FreshStream, refine_steps: int) -> FluxErrors:
    """Measure fluxes of the stream's detections without noise, and compare them with the truth.

    A band counts where the instrument sees at least two thirds of it, and where the source would be
    detected in it with the counts of a usual exposure.
    """
    places = list(combinations(range(len(EDGES_KEV)), 2))
    bands = {f"{i}-{j}": (EDGES_KEV[i], EDGES_KEV[j]) for i, j in places}
    integrals = BandIntegrals(network.grid, bands, network.energy_widths_kev)
    squares, seen = [], []
    for each in stream.without_noise(COUNTS):
        found = _measured(network, each.batch, integrals, refine_steps)
        true = integrals.of(each.density[:, None], torch.ones(len(each.counts), 1))
        whole = replace(found, test_statistic=torch.full_like(found.test_statistic, torch.inf))
        pairs = (whole.photon_flux, true.photons), (whole.energy_flux, true.energy)
        squares.append(np.stack([_beyond_posterior(*pair) for pair in pairs]))
        usual = found.test_statistic.numpy() * (each.counts[:, None] / COUNTS)
        seen.append(np.where(usual >= DETECTED, found.seen.numpy(), 0.0))
    return _tabulated(np.concatenate(squares, 1), np.concatenate(seen), places)


@torch.no_grad()
def _measured(
    network: Folded, batch: Batch, integrals: BandIntegrals, refine_steps: int
) -> BandFluxes:
    """Measure fluxes as `embed` does; their limits contain no errors of the model."""
    refined = refine(network, network.encode(batch), batch, refine_steps)
    found = band_fluxes(network, batch, draw(network, refined, batch, DRAWS), integrals.bands)
    return replace(found, errors=None)


def _beyond_posterior(found: Estimate, true: Tensor) -> Floats:
    """Return squares of logarithmic errors minus those that the posterior explains, (n, bands).

    `true` is (n, 1, bands). Even without noise a posterior has a width: where the instrument sees a
    part of a band, the prior alone decides about the rest.
    """
    truth = np.log(true[:, 0].double().numpy())
    low, value, high = (np.log(each) for each in (found.lolim, found.value, found.hilim))
    width = np.where(truth > value, high - value, value - low)
    squares: Floats = (truth - value) ** 2 - width**2
    return squares


def _tabulated(squares: Floats, seen: Floats, places: list[tuple[int, int]]) -> FluxErrors:
    """Tabulate errors by kind, share that is seen (n, bands), and edges.

    The error e of a cell is such that 68% of its spectra are within their limits after e was added
    in quadrature: that share of `squares` (2, n, bands) is below e squared.
    """
    k = len(EDGES_KEV)
    table, number = np.zeros((2, 2, k, k)), np.zeros((2, k, k), np.int64)
    is_wholly = seen >= WHOLLY
    for way, rows in enumerate((is_wholly, (seen >= LEAST_SEEN) & ~is_wholly)):
        for band, place in enumerate(places):
            used = rows[:, band] & np.isfinite(squares[:, :, band]).all(0)
            number[way][place] = used.sum()
            if used.any():
                least = np.quantile(squares[:, used, band], SHARE, axis=1)
                table[:, way][:, *place] = np.sqrt(np.maximum(least, 0.0))
    return FluxErrors(np.array(EDGES_KEV), table, number)
