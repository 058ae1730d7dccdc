"""Run a long Hamiltonian Monte Carlo of one posterior, to compare the weighted draws with."""

from __future__ import annotations

import torch
from torch import Tensor

from raypipe.model.features import Batch
from raypipe.model.folding import cash_per_bin, fold
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined

_CHAINS, _LEAPS, _STEP = 48, 8, 0.22
_WARM_UP = 60


def long_chain(
    model: Folded, batch: Batch, refined: Refined, iterations: int, seed: int
) -> tuple[Tensor, float, Tensor]:
    """Sample latents and log amplitude of a batch of one row by Hamiltonian Monte Carlo.

    48 chains start about the refined maximum, in coordinates in which its covariance is the unit
    matrix. Returns the samples (samples, latents + 1), the share of accepted steps, and the
    Gelman-Rubin statistic of each parameter.
    """
    rng = torch.Generator().manual_seed(seed)
    center = torch.cat([refined.z, refined.log_amplitude], 1).float()
    factor = torch.linalg.cholesky(refined.covariance[0]).float()
    rows = batch.take(torch.zeros(_CHAINS, dtype=torch.long))
    place = torch.randn(_CHAINS, center.shape[1], generator=rng)
    height, slope = _height(model, rows, center, factor, place)
    kept, accepted = [], 0.0
    for iteration in range(_WARM_UP + iterations):
        momentum = torch.randn(place.shape, generator=rng)
        energy = height - 0.5 * momentum.square().sum(1)
        new, new_height, new_slope, moving = place, height, slope, momentum
        step = _STEP * float(0.7 + 0.6 * torch.rand(1, generator=rng))
        for _ in range(_LEAPS):
            moving = moving + 0.5 * step * new_slope
            new = new + step * moving
            new_height, new_slope = _height(model, rows, center, factor, new)
            moving = moving + 0.5 * step * new_slope
        change = new_height - 0.5 * moving.square().sum(1) - energy
        taken = torch.rand(_CHAINS, generator=rng) < torch.exp(change.clamp_max(0.0))
        place = torch.where(taken[:, None], new, place)
        height = torch.where(taken, new_height, height)
        slope = torch.where(taken[:, None], new_slope, slope)
        if iteration >= _WARM_UP:
            kept.append(center + place @ factor.T)
            accepted += float(taken.float().mean())
    chains = torch.stack(kept)
    within = chains.var(0).mean(0)
    between = chains.mean(0).var(0)
    return chains.flatten(0, 1), accepted / iterations, (1.0 + between / within).sqrt()


def _height(
    model: Folded, rows: Batch, center: Tensor, factor: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the log posterior of each chain and its slope, from the definition of the model."""
    place = place.detach().requires_grad_()
    at = center + place @ factor.T
    z, log_amplitude = at[:, :-1], at[:, -1:]
    source = fold(torch.exp(model.log_shape(z) + log_amplitude), rows, model.energy_widths_kev)
    total = source.sum(1)
    cash = cash_per_bin(rows.counts, source + rows.background).sum(1)
    height = torch.log(total / (total + 1.0)) - 0.5 * z.square().sum(1) - 0.5 * cash
    (slope,) = torch.autograd.grad(height.sum(), place)
    return height.detach(), slope
