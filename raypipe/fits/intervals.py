"""Find 68% intervals of a fit's parameters by the profile of the Cash statistic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raypipe.fits.data import Data, Fold, fold
from raypipe.fits.models import Spectra
from raypipe.fits.steps import Limits, between

RISE = 0.5
"""Rise of half the Cash statistic at the ends of a 68% interval of one parameter."""
_STEPS = 15
_CLOSE = 0.01
"""Distance from the rise, and from the minimum over the other parameters, that is close enough."""
_TARGETS = 3


@dataclass(frozen=True)
class Ends:
    """Hold the ends of intervals of the three parameters: the fitted variable, the column density
    and the log amplitude, (n, 3) each; NaN where an end lies beyond a hard limit."""

    low: Tensor
    high: Tensor


def find_ends(
    spectra: Spectra,
    sigmas: tuple[Tensor, Tensor],
    place: Tensor,
    lowest: Tensor,
    data: Data,
    limits: Limits,
) -> Ends:
    """Find where the objective, minimized over the other parameters, has risen by `RISE`.

    `place` (n, 3) is the minimum and `lowest` (n,) the objective there. Each step solves the
    problem for a parabola: with gradient g, inverse information C and the parameter's slopes e, it
    is C (l e - g), in which l follows from the rise that is left (Venzon & Moolgavkar 1988, Applied
    Statistics 37, 87, with the Fisher information). The first step is one standard deviation.
    """
    n = len(place)
    sides = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    # All 6 n ends are independent problems: row, parameter, side.
    row, parameter, side = torch.cartesian_prod(
        torch.arange(n), torch.arange(_TARGETS), torch.arange(2)
    ).unbind(1)
    ends = torch.full((len(row),), torch.nan, dtype=torch.float64)
    moving = torch.arange(len(row))
    at, own = place[row], data.take(row)
    aim = _Aim(parameter, sides[side], lowest[row] + RISE)
    for _ in range(_STEPS):
        here = fold(spectra, sigmas, at, own)
        step, close, beyond = aim.step(at, here, own, limits)
        ends[moving] = torch.where(beyond, torch.nan, aim.value(at, here))
        stay = ~(close | beyond)
        if not bool(stay.any()):
            break
        at, moving = limits.reached(at, step)[stay], moving[stay]
        aim, own = aim.take(stay), own.take(torch.nonzero(stay)[:, 0])
    low, high = ends.view(n, _TARGETS, 2).unbind(2)
    return Ends(low, high)


@dataclass(frozen=True)
class _Aim:
    """Hold which ends are sought: parameter, side of its interval, and objective, (k,) each."""

    parameter: Tensor
    side: Tensor
    objective: Tensor

    def take(self, rows: Tensor) -> _Aim:
        return _Aim(self.parameter[rows], self.side[rows], self.objective[rows])

    def value(self, at: Tensor, here: Fold) -> Tensor:
        """Return the parameter at a place, (k,)."""
        values = torch.cat([at[:, :2], here.log_amplitude[:, None].double()], 1)
        return values.gather(1, self.parameter[:, None])[:, 0]

    def slopes(self, here: Fold) -> Tensor:
        """Return the derivatives of the parameter along the three axes of places, (k, 3)."""
        along = torch.eye(3, dtype=torch.float64)[self.parameter]
        return torch.where((self.parameter == 2)[:, None], here.amplitude_slopes, along)

    def step(
        self, at: Tensor, here: Fold, data: Data, limits: Limits
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next step (k, 3), which rows are close, and which end beyond a limit."""
        gradient, information = here.scores(data)
        slopes = self.slopes(here)
        left = self.objective - here.objective

        def step_with(inverse: Tensor) -> Tensor:
            toward, back = ((inverse @ each[..., None])[..., 0] for each in (slopes, gradient))
            width = (slopes * toward).sum(-1)
            square = (2.0 * left + (gradient * back).sum(-1)) / width
            pull = self.side * square.clamp_min(0.0).sqrt()
            return torch.where((width > 0)[:, None], pull[:, None] * toward - back, -back)

        step, inverse = between(at, limits, information, step_with)
        toward, back = ((inverse @ each[..., None])[..., 0] for each in (slopes, gradient))
        width = (slopes * toward).sum(-1)
        across = (gradient * back).sum(-1) - (gradient * toward).sum(-1) ** 2 / width
        close = (left.abs() < _CLOSE) & (across < _CLOSE)
        # The parameter itself is held at its limit, and the objective has not risen enough.
        stuck = limits.held(at, self.side[:, None] * slopes.sign())
        own = stuck.gather(1, self.parameter.clamp_max(1)[:, None])[:, 0] & (self.parameter < 2)
        beyond = own & (left > _CLOSE) & ((gradient * back).sum(-1).abs() < _CLOSE)
        return step, close, beyond
