"""Refine latents by each detection's own likelihood, and compute their errors."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vmap

from raypipe.model.features import Batch
from raypipe.model.folding import best_amplitude, cash_per_bin, fold, redistribute
from raypipe.model.presets import Folded
from raypipe.model.statistics import MU_MIN

_DAMPING_START = 1e-2
_DAMPING_FACTOR = 6.0
_DAMPING_RANGE = (1e-6, 1e8)
_LATENT_STEP_MAX = 1.0
_ARRIVED = 1e-4
"""Rise of the log posterior a step promises, below which it is the last."""


@dataclass(frozen=True)
class Refined:
    """Hold latents `z` with two measures of how well they are known, (n, latents) each.

    `z_err`: the scatter that repeated observations of the same source would show. `z_std`: how far
    the source's own latents may lie from `z`, the standard deviation of the posterior in its normal
    approximation; where counts say little it nears one, the width of the population, and `z_err`
    nears zero, for all such observations give the same answer. `log_amplitude` (n, 1) is the
    logarithm of what `Folded.log_shape` leaves out. `covariance` (n, latents + 1, latents + 1) is
    that of the posterior, the log amplitude last; `sensitivity` (n, latents + 1, bins) the slopes
    of log expected counts.
    """

    z: Tensor
    log_amplitude: Tensor
    z_err: Tensor
    z_std: Tensor
    covariance: Tensor
    information: Tensor
    sensitivity: Tensor

    @property
    def freedom(self) -> Tensor:
        """Compute the effective number of parameters that the counts determined, (n,)."""
        return (self.covariance @ self.information).diagonal(dim1=-2, dim2=-1).sum(-1)


@torch.no_grad()
def refine(model: Folded, z: Tensor, batch: Batch, steps: int) -> Refined:
    """Maximize likelihood times population prior from the encoder's answer `z` (n, latents).

    At most `steps` Levenberg-Marquardt steps of Fisher scoring in the latents and the log
    amplitude; the prior is a unit normal, as whitened latents have. A step that does not lower
    cash / 2 + |z|^2 / 2 is not taken, and a row that has arrived takes no more. 0 steps keep `z`
    and only compute its errors.

    Errors are from the Fisher information F at the solution and the prior's P: C = (F + P)^-1 is
    the posterior's covariance, C M C that of repeated answers, M being F and what the noise of the
    measured background adds to it.
    """
    folded = fold(torch.exp(model.log_shape(z)), batch, model.energy_widths_kev)
    log_a = torch.log(best_amplitude(batch.counts, folded, batch.background))
    at = torch.cat([z, log_a], 1)
    moving, place = torch.arange(len(z), device=z.device), _Place(model, at, batch)
    for _ in range(steps):
        arrived = place.step()
        at[moving] = place.at
        if bool(arrived.all()):
            break
        moving = moving[~arrived]
        place = place.keep(~arrived)
    return _with_errors(model, at[:, :-1], at[:, -1:], batch)


class _Place:
    """Hold the positions of some rows on their way to the maximum of the posterior.

    `at` (n, latents + 1) are latents and log amplitude, `objective` (n,) minus the log posterior
    there, `damping` (n, 1) that of the next step.
    """

    def __init__(self, model: Folded, at: Tensor, batch: Batch) -> None:
        self.model, self.at, self.batch = model, at, batch
        self.damping = torch.full_like(at[:, :1], _DAMPING_START)
        self.objective = _objective(model, at, batch)

    def step(self) -> Tensor:
        """Accept a step where it improves the posterior; return which rows have converged, (n,).

        A row whose step is not finite, or whose matrix is singular, stays where it is: matrices
        are solved unchecked, for a check would raise for all rows.
        """
        gradient, information = _scores(self.model, self.at, self.batch)
        diagonal = torch.diagonal(information, dim1=-2, dim2=-1)
        damped = information + torch.diag_embed(self.damping * diagonal)
        step = torch.linalg.solve_ex(damped, gradient[..., None])[0][..., 0]
        promised = 0.5 * (gradient * step).sum(-1)
        length = step.abs().amax(-1, keepdim=True).clamp_min(_LATENT_STEP_MAX)
        new = self.at + step * (_LATENT_STEP_MAX / length)
        objective = _objective(self.model, new, self.batch)
        better = (objective < self.objective)[:, None]
        self.at = torch.where(better, new, self.at)
        self.objective = torch.where(better[:, 0], objective, self.objective)
        factor = torch.where(better, 1.0 / _DAMPING_FACTOR, _DAMPING_FACTOR)
        self.damping = (self.damping * factor).clamp(*_DAMPING_RANGE)
        return ~(promised >= _ARRIVED)

    def keep(self, rows: Tensor) -> _Place:
        """Select the rows where `rows` (n,) is true."""
        kept = copy.copy(self)
        kept.at, kept.damping, kept.objective = (
            self.at[rows],
            self.damping[rows],
            self.objective[rows],
        )
        kept.batch = self.batch.take(rows)
        return kept


def _with_errors(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> Refined:
    jacobian, mu = _slopes(model, z, log_a, batch)
    sensitivity = (jacobian / mu[:, None]).double()
    information = (sensitivity * mu[:, None]) @ sensitivity.transpose(1, 2)
    covariance = _inverses(information + _prior(z).double())
    measured = mu + batch.background_scale * batch.background
    scatter = (sensitivity * measured[:, None]) @ sensitivity.transpose(1, 2)
    repeated = covariance @ scatter @ covariance
    scatters, variances = (
        torch.diagonal(each, dim1=-2, dim2=-1)[:, :-1] for each in (repeated, covariance)
    )
    z_err, z_std = scatters.clamp_min(0.0).sqrt().float(), variances.sqrt().float()
    return Refined(z, log_a, z_err, z_std, covariance, information, sensitivity)


def _inverses(matrices: Tensor) -> Tensor:
    """Invert matrices (n, k, k); the inverse of a singular one is NaN."""
    inverse, failed = torch.linalg.inv_ex(matrices)
    return torch.where(failed[:, None, None] != 0, torch.nan, inverse)


def _objective(model: Folded, at: Tensor, batch: Batch) -> Tensor:
    z, log_a = at[:, :-1], at[:, -1:]
    flux = torch.exp(model.log_shape(z) + log_a)
    mu = fold(flux, batch, model.energy_widths_kev) + batch.background
    return 0.5 * cash_per_bin(batch.counts, mu).double().sum(-1) + 0.5 * z.square().sum(-1)


def _scores(model: Folded, at: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute the gradient (n, latents + 1) of the log posterior and its Fisher information."""
    z, log_a = at[:, :-1], at[:, -1:]
    jacobian, mu = _slopes(model, z, log_a, batch)
    gradient = (jacobian @ (batch.counts / mu - 1.0)[..., None])[..., 0]
    gradient[:, :-1] -= z
    information = (jacobian / mu[:, None]) @ jacobian.transpose(1, 2)
    return gradient, information + _prior(z)


