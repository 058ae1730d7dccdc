"""Measure latents, errors and goodness of fit for batches of spectra."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from raypipe.model.band_sums import BandIntegrals
from raypipe.model.covariance import pack
from raypipe.model.features import Batch, prepare
from raypipe.model.fluxes import flux_columns, fluxes_of
from raypipe.model.posterior import draw, sample
from raypipe.model.presets import Folded, Paper
from raypipe.model.refine import Refined, refine
from raypipe.model.statistics import MU_MIN, cash, cash_covariance, cash_moments
from raypipe.spectra.band_counts import BANDS_KEV
from raypipe.spectra.batch import SpectraBatch

_ERRORS = re.compile(r"z\d+_err|z\d+_std|z_cov")
_OF_DRAWS = re.compile(r"z\d+_mean|z\d+_sd|posterior_ess|(phot)?flux_\w+|hard_\w+")


@dataclass(frozen=True)
class Reconstruction:
    """Hold the counts and the photon flux that a model expects for a batch.

    `total` and its part `background` (n, 256) are expected counts in the source region, by channel
    bin; `flux` (n, n_energy) is the photon flux density at the telescope, photon/cm2/s/keV, None
    for presets without one.
    """

    total: npt.NDArray[np.float32]
    background: npt.NDArray[np.float32]
    flux: npt.NDArray[np.float32] | None


def encode_batch(
    network: Folded | Paper,
    spectra: SpectraBatch,
    refine_steps: int,
    errors: bool = True,
    posterior_draws: int = 0,
    fluxes: bool = False,
) -> dict[str, npt.NDArray[Any]]:
    """Measure a batch of spectra; the columns are those of `measure`.

    Rows without a likelihood (`SpectraBatch.is_measurable`) are not passed to the network: all
    their columns are NaN, except for `total_counts` and `n_bins`.
    """
    device = next(network.parameters()).device
    rows = spectra.is_measurable
    if rows.all():
        batch = prepare(spectra, device)
        return measure(network, batch, refine_steps, errors, posterior_draws, fluxes)
    batch = prepare(spectra.take(np.flatnonzero(rows)), device)
    measured = measure(network, batch, refine_steps, errors, posterior_draws, fluxes)
    columns = {name: _spread(values, rows) for name, values in measured.items()}
    return columns | {
        "total_counts": _total_counts(spectra.counts),
        "n_bins": spectra.n_bins,
    }


def blank_unmeasured(columns: dict[str, npt.NDArray[Any]], errors: bool) -> None:
    """Set all values but `total_counts` to NaN in rows with a number that is not finite.

    Columns of posterior draws do not count: if these fail, the row keeps its other values. Without
    `errors`, the columns of errors, which are NaN in every row, do not count either.
    """
    floats = {name: values for name, values in columns.items() if values.dtype.kind == "f"}
    finite = [
        np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        for name, values in floats.items()
        if not _OF_DRAWS.fullmatch(name) and (errors or not _ERRORS.fullmatch(name))
    ]
    unmeasured = ~np.all(finite, axis=0)
    if unmeasured.any():
        for name, values in floats.items():
            columns[name] = values.copy()
            columns[name][unmeasured] = np.nan


@torch.no_grad()
@np.errstate(all="ignore")  # Rows that are not finite are found later (`blank_unmeasured`).
def measure(
    network: Folded | Paper,
    batch: Batch,
    refine_steps: int,
    errors: bool = True,
    posterior_draws: int = 0,
    fluxes: bool = False,
) -> dict[str, npt.NDArray[Any]]:
    """Measure latents and goodness of fit: columns of (n,) by name.

    They are z0.., z0_err.., z0_std.., total_counts, cash, cash_expected, fit_zscore, and n_bins,
    the number of channel bins over which `cash` is summed. `z_cov` (n, latents (latents + 1) / 2)
    is the lower triangle of the latents' posterior covariance, row by row.

    `cash_expected` is the expectation for the fitted model (Kaastra 2017), plus the contribution of
    the background's noise, minus the number of parameters that the counts determined. `fit_zscore`
    is the excess over it in standard deviations, reduced by the fit's share (`_taken_by_fit`).
    With `posterior_draws`, z0_mean.., z0_sd.. and posterior_ess are mean and width of as many draws
    from the exact posterior, and the effective number of draws (`posterior.draw`); with `fluxes`,
    there are also the columns of `raypipe.model.fluxes.flux_columns`.

    Without `errors`, and for presets without a likelihood, there is no refinement, errors are NaN,
    there are no columns of draws, and the amplitude is the only fitted parameter.
    """
    z = network.encode(batch)
    refined = None
    if errors and isinstance(network, Folded):
        refined = refine(network, z, batch, refine_steps)
        z = refined.z
    mu = network.expected_counts(z, batch).cpu().numpy()
    expected, variance = cash_moments(mu)
    # To second order, an error e of mu adds 2 e (1 - n / mu) + e^2 / mu to the Cash statistic. With
    # v = var(e) / mu, the mean of that is v, and its variance 4 v + 2 v^2 for a normal e.
    unsure = batch.background_variance.cpu().numpy() / np.maximum(mu, MU_MIN)
    counts = batch.counts.cpu().numpy()
    total_cash = cash(counts, mu).sum(-1)
    freedom, fitted = _taken_by_fit(refined, mu)
    cash_expected = (expected + unsure).sum(-1) - freedom
    cash_variance = variance.sum(-1) - fitted + (4.0 * unsure + 2.0 * unsure**2).sum(-1)
    nothing = torch.full_like(z, torch.nan)
    columns = _columns("z{}", z)
    columns |= _columns("z{}_err", nothing if refined is None else refined.z_err)
    columns |= _columns("z{}_std", nothing if refined is None else refined.z_std)
    columns["z_cov"] = _covariance(refined, z)
    if posterior_draws and refined is not None and isinstance(network, Folded):
        columns |= _posterior_columns(network, refined, batch, posterior_draws, fluxes)
    columns["total_counts"] = _total_counts(counts)
    columns["n_bins"] = batch.n_bins.cpu().numpy()
    columns["cash"] = total_cash
    columns["cash_expected"] = cash_expected
    columns["fit_zscore"] = (total_cash - cash_expected) / np.sqrt(cash_variance)
    return columns


def as_frame(columns: Mapping[str, npt.NDArray[Any]]) -> pd.DataFrame:
    """Make a data frame of the columns of `measure`; a cell holds the whole vector of a row."""
    cells = {
        name: pd.Series(list(column), dtype=object) if column.ndim > 1 else column
        for name, column in columns.items()
    }
    return pd.DataFrame(cells)


def _total_counts(counts: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Sum the counts of each row, (n,); 0 where one is not finite."""
    return np.nan_to_num(counts.sum(-1, dtype=np.float64), posinf=0.0).astype(np.int64)


