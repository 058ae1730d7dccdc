"""Search for the modes of the posteriors of bright detections by starting refinement elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raypipe.model.features import Batch
from raypipe.model.posterior_density import PosteriorDensity
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined, refine
from raypipe.model.row_noise import normal_noise

BRIGHT = 1000.0
"""Counts from which refinement goes on: its usual steps leave one detection in 20 more than 0.1 in
the log posterior below the maximum."""
RESTARTED = 6000.0
"""Counts from which refinement also starts elsewhere: one detection in 10 then has a second mode.

With fewer counts, other starts raise the log posterior by more than 1 for one detection in 400.
"""
_STEPS = 12
_ARRIVED = 1e-2
"""Rise of the log posterior that a step promises, below which it is the last: draws start here."""
_PLACES = ((0.5, 0.7), (0.0, 1.0))
"""Places from which refinement starts: the best solution so far times the first number, plus a
random distance in each latent of the second. A thorough search takes both kinds in turn, of which
the latter are random places of the prior; otherwise all are of the first kind, which takes less
time to arrive.

Places nearer to the best solution find fewer modes: with 16 starts from (1.0, 0.5), 1.6% of
detections of more than 10,000 counts had their true latents in a mode that was missed, and 0.4%
with 16 starts of either of these kinds.
"""
_STARTS = 3
"""Starts per round; the first of all is the prior's mean."""
_RUGGED = 2
"""Number of the first starts that end elsewhere, from which a row gets `_FURTHER` more rounds.

Of four first starts, two or more end elsewhere in 15% of detections of more than 10,000 counts, and
in two thirds of those in which the four miss a mode.
"""
_FURTHER, _THOROUGH = 4, 8
"""Rounds after the first one: of a rugged row, and of a thorough search."""
RIVALS = 2
"""Most modes besides the highest one that get a proposal of their own."""
_APART = 3.0
"""Distance, in units of the widths, from which two solutions are two modes."""
_FALL_MAX = 8.0
"""Fall of the log posterior below the highest mode, down to which another mode counts."""
_STAGE = 50


@dataclass(frozen=True)
class Mode:
    """Hold a maximum of each row's posterior: latents, log amplitude (n, 1), and covariance."""

    z: Tensor
    log_amplitude: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, refined: Refined) -> Mode:
        """Take the maximum that a refinement found."""
        return cls(refined.z, refined.log_amplitude, refined.covariance)

    def take(self, rows: Tensor) -> Mode:
        """Select the rows of those indices."""
        return Mode(self.z[rows], self.log_amplitude[rows], self.covariance[rows])

    def where(self, rows: Tensor, other: Mode) -> Mode:
        """Keep the rows where `rows` (n,) is true, and take the others from `other`."""
        wide = rows[:, None]
        return Mode(
            torch.where(wide, self.z, other.z),
            torch.where(wide, self.log_amplitude, other.log_amplitude),
            torch.where(wide[..., None], self.covariance, other.covariance),
        )

    def replaced(self, rows: Tensor, other: Mode) -> Mode:
        """Replace the rows of those indices by all rows of `other`."""
        return Mode(
            self.z.index_copy(0, rows, other.z),
            self.log_amplitude.index_copy(0, rows, other.log_amplitude),
            self.covariance.index_copy(0, rows, other.covariance),
        )


@dataclass(frozen=True)
class Modes:
    """Hold the highest mode of each row, and other ones in order of height.

    `number` (n,) is how many of `others` a row has; where it has fewer, the last one is repeated.
    """

    best: Mode
    others: tuple[Mode, ...]
    number: Tensor

    def take(self, rows: Tensor) -> Modes:
        """Select the rows of those indices."""
        others = tuple(each.take(rows) for each in self.others)
        return Modes(self.best.take(rows), others, self.number[rows])

    def replaced(self, rows: Tensor, other: Modes) -> Modes:
        """Replace the rows of those indices by all rows of `other`."""
        pairs = zip(self.others, other.others, strict=True)
        return Modes(
            self.best.replaced(rows, other.best),
            tuple(mine.replaced(rows, theirs) for mine, theirs in pairs),
            self.number.index_copy(0, rows, other.number),
        )


