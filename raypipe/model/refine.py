"""Refine latents by each detection's own likelihood, and compute their errors."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from raypipe.model.banded_responses import BandedResponses
from raypipe.model.features import Batch
from raypipe.model.folding import best_amplitude, cash_per_bin
from raypipe.model.presets import Folded
from raypipe.model.statistics import MU_MIN

_DAMPING_START = 1e-2
_DAMPING_FACTOR = 6.0
_DAMPING_RANGE = (1e-6, 1e8)
_STEP_MAX = 1.0
_FISHER_STEPS = 3
"""Steps at the beginning whose curvature is the Fisher information where they start."""
_MOST_MERGED = 5
"""Most neighboring energies that are merged to estimate the curvature."""
_LEAST_CURVATURE = 0.1
"""Share of the expected curvature below which a step does not update the estimate of it."""
_ARRIVED = 1e-4
"""Rise of the log posterior that a step promises, below which it is the last."""


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

    def take(self, rows: Tensor) -> Refined:
        """Select rows by index."""
        return Refined(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


@torch.no_grad()
def refine(
    model: Folded,
    z: Tensor,
    batch: Batch,
    steps: int,
    arrived: float = _ARRIVED,
    prior_mean: Tensor | None = None,
) -> Refined:
    """Maximize likelihood times population prior from the encoder's answer `z` (n, latents).

    At most `2 * steps` damped quasi-Newton steps in the latents and the log amplitude; the prior is
    a unit normal, as whitened latents have. The curvature of the first three is the Fisher
    information (Fisher scoring); after that it follows from the change of the gradient by the BFGS
    formula (Nocedal & Wright 2006, eq. 6.19), which costs a sixth of a Fisher matrix. A step that
    does not lower cash / 2 + |z|^2 / 2 is not taken. The last step of a row promises to raise the
    log posterior by less than `arrived`. 0 steps keep `z` and only compute its errors. The prior's
    mean is 0, or `prior_mean` (n, latents).

    Errors are from the Fisher information F at the solution and the prior's P: C = (F + P)^-1 is
    the posterior's covariance, C M C that of repeated answers, M being F and what the noise of the
    measured background adds to it.
    """
    order = batch.response_index.argsort(stable=True)
    there = order.to(z.device, non_blocking=True)
    mean = torch.zeros_like(z) if prior_mean is None else prior_mean
    spectra = _Spectra.of(model, batch.take(order), mean[there])
    at = torch.cat([z[there], spectra.log_amplitude(z[there])], 1)
    if steps:
        at = _maximum(spectra, at, 2 * steps, arrived)
    errors = _with_errors(_Fold(spectra, at))
    return errors.take(there.argsort())


def _maximum(spectra: _Spectra, start: Tensor, steps: int, arrived: float) -> Tensor:
    """Climb from `start` (n, latents + 1) to the maximum of the posterior."""
    at, moving = start.clone(), torch.arange(len(start), device=start.device)
    climb = _Climb(_Fold(spectra, start))
    for number in range(1, steps + 1):
        promised = climb.step(measure_curvature=number < _FISHER_STEPS)
        at[moving] = climb.at
        goes_on = promised >= arrived
        if not bool(goes_on.any()):
            break
        moving, climb = moving[goes_on], climb.keep(goes_on)
    return at


@dataclass(frozen=True)
class _Spectra:
    """Hold rows of a batch, sorted by response, with what all folds of them share.

    `prior_mean` (n, latents) is the mean of the prior, `to_photons` (n, n_energy) converts a flux
    density to the photons that the detector sees in an energy bin, `noise` (n, bins) is the
    variance of the measured background in the source region.
    """

    model: Folded
    prior_mean: Tensor
    counts: Tensor
    background: Tensor
    noise: Tensor
    to_photons: Tensor
    responses: BandedResponses
    coarse_responses: BandedResponses

    @classmethod
    def of(cls, model: Folded, batch: Batch, prior_mean: Tensor) -> _Spectra:
        """Take a batch whose rows are sorted by response."""
        return cls(
            model,
            prior_mean,
            batch.counts,
            batch.background,
            batch.background_scale * batch.background,
            batch.arf_cm2 * batch.exposure_s[:, None] * model.energy_widths_kev,
            BandedResponses(batch.response_index, batch.responses),
            BandedResponses(batch.response_index, batch.responses, _merged(model.grid.n_energy)),
        )

    def log_amplitude(self, z: Tensor) -> Tensor:
        """Return the most likely log amplitude for latents `z`, (n, 1)."""
        folded = self.responses.fold(torch.exp(self.model.log_shape(z)) * self.to_photons)
        return torch.log(best_amplitude(self.counts, folded, self.background))

    def keep(self, rows: Tensor) -> _Spectra:
        """Select the rows where `rows` (n,) is true."""
        return replace(
            self,
            prior_mean=self.prior_mean[rows],
            counts=self.counts[rows],
            background=self.background[rows],
            noise=self.noise[rows],
            to_photons=self.to_photons[rows],
            responses=self.responses.keep(rows.cpu()),
            coarse_responses=self.coarse_responses.keep(rows.cpu()),
        )


class _Fold:
    """Fold the flux at `at` (n, latents + 1), latents and log amplitude, through the responses.

    `mu` (n, bins) are the expected counts, `objective` (n,) is minus the log posterior.
    """

    def __init__(self, spectra: _Spectra, at: Tensor) -> None:
        self.spectra, self.at = spectra, at
        self.shape = spectra.model.linearize(at[:, :-1])
        self.photons = torch.exp(self.shape.log_shape + at[:, -1:]) * spectra.to_photons
        self.source = spectra.responses.fold(self.photons)
        self.mu = (self.source + spectra.background).clamp_min(MU_MIN)
        cash = cash_per_bin(spectra.counts, self.mu).double().sum(-1)
        self.from_mean = at[:, :-1] - spectra.prior_mean
        self.objective = 0.5 * cash + 0.5 * self.from_mean.square().sum(-1)

    def gradient(self) -> Tensor:
        """Compute the gradient of the log posterior, (n, latents + 1)."""
        residuals = self.spectra.counts / self.mu - 1.0
        by_energy = self.spectra.responses.pull_back(residuals) * self.photons
        in_latents = self.shape.pull_back(by_energy) - self.from_mean
        return torch.cat([in_latents, by_energy.sum(-1, keepdim=True)], 1)

    def jacobian(self) -> Tensor:
        """Compute the slopes of the expected counts, (n, latents + 1, bins)."""
        photons = self.shape.slopes().mul_(self.photons[:, None])
        return torch.cat([self.spectra.responses.fold(photons), self.source[:, None]], 1)

    def curvature(self) -> Tensor:
        """Estimate the Fisher information of likelihood and prior, (n, latents + 1, latents + 1).

        Neighboring energies are merged: only the number of steps depends on this estimate, not
        where they lead.
        """
        coarse = self.spectra.coarse_responses
        photons = self.photons.unflatten(-1, (-1, coarse.merged)).sum(-1)
        slopes = coarse.fold(self.shape.slopes(coarse.merged).mul_(photons[:, None]))
        jacobian = torch.cat([slopes, self.source[:, None]], 1)
        return (jacobian / self.mu[:, None]) @ jacobian.transpose(1, 2) + _prior(self.at)


class _Climb:
    """Hold the positions of some rows on their way to the maximum of the posterior.

    `at` (n, latents + 1) are latents and log amplitude, `objective` (n,) minus the log posterior
    there, `gradient` its gradient with the opposite sign, `curvature` (n, latents + 1, latents + 1)
    an estimate of its second derivatives, and `damping` (n, 1) that of the next step.
    """

    def __init__(self, fold: _Fold) -> None:
        self.spectra, self.at, self.objective = fold.spectra, fold.at, fold.objective
        self.gradient, self.curvature = fold.gradient(), fold.curvature()
        self.damping = torch.full_like(fold.at[:, :1], _DAMPING_START)

    def step(self, measure_curvature: bool) -> Tensor:
        """Accept a step where it improves the posterior; return the rise that it promised, (n,).

        With `measure_curvature` the next step has the Fisher information where it starts.
        A row whose step is not finite, or whose matrix is singular, stays where it is: matrices
        are solved unchecked, for a check would raise for all rows.
        """
        diagonal = torch.diagonal(self.curvature, dim1=-2, dim2=-1)
        damped = self.curvature + torch.diag_embed(self.damping * diagonal)
        step = torch.linalg.solve_ex(damped, self.gradient[..., None])[0][..., 0]
        promised = 0.5 * (self.gradient * step).sum(-1)
        step = step * (_STEP_MAX / step.abs().amax(-1, keepdim=True).clamp_min(_STEP_MAX))
        fold = _Fold(self.spectra, self.at + step)
        gradient = fold.gradient()
        self.curvature = _updated(self.curvature, step, self.gradient - gradient)
        better = fold.objective < self.objective
        if measure_curvature:
            self.curvature = torch.where(better[:, None, None], fold.curvature(), self.curvature)
        self.at = torch.where(better[:, None], fold.at, self.at)
        self.gradient = torch.where(better[:, None], gradient, self.gradient)
        self.objective = torch.where(better, fold.objective, self.objective)
        factor = torch.where(better[:, None], 1.0 / _DAMPING_FACTOR, _DAMPING_FACTOR)
        self.damping = (self.damping * factor).clamp(*_DAMPING_RANGE)
        return promised

    def keep(self, rows: Tensor) -> _Climb:
        """Select the rows where `rows` (n,) is true."""
        kept = copy.copy(self)
        kept.spectra = self.spectra.keep(rows)
        for name in ("at", "objective", "gradient", "curvature", "damping"):
            setattr(kept, name, getattr(self, name)[rows])
        return kept


def _updated(curvature: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Return the curvature (n, k, k) that explains by how much a step changed the gradient.

    With B the curvature, s the step and y the change (n, k), that is B + y y' / y's
    - B s s'B / s'B s. It stays positive definite if y's is positive; where the change shows much
    less curvature than B, as across a point of inflection, B is kept.
    """
    expected = (curvature @ step[..., None])[..., 0]
    along, seen = (step * expected).sum(-1), (step * change).sum(-1)
    usable = (seen > _LEAST_CURVATURE * along) & (along > 0.0)
    update = _outer(change) / seen[:, None, None] - _outer(expected) / along[:, None, None]
    return torch.where(usable[:, None, None], curvature + update, curvature)


