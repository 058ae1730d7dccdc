"""Hold draws from several proposals, weight them together, and choose some of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raypipe.model.pareto import smooth
from raypipe.model.posterior_density import PosteriorDensity
from raypipe.model.row_noise import uniforms
from raypipe.model.split_normal import SplitNormal

_VALUES = ("z", "log_amplitude", "log_posterior", "log_target")
_RESAMPLING = 99


@dataclass(frozen=True)
class Pool:
    """Hold all draws of some rows with the proposals they came from.

    `log_posterior` (n, draws) is that of latents and amplitude, `log_target` its difference to the
    log density of the amplitude's proposal; `shares` are the numbers of draws of each proposal.
    """

    z: Tensor
    log_amplitude: Tensor
    log_posterior: Tensor
    log_target: Tensor
    proposals: tuple[SplitNormal, ...]
    shares: tuple[int, ...]

    @classmethod
    def of(
        cls,
        density: PosteriorDensity,
        proposal: SplitNormal,
        noise: Tensor,
        densities: Tensor | None = None,
    ) -> Pool:
        """Draw from one proposal by unit normal noise (n, draws, latents + 1).

        `densities` is filled as in `PosteriorDensity.with_amplitude`.
        """
        z = proposal.draw(noise[..., :-1])
        found = density.with_amplitude(z, noise[..., -1], densities)
        target = found.log_posterior - found.log_proposal
        return cls(
            z, found.log_amplitude, found.log_posterior, target, (proposal,), (noise.shape[1],)
        )

    @property
    def log_weights(self) -> Tensor:
        """Compute the log of target over the mixture of all proposals, (n, draws)."""
        terms = [
            proposal.log_density(self.z) + math.log(share)
            for proposal, share in zip(self.proposals, self.shares, strict=True)
        ]
        return finite(self.log_target - torch.logsumexp(torch.stack(terms), 0))

    def take(self, rows: Tensor) -> Pool:
        """Select rows by index."""
        return replace(
            self,
            proposals=tuple(proposal.take(rows) for proposal in self.proposals),
            **{name: getattr(self, name)[rows] for name in _VALUES},
        )

    def joined(self, other: Pool) -> Pool:
        """Add the draws of another pool of the same rows."""
        pairs = {name: [getattr(self, name), getattr(other, name)] for name in _VALUES}
        return replace(
            self,
            proposals=self.proposals + other.proposals,
            shares=self.shares + other.shares,
            **{name: torch.cat(pair, 1) for name, pair in pairs.items()},
        )

    def judged_by(self, density: PosteriorDensity) -> Pool:
        """Return the same draws, with their targets by another density."""
        value = density.at(self.z, self.log_amplitude)
        target = self.log_target + (value - self.log_posterior)
        return replace(self, log_posterior=value, log_target=target)


@dataclass(frozen=True)
class Chosen:
    """Hold the draws chosen from a pool by its weights, whose effective number is `ess` (n,)."""

    z: Tensor
    log_amplitude: Tensor
    log_posterior: Tensor
    ess: Tensor
    pareto_k: Tensor

    @classmethod
    def of(cls, pool: Pool, draws: int, seeds: Tensor) -> Chosen:
        """Choose that many draws; `seeds` (n,) fix the choice."""
        weights, shape = smooth(pool.log_weights)
        chosen = choice(weights, draws, seeds)
        return cls(
            gathered(pool.z, chosen),
            pool.log_amplitude.gather(1, chosen),
            pool.log_posterior.gather(1, chosen),
            1.0 / weights.square().sum(-1),
            shape,
        )


def choice(weights: Tensor, draws: int, seeds: Tensor) -> Tensor:
    """Choose draws by their weights (n, draws), by systematic resampling: indices (n, `draws`).

    An average over chosen draws has the variance of the weighted one, and that of the choice: as if
    it had been independent, which is cautious, for systematic choices vary less.
    """
    offsets = uniforms(seeds, 1, _RESAMPLING)
    # Regular steps through Sobol points would select a part of space, so their order is shuffled.
    shuffle = torch.randperm(weights.shape[1], generator=torch.Generator().manual_seed(0))
    shuffle = shuffle.to(offsets.device)
    levels = torch.arange(draws, dtype=torch.float64, device=offsets.device)
    edges = weights[:, shuffle].double().cumsum(-1)
    places = torch.searchsorted(edges, (levels + offsets) / draws * edges[:, -1:])
    return shuffle[places.clamp_max(len(shuffle) - 1)]


def gathered(z: Tensor, chosen: Tensor) -> Tensor:
    """Take the chosen draws (n, m) of latents (n, draws, latents)."""
    return z.gather(1, chosen[..., None].expand(-1, -1, z.shape[2]))


def finite(log_weights: Tensor) -> Tensor:
    """Give no weight to a draw whose weight is not finite."""
    return torch.where(torch.isfinite(log_weights), log_weights, -torch.inf)