@torch.no_grad()
def search(
    model: Folded, refined: Refined, batch: Batch, seeds: Tensor, *, thorough: bool = False
) -> Modes:
    """Refine bright rows further, and the brightest also from other places.

    These are the prior's mean and random places, which `seeds` (n,) fix. Rows in which many of the
    starts end elsewhere get more of them. Rows below `BRIGHT` counts keep what `refined` found.
    With `thorough`, all rows are refined from `_STARTS` places in each of all rounds.
    """
    total = batch.counts.sum(-1)
    if thorough:
        total = torch.full_like(total, torch.inf)
    found = Mode.of(refined)
    further = torch.nonzero(total > BRIGHT)[:, 0]
    if len(further):
        reached = refine(model, refined.z[further], batch.take(further), _STEPS, _ARRIVED)
        found = found.replaced(further, Mode.of(reached))
    modes = Modes(
        found, (found,) * RIVALS, torch.zeros(len(batch), dtype=torch.long).to(total.device)
    )
    bright = torch.nonzero(total > RESTARTED)[:, 0]
    if not len(bright):
        return modes
    chosen, seeds = batch.take(bright), seeds[bright]
    places = _PLACES if thorough else _PLACES[:1]
    ends = _Ends.of(model, chosen, [found.take(bright)])
    ends = ends.restarted(model, chosen, seeds, 0, places)
    modes = modes.replaced(bright, ends.modes)
    rugged = torch.nonzero((ends.elsewhere >= _RUGGED) | thorough)[:, 0]
    if len(rugged):
        chosen, seeds, ends = chosen.take(rugged), seeds[rugged], ends.take(rugged)
        for stage in range(1, 1 + (_THOROUGH if thorough else _FURTHER)):
            ends = ends.restarted(model, chosen, seeds, stage, places)
        modes = modes.replaced(bright[rugged], ends.modes)
    return modes


@dataclass(frozen=True)
class _Ends:
    """Hold solutions that refinement found for each row, with their log posteriors (ends, n)."""

    found: tuple[Mode, ...]
    height: Tensor

    @classmethod
    def of(cls, model: Folded, batch: Batch, found: Sequence[Mode]) -> _Ends:
        """Compute the log posteriors of solutions."""
        return cls(tuple(found), torch.stack([_height(model, batch, each) for each in found]))

    def take(self, rows: Tensor) -> _Ends:
        """Select the rows of those indices."""
        return _Ends(tuple(each.take(rows) for each in self.found), self.height[:, rows])

    def restarted(
        self,
        model: Folded,
        batch: Batch,
        seeds: Tensor,
        stage: int,
        places: Sequence[tuple[float, float]],
    ) -> _Ends:
        """Add what refinement finds from `_STARTS` places, of those kinds in turn."""
        best = self._best
        noise = normal_noise(seeds, _STARTS, best.z.shape[1], _STAGE + stage).float()
        starts = []
        for number in range(_STARTS):
            share, distance = places[(number + stage) % len(places)]
            starts.append(share * best.z + distance * noise[:, number])
        if not stage:
            starts[0] = torch.zeros_like(best.z)
        more = _Ends.of(model, batch, _refined(model, batch, starts))
        return _Ends(self.found + more.found, torch.cat([self.height, more.height]))

    @property
    def elsewhere(self) -> Tensor:
        """Return how many of the solutions are not the best one, (n,)."""
        return self._is_apart.sum(0)

    @property
    def modes(self) -> Modes:
        """Return the highest solution, and the highest other ones that are nearly as high."""
        best = self._best
        rivals = self._is_apart & (self.height > self.height.amax(0) - _FALL_MAX)
        others, last = [], best
        number = torch.zeros_like(self.height[0], dtype=torch.long)
        for _ in range(RIVALS):
            is_there = rivals.any(0)
            highest = _of_each(self.found, self.height.masked_fill(~rivals, -torch.inf).argmax(0))
            last = highest.where(is_there, last)
            others.append(last)
            number = number + is_there
            rivals = rivals & self._is_apart_from(last)
        return Modes(best, tuple(others), number)

    @property
    def _best(self) -> Mode:
        return _of_each(self.found, self.height.argmax(0))

    @property
    def _is_apart(self) -> Tensor:
        return self._is_apart_from(self._best)

    def _is_apart_from(self, mode: Mode) -> Tensor:
        """Tell which solutions are another mode than this one, (ends, n)."""
        return torch.stack([_distance(mode, each) > _APART for each in self.found])


def _refined(model: Folded, batch: Batch, starts: Sequence[Tensor]) -> list[Mode]:
    """Refine all rows from each of the starts (n, latents); together this is faster."""
    rows = torch.arange(len(batch)).repeat(len(starts))
    reached = refine(model, torch.cat(list(starts)), batch.take(rows), _STEPS, _ARRIVED)
    pieces = torch.arange(len(rows), device=starts[0].device).split(len(batch))
    return [Mode.of(reached.take(each)) for each in pieces]


def _height(model: Folded, batch: Batch, mode: Mode) -> Tensor:
    """Compute the log posterior of the latents of a mode, (n,)."""
    height = PosteriorDensity.of(model, batch, mode.log_amplitude).profile(mode.z[:, None])[:, 0]
    return height.nan_to_num(-torch.inf)


def _of_each(modes: Sequence[Mode], chosen: Tensor) -> Mode:
    """Take each row from the mode whose index is in `chosen` (n,)."""
    found = modes[0]
    for number, mode in enumerate(modes):
        found = mode.where(chosen == number, found)
    return found


def _distance(one: Mode, other: Mode) -> Tensor:
    """Compute the largest distance of two modes along a latent, in units of its width, (n,)."""
    size = one.z.shape[1]
    widths = one.covariance.diagonal(dim1=1, dim2=2)[:, :size].sqrt()
    return ((one.z - other.z).abs() / widths).amax(-1)
