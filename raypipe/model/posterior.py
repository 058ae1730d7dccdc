"""Draw latents and amplitudes from the exact posterior of each detection."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raypipe.model.exact_density import ExactDensity
from raypipe.model.features import Batch
from raypipe.model.modes import BRIGHT, Mode, Modes, search
from raypipe.model.pareto import smooth
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined
from raypipe.model.row_noise import content_seeds, normal_noise, random_seeds, uniforms
from raypipe.model.split_normal import SplitNormal

_PROBE = 1.5
"""Distance from the maximum at which the widths of the first proposal are measured."""
_WIDTH_RANGE = (0.4, 2.5)
_WIDENING = 1.1
_WIDE = 1.6
"""Width of the draws that bright and poorly sampled rows get besides, in units of the first."""
_WIDE_DRAWS = 3
"""Number of these draws, in units of those wanted."""
_ESS_WANTED = 0.25
"""Effective share of the draws below which a row gets further proposals."""
_FURTHER = (2, 4)
"""Draws of the proposals that follow all draws before them, in units of those wanted."""
_KEPT_DRAWS = 20.0
"""The covariance of earlier draws weighs as much as the former one if they are worth this many."""
_RESAMPLING = 99
_POOL = 4
_FIELDS = ("z", "log_amplitude", "weights", "ess", "pareto_k")
_POINTS_AT_ONCE = {"cpu": 2048, "cuda": 65536}


@dataclass(frozen=True)
class Draws:
    """Hold weighted draws from the posterior of each row.

    `z` (n, draws, latents), `log_amplitude` (n, draws), the logarithm of the factor between
    `exp(Folded.log_shape(z))` and the photon flux density, and `weights` (n, draws), which sum to
    one. `ess` (n,) is the effective number of independent draws, and `pareto_k` (n,) the shape of
    the tail of the weights, above 0.7 for unreliable ones. Rows without a posterior are NaN.
    """

    z: Tensor
    log_amplitude: Tensor
    weights: Tensor
    ess: Tensor
    pareto_k: Tensor

    @property
    def mean(self) -> Tensor:
        """Compute the posterior mean of the latents, (n, latents)."""
        return (self.weights[..., None] * self.z).sum(1)

    @property
    def std(self) -> Tensor:
        """Compute the posterior standard deviation of the latents, (n, latents).

        It is divided by 1 - sum of squared weights, as the variance of a sample is by n - 1.
        """
        weights = self.weights.double()
        square = (self.z - self.mean[:, None]).double().square()
        freedom = (1.0 - weights.square().sum(-1, keepdim=True)).clamp_min(1e-12)
        return ((weights[..., None] * square).sum(1) / freedom).sqrt().float()

    def put(self, rows: Tensor, other: Draws) -> None:
        """Replace the rows of those indices by all rows of `other`."""
        for name in _FIELDS:
            getattr(self, name)[rows] = getattr(other, name)


@torch.no_grad()
def draw(
    model: Folded,
    refined: Refined,
    batch: Batch,
    draws: int,
    generator: torch.Generator | None = None,
) -> Draws:
    """Draw from the posterior of each row by importance sampling around `refined`.

    Latents are proposed by a split normal distribution with the axes of the covariance, and the
    amplitude from its conditional distribution given the latents (`ExactDensity`). The weights are
    posterior over proposal, Pareto-smoothed.

    Some rows get more draws. All draws of a row are weighted by the mixture of their
    proposals (Owen & Zhou 2000), and `draws` of them are chosen with equal weights.
    - Bright rows, and those with an effective sample size below a quarter of the draws, add draws
      from a wider proposal: posteriors of many counts are curved, and have tails that the first
      proposal rarely reaches.
    - Where the effective size stays low, or where there is a second mode (`modes.search`), draws
      come from that mode, too, and from normal distributions with mean and covariance of the draws
      so far.

    Without a generator the draws depend on a row's own counts alone: up to rounding, they are the
    same in every batch.
    """
    seeds = content_seeds(batch) if generator is None else random_seeds(len(batch), generator)
    seeds = seeds.to(batch.counts.device)
    modes = search(model, refined, batch, seeds)
    rows_at_once = max(1, _POINTS_AT_ONCE[batch.counts.device.type] // draws)
    parts = []
    for rows in torch.arange(len(batch)).split(rows_at_once):
        there = rows.to(seeds.device)
        parts.append(_draw(model, modes.take(there), batch.take(rows), draws, seeds[there]))
    return Draws(*(torch.cat([getattr(part, name) for part in parts]) for name in _FIELDS))


def sample(
    model: Folded, refined: Refined, batch: Batch, draws: int, generator: torch.Generator | None
) -> Draws:
    """Draw from the posterior with equal weights, choosing among four times as many draws."""
    pool = draw(model, refined, batch, _POOL * draws, generator)
    return _chosen(pool, draws, content_seeds(batch))


@dataclass(frozen=True)
class _Pool:
    """Hold all draws of some rows with the proposals they came from.

    `log_target` (n, draws) is the log of posterior over the amplitude's proposal; `shares` are the
    numbers of draws of each proposal.
    """

    z: Tensor
    log_amplitude: Tensor
    log_target: Tensor
    proposals: tuple[SplitNormal, ...]
    shares: tuple[int, ...]

    @property
    def log_weights(self) -> Tensor:
        """Compute the log of target over the mixture of all proposals, (n, draws)."""
        terms = [
            proposal.log_density(self.z) + torch.log(torch.tensor(float(share)))
            for proposal, share in zip(self.proposals, self.shares, strict=True)
        ]
        log_weights = self.log_target - torch.logsumexp(torch.stack(terms), 0)
        return torch.where(torch.isfinite(log_weights), log_weights, -torch.inf)

    def take(self, rows: Tensor) -> _Pool:
        return replace(
            self,
            z=self.z[rows],
            log_amplitude=self.log_amplitude[rows],
            log_target=self.log_target[rows],
            proposals=tuple(proposal.take(rows) for proposal in self.proposals),
        )

    def joined(self, other: _Pool) -> _Pool:
        return _Pool(
            torch.cat([self.z, other.z], 1),
            torch.cat([self.log_amplitude, other.log_amplitude], 1),
            torch.cat([self.log_target, other.log_target], 1),
            self.proposals + other.proposals,
            self.shares + other.shares,
        )


def _draw(model: Folded, modes: Modes, batch: Batch, draws: int, seeds: Tensor) -> Draws:
    density = ExactDensity(model, batch, modes.best.log_amplitude)
    first = _first_proposal(density, modes.best)
    pool = _propose(density, first, seeds, draws, stage=0)
    found = _weighted(pool)
    is_bright = batch.counts.sum(-1) > BRIGHT
    again = torch.nonzero(is_bright | _is_weak(found, modes, draws))[:, 0]
    if len(again):
        density, seeds = density.take(again), seeds[again]
        wide = first.take(again).widened(_WIDE)
        more = _propose(density, wide, seeds, _WIDE_DRAWS * draws, stage=1)
        pool = pool.take(again).joined(more)
        found.put(again, _insist(density, pool, modes.take(again), seeds, draws))
    return found


def _is_weak(found: Draws, modes: Modes, draws: int) -> Tensor:
    """Return which rows need further proposals, (n,)."""
    return (found.ess < _ESS_WANTED * draws) | modes.has_second


def _first_proposal(density: ExactDensity, start: Mode) -> SplitNormal:
    """Make a normal distribution whose widths follow the posterior along both ends of each axis."""
    size = start.z.shape[1]
    normal = SplitNormal.of(start.z.double(), start.covariance[:, :size, :size], 1.0)
    steps = _PROBE * normal.axes
    center = normal.center[:, None]
    values = density.profile(torch.cat([center, center + steps, center - steps], 1))
    # A normal distribution of width w falls by (probe / w)^2 / 2.
    fall = (values[:, :1] - values[:, 1:]).nan_to_num(0.5 * _PROBE**2)
    widths = (0.5 * _PROBE**2 / fall.clamp_min(1e-3)).sqrt().clamp(*_WIDTH_RANGE)
    return replace(normal, upper=_WIDENING * widths[:, :size], lower=_WIDENING * widths[:, size:])


def _propose(
    density: ExactDensity, proposal: SplitNormal, seeds: Tensor, draws: int, stage: int
) -> _Pool:
    noise = normal_noise(seeds, draws, proposal.center.shape[1] + 1, stage)
    z = proposal.draw(noise[..., :-1])
    log_amplitude, log_target = density.with_amplitude(z, noise[..., -1])
    return _Pool(z, log_amplitude, log_target, (proposal,), (draws,))


def _weighted(pool: _Pool) -> Draws:
    weights, shape = smooth(pool.log_weights)
    return Draws(
        z=pool.z.float(),
        log_amplitude=pool.log_amplitude.float(),
        weights=weights.float(),
        ess=(1.0 / weights.square().sum(-1)).float(),
        pareto_k=shape.float(),
    )


def _insist(density: ExactDensity, pool: _Pool, modes: Modes, seeds: Tensor, draws: int) -> Draws:
    """Choose among the draws of a pool; weak rows first add more, which follow those so far."""
    weighted = _weighted(pool)
    found = _chosen(weighted, draws, seeds)
    weak = torch.nonzero(_is_weak(weighted, modes, draws))[:, 0]
    if not len(weak):
        return found
    density, pool, seeds = density.take(weak), pool.take(weak), seeds[weak]
    proposal = _first_proposal(density, modes.second.take(weak))
    pool = pool.joined(_propose(density, proposal, seeds, draws, stage=2))
    for stage, times in enumerate(_FURTHER, 3):
        following = _following(pool)
        pool = pool.joined(_propose(density, following, seeds, times * draws, stage))
    found.put(weak, _chosen(_weighted(pool), draws, seeds))
    return found


def _following(pool: _Pool) -> SplitNormal:
    """Make a normal distribution with the mean and the covariance of the weighted draws."""
    weights, _ = smooth(pool.log_weights)
    # No draw decides alone: weights are cut at the inverse root of their number (Ionides 2008).
    weights = weights.clamp_max(weights.shape[1] ** -0.5)
    weights = weights / weights.sum(-1, keepdim=True)
    mean = (weights[..., None] * pool.z).sum(1)
    apart = pool.z - mean[:, None]
    found = (weights[..., None] * apart).transpose(1, 2) @ apart
    ess = (1.0 / weights.square().sum(-1))[:, None, None]
    before = pool.proposals[-1]
    widths = 0.5 * (before.upper.square() + before.lower.square()) * before.lengths.square()
    former = (before.directions * widths[:, None]) @ before.directions.transpose(1, 2)
    covariance = (ess * found + _KEPT_DRAWS * former) / (ess + _KEPT_DRAWS)
    return SplitNormal.of(mean, covariance, _WIDENING)


def _chosen(pool: Draws, draws: int, seeds: Tensor) -> Draws:
    """Choose `draws` of the weighted draws by systematic resampling, with equal weights.

    An average over the chosen draws has the variance of the weighted one, and that of the choice:
    as if it had been independent, which is cautious, for systematic choices vary less.
    """
    offsets = uniforms(seeds, 1, _RESAMPLING)
    # Regular steps through Sobol points would select a part of space, so their order is shuffled.
    shuffle = torch.randperm(pool.weights.shape[1], generator=torch.Generator().manual_seed(0))
    shuffle = shuffle.to(offsets.device)
    levels = torch.arange(draws, dtype=torch.float64, device=offsets.device)
    edges = pool.weights[:, shuffle].double().cumsum(-1)
    places = torch.searchsorted(edges, (levels + offsets) / draws * edges[:, -1:])
    chosen = shuffle[places.clamp_max(len(shuffle) - 1)]
    broken = torch.isnan(pool.ess)[:, None]
    return Draws(
        z=pool.z.gather(1, chosen[..., None].expand(-1, -1, pool.z.shape[2])),
        log_amplitude=pool.log_amplitude.gather(1, chosen),
        weights=torch.where(
            broken, torch.nan, torch.full_like(chosen, 1.0 / draws, dtype=torch.float32)
        ),
        ess=1.0 / (1.0 / pool.ess + 1.0 / draws),
        pareto_k=pool.pareto_k,
    )
