"""Draw latents and amplitudes from the exact posterior of each detection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raypipe.model.features import Batch
from raypipe.model.folding import cash_per_bin, redistribute
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined

_SOBOL_SEED = 2026
_MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""Multipliers of the hash splitmix64, as signed integers of 64 bits."""


@dataclass(frozen=True)
class Draws:
    """Hold weighted draws from the posterior of each row.

    `z` (n, draws, latents), `log_amplitude` (n, draws), the logarithm of the factor between
    `exp(Folded.log_shape(z))` and the photon flux density, and `weights` (n, draws), which sum to
    one. `ess` (n,) is the effective sample size, 1 / sum of squared weights. Rows without a
    finite posterior are NaN.
    """

    z: Tensor
    log_amplitude: Tensor
    weights: Tensor
    ess: Tensor


@torch.no_grad()
def draw(
    model: Folded,
    refined: Refined,
    batch: Batch,
    draws: int,
    generator: torch.Generator | None = None,
) -> Draws:
    """Draw from the posterior by importance sampling from its normal approximation.

    Without a generator the draws depend on a row's own counts alone, so that they are the same in
    every batch.
    """
    at = torch.cat([refined.z, refined.log_amplitude], 1).double()
    noise = _normal_noise(batch, draws, at.shape[1], generator)
    factor = torch.linalg.cholesky_ex(refined.covariance)[0]
    points = at[:, None] + noise @ factor.transpose(1, 2)
    log_proposal = -0.5 * noise.square().sum(-1)
    log_posterior = _log_posterior(model, points.float(), batch)
    weights = torch.softmax(log_posterior - log_proposal, -1)
    ess = 1.0 / weights.square().sum(-1)
    return Draws(
        z=points[..., :-1].float(),
        log_amplitude=points[..., -1].float(),
        weights=weights.float(),
        ess=ess.float(),
    )


def _log_posterior(model: Folded, points: Tensor, batch: Batch) -> Tensor:
    """Compute the log posterior, up to a constant per row, at points (n, draws, latents + 1).

    The prior is a unit normal in the latents and, with S the expected source counts, proportional
    to 1 / (S + 1) in S: flat in the log amplitude, as in the refinement, down to one count.
    """
    n, draws, size = points.shape
    z, log_a = points[..., :-1], points[..., -1:]
    shape = torch.exp(model.log_shape(z.reshape(n * draws, size - 1))).reshape(n, draws, -1)
    to_photons = batch.arf_cm2 * batch.exposure_s[:, None] * model.energy_widths_kev
    photons = torch.exp(log_a) * shape * to_photons[:, None]
    source = redistribute(photons, batch.response_index, batch.responses)
    cash = cash_per_bin(batch.counts[:, None], source + batch.background[:, None])
    total = source.double().sum(-1)
    log_prior = torch.log(total / (total + 1.0)) - 0.5 * z.double().square().sum(-1)
    return log_prior - 0.5 * cash.double().sum(-1)


def _normal_noise(batch: Batch, draws: int, size: int, generator: torch.Generator | None) -> Tensor:
    """Return quasi-random unit normal noise (n, draws, size): Sobol points, shifted per row."""
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=_SOBOL_SEED)
    points = engine.draw(draws, dtype=torch.float64).to(batch.counts.device)
    if generator is None:
        shifts = _hashed_uniforms(batch, size)
    else:
        shifts = torch.rand(
            len(batch), size, generator=generator, dtype=torch.float64, device=generator.device
        ).to(points.device)
    uniform = (points + shifts[:, None]).remainder(1.0)
    return torch.special.ndtri(uniform.clamp(1e-12, 1.0 - 1e-12))


def _hashed_uniforms(batch: Batch, size: int) -> Tensor:
    """Return numbers between 0 and 1, (n, size), that depend on each row's counts and exposure."""
    content = torch.cat([batch.counts, batch.exposure_s[:, None]], 1).float().contiguous()
    words = content.view(torch.int32).long()
    places = torch.arange(1, words.shape[1] + 1, device=words.device)
    seed = (_mixed(places) * words).sum(1, keepdim=True)
    numbers = _mixed(seed + _mixed(torch.arange(size, device=words.device) + 1))
    return (numbers & ((1 << 53) - 1)).double() / float(1 << 53)


def _mixed(numbers: Tensor) -> Tensor:
    """Hash integers of 64 bits: splitmix64 (Steele, Lea & Flood 2014)."""
    x = numbers * -0x61C8864680B583EB
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX[0]
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX[1]
    return x ^ ((x >> 31) & ((1 << 33) - 1))
