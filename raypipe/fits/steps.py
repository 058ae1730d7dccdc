"""Take Newton steps between hard limits, for small systems of equations, one per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = (1.0, 1.0, 1.0)
"""Longest step in the fitted variable, the column density and the log of the source counts."""
LONGEST_SHARE_OF_COLUMN = 0.5
"""The longest step in the column density is at least this share of the density itself."""


@dataclass(frozen=True)
class Limits:
    """Hold the hard limits of places, (3,) each."""

    low: Tensor
    high: Tensor

    def held(self, place: Tensor, step: Tensor) -> Tensor:
        """Tell which parameters are at a limit that the step would cross, (n, 3)."""
        return ((place <= self.low) & (step < 0)) | ((place >= self.high) & (step > 0))

    def reached(self, place: Tensor, step: Tensor) -> Tensor:
        """Return the place after a step, which is shortened as a whole and ends at the limits."""
        longest = torch.tensor(LONGEST, dtype=step.dtype, device=step.device).repeat(len(step), 1)
        longest[:, 1] = torch.maximum(longest[:, 1], LONGEST_SHARE_OF_COLUMN * place[:, 1])
        factor = (step.abs() / longest).amax(-1, keepdim=True).clamp_min(1.0)
        return torch.minimum(torch.maximum(place + step / factor, self.low), self.high)


def free_inverse(information: Tensor, held: Tensor) -> Tensor:
    """Invert matrices (n, 3, 3) over the parameters that are not held; the others are zero.

    The inverse of a singular matrix is NaN.
    """
    free = (~held).to(information.dtype)
    kept = information * free[:, :, None] * free[:, None]
    inverse, failed = torch.linalg.inv_ex(kept + torch.diag_embed(1.0 - free))
    inverse = inverse * free[:, :, None] * free[:, None]
    return torch.where(failed[:, None, None] != 0, torch.nan, inverse)


def between(
    place: Tensor,
    limits: Limits,
    information: Tensor,
    step_with: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return a step (n, 3) and the inverse information it was made with, (n, 3, 3).

    `step_with` makes steps from an inverse. Parameters that a step would push across a limit are
    held, and the step is made again, until none is.
    """
    held = torch.zeros_like(place, dtype=torch.bool)
    inverse = free_inverse(information, held)
    step = step_with(inverse)
    for _ in range(place.shape[1]):
        crossing = limits.held(place, step)
        if not bool(crossing.any()):
            break
        held = held | crossing
        inverse = free_inverse(information, held)
        step = step_with(inverse)
    return step, inverse
