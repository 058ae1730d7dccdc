"""Compute the unfolded flux of a spectrum, with the band in which the posterior draws put it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.describing.measure import Evidence
from raypipe.model.flux_density import flux_density
from raypipe.model.seen_energies import SEEN_AREA
from raypipe.physics.energy import ERG_PER_KEV

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class UnfoldedFlux:
    """Hold E^2 F(E), erg/cm2/s, with F the photon flux density at the telescope's resolution.

    `energy_kev`, `low`, `middle` and `high` (n_energy,): median and 68% interval of the posterior
    of E^2 F(E) at each energy. `is_seen` (n_energy,) tells where the
    instrument counts photons; elsewhere the flux is extrapolated.
    """

    energy_kev: Floats
    low: Floats
    middle: Floats
    high: Floats
    is_seen: npt.NDArray[np.bool_]


def unfolded_flux(evidence: Evidence) -> UnfoldedFlux:
    """Return the flux of the posterior draws at the telescope's resolution (`flux_density`)."""
    batch = evidence.batch
    found = flux_density(evidence.network, batch, evidence.draws)
    to_energy = ERG_PER_KEV * found.energy_kev**2
    low, middle, high = (each[0] * to_energy for each in (found.lolim, found.value, found.hilim))
    area = (batch.arf_cm2[0] * batch.responses[0].sum(-1)).numpy()
    return UnfoldedFlux(found.energy_kev, low, middle, high, area >= SEEN_AREA * area.max())