def _merged(n_energy: int) -> int:
    """Return the most energies that can be merged evenly."""
    return max(size for size in range(1, _MOST_MERGED + 1) if n_energy % size == 0)


def _outer(vectors: Tensor) -> Tensor:
    return vectors[:, :, None] * vectors[:, None]


def _with_errors(fold: _Fold) -> Refined:
    sensitivity = (fold.jacobian() / fold.mu[:, None]).double()
    information = (sensitivity * fold.mu[:, None]) @ sensitivity.transpose(1, 2)
    covariance = _inverses(information + _prior(fold.at).double())
    measured = fold.mu + fold.spectra.noise
    scatter = (sensitivity * measured[:, None]) @ sensitivity.transpose(1, 2)
    repeated = covariance @ scatter @ covariance
    scatters, variances = (
        torch.diagonal(each, dim1=-2, dim2=-1)[:, :-1] for each in (repeated, covariance)
    )
    return Refined(
        z=fold.at[:, :-1],
        log_amplitude=fold.at[:, -1:],
        z_err=scatters.clamp_min(0.0).sqrt().float(),
        z_std=variances.sqrt().float(),
        covariance=covariance,
        information=information,
        sensitivity=sensitivity,
    )


def _inverses(matrices: Tensor) -> Tensor:
    """Invert matrices (n, k, k); the inverse of a singular one is NaN."""
    inverse, failed = torch.linalg.inv_ex(matrices)
    return torch.where(failed[:, None, None] != 0, torch.nan, inverse)


def _prior(at: Tensor) -> Tensor:
    """Return the prior's information: 1 for each latent, and almost none for the amplitude."""
    weights = torch.ones(at.shape[-1], dtype=at.dtype, device=at.device)
    weights[-1] = 1e-3
    return torch.diag(weights)