def _slopes(model: Folded, z: Tensor, log_a: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute the slopes of expected counts (n, latents + 1, bins), and the counts (n, bins)."""
    shape, slopes = _shape_and_slopes(model, z)
    to_photons = batch.arf_cm2 * batch.exposure_s[:, None] * model.energy_widths_kev
    photons = (torch.exp(log_a) * shape * to_photons)[:, None] * slopes
    jacobian = redistribute(photons, batch.response_index, batch.responses)
    return jacobian, (jacobian[:, -1] + batch.background).clamp_min(MU_MIN)


def _shape_and_slopes(model: Folded, z: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the flux shape (n, n_energy) and its log's slopes (n, latents + 1, n_energy).

    The last slope, of the log amplitude, is one.
    """
    directions = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        log_shape, slope = jvp(model.log_shape, (z,), (direction.expand_as(z),))[:2]
        return log_shape, slope

    log_shapes, slopes = vmap(along, out_dims=(0, 1))(directions)
    log_shape = log_shapes[0]
    ones = torch.ones_like(log_shape)[:, None]
    return torch.exp(log_shape), torch.cat([slopes, ones], 1)


def _prior(z: Tensor) -> Tensor:
    """Return the prior's information: 1 for each latent, and almost none for the amplitude."""
    weights = torch.ones(z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    weights[-1] = 1e-3
    return torch.diag(weights)
