"""Draw latents and amplitudes from the exact posterior of each detection."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raypipe.model.band_sums import BandIntegrals, BandSums
from raypipe.model.draw_pool import Chosen, Pool, choice, finite, gathered
from raypipe.model.features import Batch
from raypipe.model.local_proposals import local_proposals, needs_local_proposals
from raypipe.model.modes import BRIGHT, RIVALS, Mode, Modes, search
from raypipe.model.pareto import smooth
from raypipe.model.posterior_density import PosteriorDensity
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined
from raypipe.model.row_noise import content_seeds, normal_noise, random_seeds
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
_LEFT_WANTED = 0.4
"""Effective share of the chosen draws below which the coarse density is not good enough."""
_FURTHER = (2, 4)
"""Draws of the proposals that follow all draws before them, in units of those wanted."""
_LOCAL_DRAWS = 0.25
"""Draws of each local proposal, in units of those wanted."""
_LOCAL_STAGE = 100
_KEPT_DRAWS = 20.0
"""The covariance of earlier draws weighs as much as the former one if they are worth this many."""
_POOL = 4
_FIELDS = ("z", "log_amplitude", "weights", "ess", "pareto_k")
_POINTS_AT_ONCE = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True)
class Draws:
    """Hold weighted draws from the posterior of each row.

    `z` (n, draws, latents), `log_amplitude` (n, draws), the logarithm of the factor between
    `exp(Folded.log_shape(z))` and the photon flux density, and `weights` (n, draws), which sum to
    one. `ess` (n,) is the effective number of independent draws, and `pareto_k` (n,) the shape of
    the tail of the weights, above 0.7 for unreliable ones. Rows without a posterior are NaN.
    `sums` are their fluxes in bands, where these were asked for.
    """

    z: Tensor
    log_amplitude: Tensor
    weights: Tensor
    ess: Tensor
    pareto_k: Tensor
    sums: BandSums | None = None

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

    def take(self, rows: Tensor) -> Draws:
        """Select rows by index."""
        sums = None if self.sums is None else self.sums.take(rows)
        z, log_amplitude, weights, ess, shape = (getattr(self, name)[rows] for name in _FIELDS)
        return Draws(z, log_amplitude, weights, ess, shape, sums)


@torch.no_grad()
def draw(
    model: Folded,
    refined: Refined,
    batch: Batch,
    draws: int,
    generator: torch.Generator | None = None,
    integrals: BandIntegrals | None = None,
    *,
    thorough: bool = False,
) -> Draws:
    """Draw from the posterior of each row by importance sampling around `refined`.

    Latents are proposed by a split normal distribution with the axes of the covariance, and the
    amplitude from its conditional distribution given the latents (`PosteriorDensity`). The weights
    are posterior over proposal, Pareto-smoothed.

    Bright rows, those with several modes, and those with an effective sample size below a quarter
    of the draws, get more.
    - Draws from a wider proposal are added: posteriors of many counts are curved, and have tails
      that the first proposal rarely reaches.
    - Where the effective size stays low, or where there are other modes (`modes.search`), draws
      come from these, too, and from normal distributions with mean and covariance of the draws
      so far.
    - Instruments that see a small part of the grid, as NuSTAR does, get draws about many local
      solutions besides (`local_proposals`).
    - All of them are weighted by a cheaper density (`PosteriorDensity.coarse`) over the mixture of
      their proposals (Owen & Zhou 2000), and `draws` of them are chosen by these weights. The
      weights of the chosen ones are the ratio of the exact posterior to the cheaper density. If
      that leaves too few effective draws, the exact posterior weights all of them.

    With `thorough`, modes are looked for in all rows and from many places, which takes some ms per
    row. With `integrals`, the fluxes of the draws in bands are in `Draws.sums`. Without a generator
    the draws depend on a row's own counts alone. They are the same in every batch up to rounding,
    which can exchange single draws of a row that has several proposals.
    """
    seeds = content_seeds(batch) if generator is None else random_seeds(len(batch), generator)
    order = batch.response_index.argsort(stable=True)
    there = order.to(batch.counts.device)
    seeds, batch, refined = seeds.to(there.device)[there], batch.take(order), refined.take(there)
    modes = search(model, refined, batch, seeds, thorough=thorough)
    least = 1 if integrals is None else integrals.energies
    density = PosteriorDensity.of(model, batch, modes.best.log_amplitude, least)
    is_local = needs_local_proposals(model, batch)
    is_hard = (batch.counts.sum(-1) > BRIGHT) | (modes.number > 0) | is_local
    at_once = max(1, _POINTS_AT_ONCE[there.device.type] // draws)
    usual = torch.nonzero(~is_local)[:, 0].split(at_once)
    special = torch.nonzero(is_local)[:, 0].split(at_once) if bool(is_local.any()) else ()
    parts = []
    for rows in (*usual, *special):
        local: tuple[SplitNormal, ...] = ()
        if bool(is_local[rows].any()):
            local = local_proposals(model, refined.take(rows), batch.take(rows), seeds[rows])
        sampler = _Sampler(
            density.take(rows), modes.take(rows), seeds[rows], draws, integrals, local
        )
        parts.append(sampler.draw(is_hard[rows]))
    return _in_order([*usual, *special], parts).take(there.argsort())


def sample(
    model: Folded, refined: Refined, batch: Batch, draws: int, generator: torch.Generator | None
) -> Draws:
    """Draw from the posterior with equal weights, choosing among four times as many draws."""
    pool = draw(model, refined, batch, _POOL * draws, generator, thorough=True)
    chosen = choice(pool.weights, draws, content_seeds(batch))
    broken = torch.isnan(pool.ess)[:, None]
    equal = torch.full_like(chosen, 1.0 / draws, dtype=torch.float32)
    return Draws(
        z=gathered(pool.z, chosen),
        log_amplitude=pool.log_amplitude.gather(1, chosen),
        weights=torch.where(broken, torch.nan, equal),
        ess=1.0 / (1.0 / pool.ess + 1.0 / draws),
        pareto_k=pool.pareto_k,
    )


@dataclass(frozen=True)
class _Sampler:
    """Draw from the posteriors of some rows, whose exact `density` has its reference at `modes`.

    `local` are further proposals for all of these rows.
    """

    density: PosteriorDensity
    modes: Modes
    seeds: Tensor
    draws: int
    integrals: BandIntegrals | None
    local: tuple[SplitNormal, ...] = ()

    def take(self, rows: Tensor) -> _Sampler:
        """Select rows by increasing indices."""
        return replace(
            self,
            density=self.density.take(rows),
            modes=self.modes.take(rows),
            seeds=self.seeds[rows],
            local=tuple(each.take(rows) for each in self.local),
        )

    def draw(self, is_hard: Tensor) -> Draws:
        """Draw once where that is enough, and insist on the other rows and on hard ones."""
        coarse = self.density.coarse(self.modes.best.z)
        first = _first_proposal(coarse, self.modes.best)
        rows, parts = [], []
        easy = torch.nonzero(~is_hard)[:, 0]
        if len(easy) or not len(is_hard):
            drawn = self.take(easy)._draw_once(first.take(easy))
            is_enough = ~(drawn.ess < _ESS_WANTED * self.draws)
            rows.append(easy[is_enough])
            parts.append(drawn.take(torch.nonzero(is_enough)[:, 0]))
            is_hard = is_hard.index_fill(0, easy[~is_enough], True)
        if len(hard := torch.nonzero(is_hard)[:, 0]):
            rows.append(hard)
            parts.append(self.take(hard)._insist(coarse.take(hard), first.take(hard)))
        return _in_order(rows, parts)

    def _draw_once(self, proposal: SplitNormal) -> Draws:
        densities = self._room()
        pool = self._propose(self.density, proposal, self.draws, 0, densities)
        weights, shape = smooth(pool.log_weights)
        ess = 1.0 / weights.square().sum(-1)
        return self._as_draws(pool, weights, ess, shape, densities)

    def _insist(self, coarse: PosteriorDensity, first: SplitNormal) -> Draws:
        """Choose among more draws, which the coarse density weights."""
        pool = self._propose(coarse, first, self.draws, stage=0)
        wide = self._propose(coarse, first.widened(_WIDE), _WIDE_DRAWS * self.draws, stage=1)
        pool = pool.joined(wide)
        for number, proposal in enumerate(self.local):
            more = math.ceil(_LOCAL_DRAWS * self.draws)
            pool = pool.joined(self._propose(coarse, proposal, more, _LOCAL_STAGE + number))
        weights, _ = smooth(pool.log_weights)
        ess = 1.0 / weights.square().sum(-1)
        rivals = self.modes.number
        is_weak = (ess < _ESS_WANTED * self.draws) | (rivals > 0)
        rows, parts = [], []
        for group, number in (
            (~is_weak, 0),
            (is_weak & (rivals < RIVALS), 1),
            (rivals == RIVALS, RIVALS),
        ):
            if len(chosen := torch.nonzero(group)[:, 0]):
                here, drawn = self.take(chosen), pool.take(chosen)
                if number:
                    drawn = here._with_more(coarse.take(chosen), drawn, number)
                rows.append(chosen)
                parts.append(here._judge(drawn))
        return _in_order(rows, parts)

    def _with_more(self, coarse: PosteriorDensity, pool: Pool, rivals: int) -> Pool:
        """Add draws about that many other modes, and draws that follow those so far."""
        stage = 2
        for mode in self.modes.others[:rivals]:
            proposal = _first_proposal(coarse, mode)
            pool = pool.joined(self._propose(coarse, proposal, self.draws, stage))
            stage += 1
        for times in _FURTHER:
            more = self._propose(coarse, _following(pool), times * self.draws, stage)
            pool = pool.joined(more)
            stage += 1
        return pool

    def _judge(self, pool: Pool, is_exact: bool = False) -> Draws:
        """Choose draws from a pool, and weight them by the exact posterior.

        Where that leaves few effective draws, all draws of the pool are weighted exactly first.
        """
        chosen = Chosen.of(pool, self.draws, self.seeds)
        densities = self._room()
        exact = self.density.at(chosen.z, chosen.log_amplitude, densities)
        weights, _ = smooth(finite(exact - chosen.log_posterior))
        left = 1.0 / weights.square().sum(-1)
        ess = 1.0 / (1.0 / chosen.ess + 1.0 / left)
        found = self._as_draws(chosen, weights, ess, chosen.pareto_k, densities)
        is_poor = left < _LEFT_WANTED * self.draws
        if is_exact or not bool(is_poor.any()):
            return found
        poor, good = torch.nonzero(is_poor)[:, 0], torch.nonzero(~is_poor)[:, 0]
        here = self.take(poor)
        again = here._judge(pool.take(poor).judged_by(here.density), is_exact=True)
        return _in_order([good, poor], [found.take(good), again])

    def _propose(
        self,
        density: PosteriorDensity,
        proposal: SplitNormal,
        draws: int,
        stage: int,
        densities: Tensor | None = None,
    ) -> Pool:
        noise = normal_noise(self.seeds, draws, proposal.center.shape[1] + 1, stage)
        return Pool.of(density, proposal, noise, densities)

    def _room(self) -> Tensor | None:
        """Make room for the flux densities of draws, if they are integrated over bands."""
        if self.integrals is None:
            return None
        like = self.density.to_photons
        return like.new_empty(len(self.seeds), self.draws, like.shape[-1])

    def _as_draws(
        self,
        drawn: Pool | Chosen,
        weights: Tensor,
        ess: Tensor,
        shape: Tensor,
        densities: Tensor | None,
    ) -> Draws:
        sums = None
        if self.integrals is not None and densities is not None:
            log_scale = drawn.log_amplitude - self.density.reference
            sums = self.integrals.of(densities, weights, log_scale)
        return Draws(
            z=drawn.z.float(),
            log_amplitude=drawn.log_amplitude.float(),
            weights=weights.float(),
            ess=ess.float(),
            pareto_k=shape.float(),
            sums=sums,
        )


def _first_proposal(density: PosteriorDensity, start: Mode) -> SplitNormal:
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


def _following(pool: Pool) -> SplitNormal:
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


def _joined(parts: list[Draws]) -> Draws:
    """Put the rows of all parts below each other."""
    sums = [part.sums for part in parts if part.sums is not None]
    return Draws(
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in _FIELDS},
        sums=BandSums.joined(sums) if sums else None,
    )


def _in_order(rows: list[Tensor], parts: list[Draws]) -> Draws:
    """Join parts that hold the rows of those indices, in the order of the indices."""
    return _joined(parts).take(torch.cat(rows).argsort())
