"""Run long Markov chains on one posterior, to compare the weighted draws with.

Hamiltonian Monte Carlo with parallel tempering: chains of a ladder of temperatures exchange places,
so that those of the posterior reach all modes and the ends of long tails through posteriors of
fewer counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raypipe.model.features import Batch
from raypipe.model.folding import cash_per_bin, fold
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined

_CHAINS = 8
"""Chains per temperature."""
_LEAST_COUNTS = 15.0
"""Counts of the hottest posterior, which is nearly the prior."""
_RATIO = 0.6
"""Share of the counts of a temperature that the next hotter one has."""
_LEAPS, _STEP = 6, 0.25
_WANTED = 0.75
"""Share of accepted steps to which the sizes of the steps are adapted in the warm-up."""


@dataclass
class _Places:
    """Hold the places of all chains, (temperatures, chains, parameters), and what is known there.

    `likelihood` and `prior` (temperatures, chains) are logarithms, with their slopes by the place.
    """

    at: Tensor
    likelihood: Tensor
    prior: Tensor
    likelihood_slope: Tensor
    prior_slope: Tensor

    def height(self, inverse: Tensor) -> Tensor:
        """Return the log posterior at the inverse temperatures (temperatures, 1)."""
        return inverse * self.likelihood + self.prior

    def slope(self, inverse: Tensor) -> Tensor:
        """Return the gradient of the log posterior."""
        return inverse[..., None] * self.likelihood_slope + self.prior_slope

    def where(self, taken: Tensor, other: _Places) -> _Places:
        """Keep the places where `taken` (temperatures, chains), and take the rest from `other`."""
        wide = taken[..., None]
        return _Places(
            torch.where(wide, self.at, other.at),
            torch.where(taken, self.likelihood, other.likelihood),
            torch.where(taken, self.prior, other.prior),
            torch.where(wide, self.likelihood_slope, other.likelihood_slope),
            torch.where(wide, self.prior_slope, other.prior_slope),
        )

    def moved(self, order: Tensor) -> _Places:
        """Exchange places between temperatures; `order` (temperatures, chains) are sources."""
        wide = order[..., None].expand_as(self.at)
        return _Places(
            self.at.gather(0, wide),
            self.likelihood.gather(0, order),
            self.prior.gather(0, order),
            self.likelihood_slope.gather(0, wide),
            self.prior_slope.gather(0, wide),
        )


def long_chain(
    model: Folded, batch: Batch, refined: Refined, iterations: int, seed: int
) -> tuple[Tensor, float, Tensor]:
    """Sample latents and log amplitude of a batch of one row.

    A first third of as many iterations is the warm-up, in which the sizes of the steps and the
    metrics of the temperatures are adapted. Returns the samples of the posterior (samples,
    latents + 1), the share of accepted steps, and the Gelman-Rubin statistic of each parameter.
    """
    rng = torch.Generator().manual_seed(seed)
    inverse = _ladder(float(batch.counts.sum()))
    factor = _factors(refined, inverse)
    size = factor.shape[-1]
    rows = batch.take(torch.zeros(len(inverse) * _CHAINS, dtype=torch.long))
    center = torch.cat([refined.z, refined.log_amplitude], 1).float()
    noise = torch.randn(len(inverse), _CHAINS, size, generator=rng)
    places = _places(model, rows, center + noise @ factor.transpose(1, 2))
    step = torch.full((len(inverse), 1), _STEP)
    warm_up = max(20, iterations // 3)
    seen, kept, accepted = [], [], 0.0
    for iteration in range(-warm_up, iterations):
        places, taken = _leap(model, rows, places, inverse, factor, step, rng)
        places = _exchange(places, inverse, iteration % 2, rng)
        if iteration < 0:
            step = step * torch.exp(0.1 * (taken.float().mean(1, keepdim=True) - _WANTED))
            seen.append(places.at)
            if iteration in (-(2 * warm_up) // 3, -warm_up // 3):
                factor = _adapted(torch.stack(seen[len(seen) // 2 :]), factor)
        else:
            kept.append(places.at[0])
            accepted += float(taken[0].float().mean())
    chains = torch.stack(kept)
    within, between = chains.var(0).mean(0), chains.mean(0).var(0)
    return chains.flatten(0, 1), accepted / iterations, (1.0 + between / within).sqrt()


def _ladder(counts: float) -> Tensor:
    """Return inverse temperatures from one to that of the least counts, (temperatures, 1)."""
    inverse = [1.0]
    while inverse[-1] * counts > _LEAST_COUNTS:
        inverse.append(inverse[-1] * _RATIO)
    return torch.tensor(inverse)[:, None]


def _factors(refined: Refined, inverse: Tensor) -> Tensor:
    """Return Cholesky factors of the covariance about the maximum at each temperature."""
    information = refined.information[0].double()
    prior = torch.eye(len(information), dtype=torch.float64)
    prior[-1, -1] = 1e-3
    precision = inverse[..., None].double() * information + prior
    return torch.linalg.cholesky(torch.linalg.inv(precision)).float()


def _adapted(seen: Tensor, factor: Tensor) -> Tensor:
    """Return factors of the covariance of what each temperature saw, and a little of the former."""
    apart = (seen - seen.mean((0, 2), keepdim=True)).permute(1, 0, 2, 3).flatten(1, 2).double()
    found = apart.transpose(1, 2) @ apart / apart.shape[1]
    former = (factor @ factor.transpose(1, 2)).double()
    return torch.linalg.cholesky(0.9 * found + 0.1 * former).float()


def _leap(
    model: Folded,
    rows: Batch,
    old: _Places,
    inverse: Tensor,
    factor: Tensor,
    step: Tensor,
    rng: torch.Generator,
) -> tuple[_Places, Tensor]:
    """Move each chain along a trajectory, in coordinates in which its covariance is about one."""
    size = step * (0.6 + 0.8 * torch.rand(step.shape, generator=rng))
    momentum = torch.randn(old.at.shape, generator=rng)
    energy = old.height(inverse) - 0.5 * momentum.square().sum(-1)
    new, size = old, size[..., None]
    for _ in range(_LEAPS):
        momentum = momentum + 0.5 * size * (new.slope(inverse) @ factor)
        new = _places(model, rows, new.at + size * (momentum @ factor.transpose(1, 2)))
        momentum = momentum + 0.5 * size * (new.slope(inverse) @ factor)
    change = new.height(inverse) - 0.5 * momentum.square().sum(-1) - energy
    taken = torch.rand(change.shape, generator=rng) < torch.exp(change.clamp_max(0.0))
    return new.where(taken, old), taken


def _exchange(places: _Places, inverse: Tensor, parity: int, rng: torch.Generator) -> _Places:
    """Exchange places of neighboring temperatures, those of even or of odd pairs."""
    order = torch.arange(len(inverse))[:, None].expand(-1, _CHAINS).clone()
    for cold in range(parity, len(inverse) - 1, 2):
        gain = (inverse[cold] - inverse[cold + 1]) * (
            places.likelihood[cold + 1] - places.likelihood[cold]
        )
        swapped = torch.rand(_CHAINS, generator=rng) < torch.exp(gain.clamp_max(0.0))
        order[cold], order[cold + 1] = (
            torch.where(swapped, cold + 1, cold),
            torch.where(swapped, cold, cold + 1),
        )
    return places.moved(order)


def _places(model: Folded, rows: Batch, at: Tensor) -> _Places:
    """Compute likelihood and prior of all chains and their slopes, from the model's definition."""
    flat = at.detach().flatten(0, 1).requires_grad_()
    z, log_amplitude = flat[:, :-1], flat[:, -1:]
    source = fold(torch.exp(model.log_shape(z) + log_amplitude), rows, model.energy_widths_kev)
    total = source.sum(1)
    likelihood = -0.5 * cash_per_bin(rows.counts, source + rows.background).sum(1)
    prior = torch.log(total / (total + 1.0)) - 0.5 * z.square().sum(1)
    slopes = [
        torch.autograd.grad(each.sum(), flat, retain_graph=True)[0].reshape(at.shape)
        for each in (likelihood, prior)
    ]
    likelihood, prior = (each.detach().reshape(at.shape[:-1]) for each in (likelihood, prior))
    return _Places(at.detach(), likelihood, prior, *slopes)
