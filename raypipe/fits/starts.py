"""Choose where fits start: the lowest minima of the Cash statistic on a coarse grid of places."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from raypipe.fits.data import Data, absorbed
from raypipe.fits.models import FitModel, Spectra
from raypipe.model.folding import best_amplitude, cash_per_bin, redistribute

STARTS = 3
"""Most starts per spectrum."""
COLUMNS_1E22 = (0.0, 0.1, 0.3, 0.8, 2.0, 5.0, 15.0, 40.0)
"""Column densities of the grid, 10^22 cm^-2."""
_ENERGIES, _CHANNELS = 9, 8
"""Energy bins and channel bins that are joined."""


def choose_starts(
    model: FitModel, spectra: Spectra, sigmas: tuple[Tensor, Tensor], data: Data
) -> tuple[Tensor, Tensor]:
    """Return rows (k,) of the data and places (k, 3) at which their fits start.

    The folds are coarse: energies and channels are joined, and so are areas. Each row has between
    one and `STARTS` starts, the lowest of the local minima.
    """
    values = torch.linspace(*model.fitted_limits, model.starts + 2, dtype=torch.float64)[1:-1]
    columns = torch.tensor(COLUMNS_1E22, dtype=torch.float64)
    nodes = torch.cartesian_prod(values, columns)
    grid = torch.cat([nodes, torch.zeros(len(nodes), 1)], 1)
    flux = absorbed(spectra, sigmas, grid.float())[:, 2]
    statistic, log_counts = _coarse_folds(flux, data)
    square = statistic.view(-1, 1, len(values), len(columns))
    lowest = -max_pool2d(-square, 3, stride=1, padding=1)
    minima = torch.where(square <= lowest, square, torch.inf).flatten(1)
    best, chosen = minima.topk(STARTS, largest=False)
    rows, number = torch.nonzero(torch.isfinite(best), as_tuple=True)
    node = chosen[rows, number]
    return rows, torch.cat([nodes[node], log_counts[rows, node][:, None].double()], 1)


def _coarse_folds(flux: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """Return the Cash statistic and the log of the source counts, (n, nodes) each."""
    n, nodes = len(data), len(flux)
    energies = flux.shape[1] // _ENERGIES
    channels = data.responses.shape[2] // _CHANNELS
    responses = data.responses.unflatten(1, (energies, _ENERGIES)).mean(2)
    responses = responses.unflatten(2, (channels, _CHANNELS)).sum(3)
    photons = torch.einsum(
        "nke,gke->ngk",
        data.to_photons.unflatten(1, (energies, _ENERGIES)),
        flux.unflatten(1, (energies, _ENERGIES)),
    )
    source = redistribute(photons, data.response_index, responses).flatten(0, 1)
    counts, background = (
        each.unflatten(1, (channels, _CHANNELS)).sum(2)[:, None].expand(-1, nodes, -1).flatten(0, 1)
        for each in (data.counts, data.background)
    )
    amplitude = best_amplitude(counts, source, background)
    statistic = cash_per_bin(counts, amplitude * source + background).sum(-1)
    totals = (amplitude * source).sum(-1).clamp_min(1e-2)
    return statistic.view(n, nodes), torch.log(totals).view(n, nodes)
