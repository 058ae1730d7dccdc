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
_PLACES = (((0.0, 0.0), (1.0, 0.5)), ((1.0, 0.5), (1.0, 0.3)))
"""Places from which refinement starts, two at a time: the best solution so far times a factor, plus
a random distance in each latent. The first place is the prior's mean.

After a start from the prior's mean, random places of the prior miss a higher mode in 2.7% of
detections with more than 10,000 counts, one random place near the best solution in 1.2%.
"""
_APART = 3.0
"""Distance, in units of the widths, from which two solutions are two modes."""
_FALL_MAX = 8.0
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
    """Hold the highest mode of each row, and a second one in rows where `has_second` (n,)."""

    best: Mode
    second: Mode
    has_second: Tensor

    def take(self, rows: Tensor) -> Modes:
        """Select the rows of those indices."""
        return Modes(self.best.take(rows), self.second.take(rows), self.has_second[rows])


@torch.no_grad()
def search(model: Folded, refined: Refined, batch: Batch, seeds: Tensor) -> Modes:
    """Refine bright rows further, and the brightest also from other places.

    These are the prior's mean, and random places about the best solution so far (`_PLACES`). Rows
    below `BRIGHT` counts keep what `refined` found. `seeds` (n,) fix the random places.
    """
    found = Mode.of(refined)
    has_second = torch.zeros(len(batch), dtype=torch.bool, device=seeds.device)
    total = batch.counts.sum(-1)
    further = torch.nonzero(total > BRIGHT)[:, 0]
    if len(further):
        reached = refine(model, refined.z[further], batch.take(further), _STEPS, _ARRIVED)
        found = found.replaced(further, Mode.of(reached))
    bright = torch.nonzero(total > RESTARTED)[:, 0]
    if not len(bright):
        return Modes(found, found, has_second)
    chosen = batch.take(bright)
    ends = _ends(model, found.take(bright), chosen, seeds[bright])
    heights = torch.stack([_height(model, chosen, end) for end in ends])
    best = _of_each(ends, heights.argmax(0))
    apart = torch.stack([_distance(best, end) > _APART for end in ends])
    rivals = apart & (heights > heights.amax(0) - _FALL_MAX)
    second = _of_each(ends, heights.masked_fill(~rivals, -torch.inf).argmax(0))
    is_second = rivals.any(0)
    second = second.where(is_second, best)
    has_second[bright] = is_second
    return Modes(found.replaced(bright, best), found.replaced(bright, second), has_second)


def _ends(model: Folded, found: Mode, batch: Batch, seeds: Tensor) -> list[Mode]:
    """Return the solution that was found and those that refinement finds from other places."""
    ends, best, height = [found], found, _height(model, batch, found)
    stage = _STAGE
    for places in _PLACES:
        starts = []
        for share, distance in places:
            stage += 1
            noise = normal_noise(seeds, 1, found.z.shape[1], stage)[:, 0].float()
            starts.append(share * best.z + distance * noise)
        for end in _refined(model, batch, starts):
            reached = _height(model, batch, end)
            best, height = end.where(reached > height, best), torch.maximum(reached, height)
            ends.append(end)
    return ends


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
