"""Latents polished on each detection's own likelihood, with the errors that come of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from raypipe.model.features import Batch
from raypipe.model.folding import best_amplitude, cash_per_bin, fold, redistribute
from raypipe.model.presets import Folded
from raypipe.model.statistics import MU_MIN

_DAMPING_START = 1e-2
_DAMPING_FACTOR = 6.0
_DAMPING_RANGE = (1e-6, 1e8)
_LATENT_STEP_MAX = 1.0


@dataclass(frozen=True)
class Refined:
    """Latents `z` and their standard deviations `z_err`, (n, latents).

    `freedom` (n,): the effective number of parameters the counts themselves determined, by which
    fitting lowers the expected Cash statistic.
    """

    z: Tensor
    z_err: Tensor
    freedom: Tensor


@torch.no_grad()
def refine(model: Folded, z: Tensor, batch: Batch, steps: int) -> Refined:
    """Maximize likelihood times population prior from the encoder's answer `z` (n, latents).

    Levenberg-Marquardt steps of Fisher scoring in the latents and the log amplitude; the prior is
    a unit normal, as whitened latents have. A step that does not lower
    cash / 2 + |z|^2 / 2 is not taken. Errors are from the inverse of the Fisher information at
    the solution, prior included: standard deviations of the posterior in its normal
    approximation. `steps` = 0 keeps `z` and only computes its errors.
    """
    folded = fold(torch.exp(model.log_shape(z)), batch, model.grid.energy_width_kev)
    log_a = torch.log(best_amplitude(batch.counts, folded, batch.background))
    damping = torch.full_like(log_a, _DAMPING_START)
    objective = _objective(model, z, log_a, batch)
    for _ in range(steps):
        gradient, information = _scores(model, z, log_a, batch)
        diagonal = torch.diagonal(information, dim1=-2, dim2=-1)
        damped = information + torch.diag_embed(damping * diagonal)
        step = torch.linalg.solve(damped, gradient[..., None])[..., 0]
        length = step.abs().amax(-1, keepdim=True).clamp_min(_LATENT_STEP_MAX)
        step = step * (_LATENT_STEP_MAX / length)
        new_z, new_log_a = z + step[:, :-1], log_a + step[:, -1:]
        new_objective = _objective(model, new_z, new_log_a, batch)
        better = (new_objective < objective)[:, None]
        z = torch.where(better, new_z, z)
        log_a = torch.where(better, new_log_a, log_a)
        objective = torch.where(better[:, 0], new_objective, objective)
        damping = torch.where(better, damping / _DAMPING_FACTOR, damping * _DAMPING_FACTOR)
        damping = damping.clamp(*_DAMPING_RANGE)
    return _with_errors(model, z, log_a, batch)


def _with_errors(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> Refined:
    _, information = _scores(model, z, log_a, batch)
    covariance = torch.linalg.inv(information.double())
    measured = information.double() - _prior(z).double()
    freedom = (covariance @ measured).diagonal(dim1=-2, dim2=-1).sum(-1)
    variance = torch.diagonal(covariance, dim1=-2, dim2=-1)[:, :-1]
    return Refined(z, variance.clamp_min(0.0).sqrt().float(), freedom.float())


def _objective(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> Tensor:
    flux = torch.exp(model.log_shape(z) + log_a)
    mu = fold(flux, batch, model.grid.energy_width_kev) + batch.background
    return 0.5 * cash_per_bin(batch.counts, mu).double().sum(-1) + 0.5 * z.square().sum(-1)


def _scores(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Gradient (n, latents + 1) of the log posterior and its Fisher information."""
    shape, slopes = _shape_and_slopes(model, z)
    to_photons = batch.arf_cm2 * (batch.exposure_s * model.grid.energy_width_kev)[:, None]
    photons = (torch.exp(log_a) * shape * to_photons)[:, None] * slopes
    jacobian = redistribute(photons, batch.response_index, batch.responses)
    mu = (jacobian[:, -1] + batch.background).clamp_min(MU_MIN)
    gradient = (jacobian @ (batch.counts / mu - 1.0)[..., None])[..., 0]
    gradient[:, :-1] -= z
    information = (jacobian / mu[:, None]) @ jacobian.transpose(1, 2)
    return gradient, information + _prior(z)


def _shape_and_slopes(model: Folded, z: Tensor) -> tuple[Tensor, Tensor]:
    """Flux shape (n, n_energy) and the slopes of its log (n, latents + 1, n_energy).

    The last slope, of the log amplitude, is one.
    """
    columns = []
    for axis in range(z.shape[-1]):
        direction = torch.zeros_like(z)
        direction[:, axis] = 1.0
        log_shape, slope = jvp(model.log_shape, (z,), (direction,))[:2]
        columns.append(slope)
    columns.append(torch.ones_like(log_shape))
    return torch.exp(log_shape), torch.stack(columns, 1)


def _prior(z: Tensor) -> Tensor:
    """Information of the unit normal prior on the latents; a trace of one on the amplitude."""
    weights = torch.ones(z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    weights[-1] = 1e-3
    return torch.diag(weights)
