"""Show the flux density at the resolution of the instrument, with the limits of its posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.features import Batch
from raypipe.model.presets import Folded
from raypipe.model.weighted_quantiles import ONE_SIGMA, weighted_quantiles
from raypipe.spectra.grid import EnergyGrid

if TYPE_CHECKING:
    from raypipe.model.posterior import Draws

FloatArray = npt.NDArray[np.float32]

_FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))
_ROWS_AT_ONCE = 16
"""Rows whose draws are decoded together."""


@dataclass(frozen=True)
class FluxDensity:
    """Hold photon flux densities at the instrument's resolution, photon/cm2/s/keV.

    `energy_kev` (n_energy,) are the middles of the energy bins; `value`, the median of the
    posterior, and `lolim` and `hilim`, which enclose 68% of it, are (n, n_energy).
    """

    energy_kev: npt.NDArray[np.float64]
    value: FloatArray
    lolim: FloatArray
    hilim: FloatArray


@torch.no_grad()
def flux_density(model: Folded, batch: Batch, draws: Draws) -> FluxDensity:
    """Average the flux of each draw over the width of a line, and take quantiles of the draws."""
    n, number, latents = draws.z.shape
    limits = np.full((3, n, model.grid.n_energy), np.nan, np.float32)
    for rows in torch.arange(n).split(_ROWS_AT_ONCE):
        log_amplitude = draws.log_amplitude[rows].reshape(-1, 1)
        shape = model.log_shape(draws.z[rows].reshape(-1, latents).float())
        flux = torch.exp(shape + log_amplitude.float()).reshape(len(rows), number, -1)
        flux = at_resolution(flux, model.grid, batch.axes, batch.response_index[rows])
        weights = draws.weights[rows, :, None].float().expand_as(flux)
        effective = draws.ess[rows, None].expand(-1, model.grid.n_energy)
        quantiles = weighted_quantiles(flux, weights, effective, ONE_SIGMA)
        limits[:, rows.numpy()] = quantiles.cpu().numpy()
    low, middle, high = limits
    return FluxDensity(model.grid.mid_kev, middle, low, high)


def at_resolution(
    flux: Tensor, grid: EnergyGrid, axes: ChannelAxes, response_index: Tensor
) -> Tensor:
    """Average flux densities (n, ..., n_energy) over the width of a line at each energy.

    The bins of the energy grid are finer than any response resolves: between them the counts leave
    the flux free, and only its averages are measured. The average is a Gaussian with the FWHM of
    the response in the row of `response_index` (n,). Its weights sum to one at every energy, so
    that a constant flux stays constant up to both ends of the grid.
    """
    averaged = torch.empty_like(flux)
    for response in torch.unique(response_index).tolist():
        kernel = torch.from_numpy(_kernel(grid, axes, response)).to(flux)
        rows = torch.nonzero(response_index == response)[:, 0].to(flux.device)
        averaged[rows] = flux[rows] @ kernel
    return averaged


def _kernel(grid: EnergyGrid, axes: ChannelAxes, response: int) -> npt.NDArray[np.float64]:
    """Return the weights (from, to) of the average; beyond the bins the FWHM is the outermost."""
    valid = axes.valid[response].cpu().numpy()
    low, high, fwhm = (
        each[response].cpu().numpy()[valid].astype(np.float64)
        for each in (axes.lo_kev, axes.hi_kev, axes.fwhm_kev)
    )
    sigma = np.interp(grid.mid_kev, 0.5 * (low + high), fwhm) / _FWHM_PER_SIGMA
    distance = (grid.mid_kev[:, None] - grid.mid_kev) / sigma
    weights = np.exp(-0.5 * distance**2) * grid.widths_kev[:, None]
    return np.asarray(weights / weights.sum(0))