def _spread(values: npt.NDArray[Any], rows: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Put values into those of n rows in which `rows` is true; the others are NaN."""
    kind = values.dtype if values.dtype.kind == "f" else np.float64
    spread = np.full((len(rows), *values.shape[1:]), np.nan, kind)
    spread[rows] = values
    return spread


def _columns(name: str, values: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
    return {name.format(i): column for i, column in enumerate(values.cpu().numpy().T)}


def _posterior_columns(
    network: Folded, refined: Refined, batch: Batch, draws: int, fluxes: bool
) -> dict[str, npt.NDArray[Any]]:
    integrals = None
    if fluxes:
        integrals = BandIntegrals(network.grid, BANDS_KEV, network.energy_widths_kev)
    drawn = draw(network, refined, batch, draws, integrals=integrals)
    columns = _columns("z{}_mean", drawn.mean) | _columns("z{}_sd", drawn.std)
    columns["posterior_ess"] = drawn.ess.cpu().numpy()
    if integrals is not None and drawn.sums is not None:
        columns |= flux_columns(fluxes_of(network, batch, drawn, integrals, drawn.sums))
    return columns


def _covariance(refined: Refined | None, z: torch.Tensor) -> npt.NDArray[np.float32]:
    latents = z.shape[1]
    if refined is None:
        return np.full((len(z), latents * (latents + 1) // 2), np.nan, np.float32)
    return pack(refined.covariance[:, :latents, :latents].cpu().numpy())


def _taken_by_fit(
    refined: Refined | None, mu: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute how much a fit lowers expectation and variance of the Cash statistic, (n,) each.

    The expectation is lowered by the effective number of parameters. Besides, it is computed at the
    fitted parameters, which follow the noise by C s: s are the scores, C the covariance of the fit,
    and F, the information, is the covariance of s. The slope of a bin's expectation is cov(cash, n)
    d ln(mu), so that with c = cov(cash, s) the expectation moves by c C s, and the variance of the
    statistic minus its expectation decreases by 2 c C c - c C F C c. For bright spectra c is near
    zero. For faint ones the statistic depends mostly on the number of counts, which the fitted
    amplitude follows.
    """
    covariances = cash_covariance(mu)
    if refined is None:
        # Only the amplitude is fitted: its score is the sum of n - mu, and F = 1 / C = sum of mu.
        total = np.maximum(mu.sum(-1), MU_MIN)
        return np.ones(len(mu)), covariances.sum(-1) ** 2 / total
    # c_j = sum over bins of d ln(mu) / d parameter_j times cov(cash, n).
    along = np.einsum("njc,nc->nj", refined.sensitivity.cpu().numpy(), covariances)
    covariance, information = refined.covariance.cpu().numpy(), refined.information.cpu().numpy()
    moved = np.einsum("njk,nk->nj", covariance, along)
    taken = 2.0 * (along * moved).sum(-1) - np.einsum("nj,njk,nk->n", moved, information, moved)
    return refined.freedom.cpu().numpy(), taken


@dataclass(frozen=True)
class PosteriorSample:
    """Hold equally weighted draws from the posterior of each spectrum.

    `z` (n, draws, latents) and `log_amplitude` (n, draws): the photon flux density of a draw is
    exp(log_amplitude) times `exp(network.log_shape(z))`. `ess` (n,) is the number of independent
    draws they are worth. Spectra that cannot be measured are NaN.
    """

    z: npt.NDArray[np.float32]
    log_amplitude: npt.NDArray[np.float32]
    ess: npt.NDArray[np.float32]


@torch.no_grad()
def sample_batch(
    network: Folded, spectra: SpectraBatch, refine_steps: int, draws: int, seed: int | None
) -> PosteriorSample:
    """Draw from the posteriors of a batch; without a seed, each spectrum's own counts decide."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rows = spectra.is_measurable
    batch = prepare(spectra.take(np.flatnonzero(rows)), next(network.parameters()).device)
    refined = refine(network, network.encode(batch), batch, refine_steps)
    drawn = sample(network, refined, batch, draws, generator)
    parts = (drawn.z, drawn.log_amplitude, drawn.ess)
    return PosteriorSample(*(_spread(part.cpu().numpy(), rows) for part in parts))


@torch.no_grad()
def reconstruct_batch(
    network: Folded | Paper, spectra: SpectraBatch, z: npt.NDArray[np.float32]
) -> Reconstruction:
    """Predict counts, and the flux if the preset has one, for latents `z` (n, latents)."""
    device = next(network.parameters()).device
    batch = prepare(spectra, device)
    latents = torch.tensor(z, device=device)
    flux = network.flux(latents, batch).cpu().numpy() if isinstance(network, Folded) else None
    return Reconstruction(
        total=network.expected_counts(latents, batch).cpu().numpy(),
        background=batch.background.cpu().numpy(),
        flux=flux,
    )
