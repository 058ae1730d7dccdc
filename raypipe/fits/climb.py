"""Find the lowest Cash statistic by Fisher scoring with Levenberg-Marquardt damping."""

from __future__ import annotations

import torch
from torch import Tensor

from raypipe.fits.data import Data, fold
from raypipe.fits.models import Spectra
from raypipe.fits.steps import Limits, between

_DAMPING_START = 1e-3
_DAMPING_FACTOR = 8.0
_DAMPING_RANGE = (1e-9, 1e8)
_ARRIVED = 2e-5
"""Fall of the objective a step promises, below which it is the last."""
_STEPS = 60


def descend(
    spectra: Spectra,
    sigmas: tuple[Tensor, Tensor],
    place: Tensor,
    data: Data,
    rows: Tensor,
    limits: Limits,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimize half the Cash statistic from `place` (k, 3) for the data of `rows` (k,).

    Returns places (k, 3), the objective there (k,), and whether the fit has arrived, (k,). A step
    that does not lower the objective is not taken; a row that has arrived takes no more. Rows do
    not influence each other.
    """
    final, lowest = place.clone(), torch.full_like(place[:, 0], torch.inf)
    done = torch.zeros(len(place), dtype=torch.bool)
    moving = torch.arange(len(place))
    damping = torch.full_like(place[:, :1], _DAMPING_START)
    own = data.take(rows)
    here = fold(spectra, sigmas, place, own)
    gradient, information = here.scores(own)
    objective = here.objective
    for _ in range(_STEPS):
        step, promised = _damped_step(place, limits, gradient, information, damping)
        trial = limits.reached(place, step)
        there = fold(spectra, sigmas, trial, own)
        better = there.objective < objective
        place = torch.where(better[:, None], trial, place)
        objective = torch.where(better, there.objective, objective)
        gradient, information = _where(better, there.scores(own), (gradient, information))
        factor = torch.where(better[:, None], 1.0 / _DAMPING_FACTOR, _DAMPING_FACTOR)
        damping = (damping * factor).clamp(*_DAMPING_RANGE)
        final[moving], lowest[moving] = place, objective
        arrived = ~(promised >= _ARRIVED)
        done[moving] = arrived
        if bool(arrived.all()):
            break
        if bool(arrived.any()):
            stay = ~arrived
            moving, place, objective = moving[stay], place[stay], objective[stay]
            gradient, information, damping = gradient[stay], information[stay], damping[stay]
            own = own.take(torch.nonzero(stay)[:, 0])
    return final, lowest, done


def _damped_step(
    place: Tensor, limits: Limits, gradient: Tensor, information: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the step (n, 3) and the fall of the objective that it promises, (n,)."""
    diagonal = torch.diagonal(information, dim1=-2, dim2=-1)
    damped = information + torch.diag_embed(damping * diagonal + 1e-12)

    def step_with(inverse: Tensor) -> Tensor:
        return -(inverse @ gradient[..., None])[..., 0]

    step, _ = between(place, limits, damped, step_with)
    return step, -0.5 * (gradient * step).sum(-1)


def _where(
    rows: Tensor, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    return (
        torch.where(rows[:, None], new[0], old[0]),
        torch.where(rows[:, None, None], new[1], old[1]),
    )
