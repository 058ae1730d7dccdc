"""Answer questions about the fluxes of spectra: integrals over any band, and the density."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from raypipe.errors import UsageError
from raypipe.model.band_sums import Bands
from raypipe.model.features import Batch, prepare
from raypipe.model.flux_density import FluxDensity, flux_density
from raypipe.model.fluxes import BandFluxes, band_fluxes
from raypipe.model.posterior import Draws, draw
from raypipe.model.presets import Folded
from raypipe.model.refine import refine
from raypipe.spectra.batch import SpectraBatch


def flux_frame(
    network: Folded, spectra: SpectraBatch, bands: Bands, refine_steps: int, draws: int
) -> pd.DataFrame:
    """Measure fluxes in bands: columns flux_<band> and photflux_<band> with limits; a row each.

    See `Model.band_flux`. A spectrum without a likelihood has NaN.
    """
    rows = np.flatnonzero(spectra.is_measurable)
    batch, drawn = _posterior(network, spectra.take(rows), refine_steps, draws)
    columns = _columns(band_fluxes(network, batch, drawn, bands))
    frame = pd.DataFrame(columns, index=rows)
    return frame.reindex(np.arange(len(spectra)))


def density_of(
    network: Folded, spectra: SpectraBatch, refine_steps: int, draws: int
) -> FluxDensity:
    """Measure the flux density of spectra, NaN for a spectrum without a likelihood."""
    rows = spectra.is_measurable
    batch, drawn = _posterior(network, spectra.take(np.flatnonzero(rows)), refine_steps, draws)
    found = flux_density(network, batch, drawn)
    limits = np.full((3, len(spectra), network.grid.n_energy), np.nan, np.float32)
    limits[:, rows] = found.value, found.lolim, found.hilim
    return FluxDensity(found.energy_kev, *limits)


def require_draws(draws: int) -> None:
    """Raise UsageError unless that many draws can be made."""
    if draws < 1:
        raise UsageError(f"cannot draw {draws} times: at least one draw is necessary")


@torch.no_grad()
def _posterior(
    network: Folded, spectra: SpectraBatch, refine_steps: int, draws: int
) -> tuple[Batch, Draws]:
    batch = prepare(spectra, next(network.parameters()).device)
    refined = refine(network, network.encode(batch), batch, refine_steps)
    return batch, draw(network, refined, batch, draws, thorough=True)


def _columns(fluxes: BandFluxes) -> dict[str, npt.NDArray[Any]]:
    columns = {}
    kinds = {"flux": fluxes.energy_flux, "photflux": fluxes.photon_flux}
    for place, band in enumerate(fluxes.bands):
        for kind, estimate in kinds.items():
            for end in ("value", "lolim", "hilim", "upper_limit"):
                name = f"{kind}_{band}" if end == "value" else f"{kind}_{band}_{end}"
                columns[name] = getattr(estimate, end)[:, place]
        columns[f"seen_{band}"] = fluxes.seen[:, place].cpu().numpy()
    return columns
