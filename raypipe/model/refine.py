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
    """Latents `z` with two measures of how well they are known, (n, latents) each.

    `z_err`: the scatter that repeated observations of the same source would show. `z_std`: how far
    the source's own latents may lie from `z`, the standard deviation of the posterior in its normal
    approximation; where counts say little it nears one, the width of the population, and `z_err`
    nears zero, for all such observations give the same answer. `covariance` (n, latents + 1,
    latents + 1) is that of the posterior, the log amplitude last; `sensitivity` (n, latents + 1,
    bins) the slopes of log expected counts.
    """

    z: Tensor
    z_err: Tensor
    z_std: Tensor
    covariance: Tensor
    information: Tensor
    sensitivity: Tensor

    @property
    def freedom(self) -> Tensor:
        """Effective number of parameters that the counts themselves determined, (n,)."""
        return (self.covariance @ self.information).diagonal(dim1=-2, dim2=-1).sum(-1)


@torch.no_grad()
def refine(model: Folded, z: Tensor, batch: Batch, steps: int) -> Refined:
    """Maximize likelihood times population prior from the encoder's answer `z` (n, latents).

    Levenberg-Marquardt steps of Fisher scoring in the latents and the log amplitude; the prior is
    a unit normal, as whitened latents have. A step that does not lower
    cash / 2 + |z|^2 / 2 is not taken. Errors are from the Fisher information F at the solution and
    the prior's P: C = (F + P)^-1 is the posterior's covariance, C M C that of repeated answers, M
    being F and what the noise of the measured background adds to it. `steps` = 0 keeps `z` and
    only computes its errors.
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
    jacobian, mu = _slopes(model, z, log_a, batch)
    sensitivity = (jacobian / mu[:, None]).double()
    information = (sensitivity * mu[:, None]) @ sensitivity.transpose(1, 2)
    covariance = torch.linalg.inv(information + _prior(z).double())
    measured = mu + batch.background_scale * batch.background
    scatter = (sensitivity * measured[:, None]) @ sensitivity.transpose(1, 2)
    repeated = covariance @ scatter @ covariance
    z_err, z_std = (
        torch.diagonal(each, dim1=-2, dim2=-1)[:, :-1].clamp_min(0.0).sqrt().float()
        for each in (repeated, covariance)
    )
    return Refined(z, z_err, z_std, covariance, information, sensitivity)


def _objective(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> Tensor:
    flux = torch.exp(model.log_shape(z) + log_a)
    mu = fold(flux, batch, model.grid.energy_width_kev) + batch.background
    return 0.5 * cash_per_bin(batch.counts, mu).double().sum(-1) + 0.5 * z.square().sum(-1)


def _scores(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Gradient (n, latents + 1) of the log posterior and its Fisher information."""
    jacobian, mu = _slopes(model, z, log_a, batch)
    gradient = (jacobian @ (batch.counts / mu - 1.0)[..., None])[..., 0]
    gradient[:, :-1] -= z
    information = (jacobian / mu[:, None]) @ jacobian.transpose(1, 2)
    return gradient, information + _prior(z)


def _slopes(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Slopes of the expected counts (n, latents + 1, bins), and those counts (n, bins)."""
    shape, slopes = _shape_and_slopes(model, z)
    to_photons = batch.arf_cm2 * (batch.exposure_s * model.grid.energy_width_kev)[:, None]
    photons = (torch.exp(log_a) * shape * to_photons)[:, None] * slopes
    jacobian = redistribute(photons, batch.response_index, batch.responses)
    return jacobian, (jacobian[:, -1] + batch.background).clamp_min(MU_MIN)


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
