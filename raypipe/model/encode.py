"""From a batch of spectra to latents, errors and goodness of fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raypipe.model.batch import SpectraBatch
from raypipe.model.features import prepare
from raypipe.model.presets import Folded, Paper
from raypipe.model.refine import refine
from raypipe.model.statistics import MU_MIN, cash, cash_moments


@dataclass(frozen=True)
class Reconstruction:
    """What a model expects of a batch in the source region.

    `total` and its part `background` (n, n_channel_bins) are expected counts; `flux`
    (n, n_energy) is in photon/cm2/s/keV before the telescope, None for presets without one.
    """

    total: npt.NDArray[np.float32]
    background: npt.NDArray[np.float32]
    flux: npt.NDArray[np.float32] | None


@torch.no_grad()
def encode_batch(
    network: Folded | Paper, spectra: SpectraBatch, refine_steps: int
) -> dict[str, npt.NDArray[Any]]:
    """Latents z0.., errors z0_err.., total_counts, cash, cash_expected and fit_zscore, (n,) each.

    `cash_expected` is the expectation for the fitted model (Kaastra 2017), plus what the
    background's own noise adds (to second order, its variance over the expected counts), less the
    number of parameters the counts determined; `fit_zscore` is the excess over it in standard
    deviations. Presets without a likelihood have no refinement, NaN errors, and one parameter, the
    amplitude.
    """
    device = next(network.parameters()).device
    batch = prepare(spectra, device)
    z = network.encode(batch)
    if isinstance(network, Folded):
        refined = refine(network, z, batch, refine_steps)
        z, z_err, freedom = refined.z, refined.z_err, refined.freedom.cpu().numpy()
    else:
        z_err = torch.full_like(z, torch.nan)
        freedom = np.ones(len(z))
    mu = network.expected_counts(z, batch).cpu().numpy()
    expected, variance = cash_moments(mu)
    unsure = batch.background_variance.cpu().numpy() / np.maximum(mu, MU_MIN)
    total_cash = cash(spectra.counts, mu).sum(-1)
    cash_expected = (expected + unsure).sum(-1) - freedom
    cash_variance = (variance + 4.0 * unsure + 2.0 * unsure**2).sum(-1)
    columns = {f"z{i}": value for i, value in enumerate(z.cpu().numpy().T)}
    columns |= {f"z{i}_err": value for i, value in enumerate(z_err.cpu().numpy().T)}
    columns["total_counts"] = spectra.counts.sum(-1).astype(np.int64)
    columns["cash"] = total_cash
    columns["cash_expected"] = cash_expected
    columns["fit_zscore"] = (total_cash - cash_expected) / np.sqrt(cash_variance)
    return columns


@torch.no_grad()
def reconstruct_batch(
    network: Folded | Paper, spectra: SpectraBatch, z: npt.NDArray[np.float32]
) -> Reconstruction:
    """Expected counts, and flux where the preset has one, for latents `z` (n, latents)."""
    device = next(network.parameters()).device
    batch = prepare(spectra, device)
    latents = torch.from_numpy(z).to(device)
    flux = network.flux(latents, batch).cpu().numpy() if isinstance(network, Folded) else None
    return Reconstruction(
        total=network.expected_counts(latents, batch).cpu().numpy(),
        background=batch.background.cpu().numpy(),
        flux=flux,
    )
