"""Compute the unfolded flux of a spectrum, with the band in which the posterior draws put it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raypipe.describing.measure import Evidence
from raypipe.model.fluxes import ERG_PER_KEV, SEEN_AREA
from raypipe.model.weighted_quantiles import weighted_quantiles

Floats = npt.NDArray[np.float64]

_QUANTILES = (0.158655, 0.5, 0.841345)


@dataclass(frozen=True)
class UnfoldedFlux:
    """Hold E^2 F(E), erg/cm2/s, with F the photon flux density, at the energies of the grid.

    `energy_kev`, `low`, `middle` and `high` (n_energy,): median and 68% interval of the posterior
    at each energy. `is_seen` (n_energy,) tells where the instrument counts photons; elsewhere the
    flux is extrapolated.
    """

    energy_kev: Floats
    low: Floats
    middle: Floats
    high: Floats
    is_seen: npt.NDArray[np.bool_]


@torch.no_grad()
def unfolded_flux(evidence: Evidence) -> UnfoldedFlux:
    """Decode the posterior draws of a spectrum, and take their weighted quantiles per energy."""
    network, draws, batch = evidence.network, evidence.draws, evidence.batch
    energy = network.grid.mid_kev
    density = network.log_shape(draws.z[0].float()) + draws.log_amplitude[0][:, None].float()
    weights = draws.weights[0][:, None].to(density.dtype).expand_as(density)
    logs = weighted_quantiles(density[None], weights[None], _QUANTILES).double().numpy()
    low, middle, high = np.exp(logs[:, 0]) * ERG_PER_KEV * energy**2
    caught = batch.responses[0].sum(-1)
    area = (batch.arf_cm2[0] * caught).numpy()
    return UnfoldedFlux(energy, low, middle, high, area >= SEEN_AREA * area.max())
