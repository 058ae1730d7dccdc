"""Evaluate the posterior of latents and amplitude at many points per detection."""

from __future__ import annotations

import torch
from torch import Tensor

from raypipe.model.features import Batch
from raypipe.model.folding import redistribute
from raypipe.model.presets import Folded
from raypipe.model.statistics import MU_MIN

_STEPS = 3
_STEP_MAX = 2.0
_INFORMATION_MIN = 0.5
_ROOT_MIN = 1e-4


class ExactDensity:
    """Evaluate the posterior of the rows of a batch.

    The prior is a unit normal in the latents, as the refinement has it, and proportional to
    1 / (S + 1) in the expected source counts S: flat in the logarithm of the amplitude, as the
    refinement has it, down to about one count, and flat in S below. A prior that is flat in the
    logarithm everywhere has no finite integral where the background alone may explain the counts.
    As it depends on the amplitude by S alone, the number of counts does not favor any shape.

    `reference` (n, 1) are log amplitudes near those of the draws, which keep numbers in range.
    """

    def __init__(self, model: Folded, batch: Batch, reference: Tensor) -> None:
        self._model, self._batch, self._reference = model, batch, reference
        self._counts, self._background = batch.counts[:, None], batch.background[:, None]
        to_photons = batch.arf_cm2 * batch.exposure_s[:, None] * model.energy_widths_kev
        self._to_photons = to_photons[:, None]

    def take(self, rows: Tensor) -> ExactDensity:
        """Select the rows of those indices."""
        return ExactDensity(self._model, self._batch.take(rows), self._reference[rows])

    def profile(self, z: Tensor) -> Tensor:
        """Compute the log posterior of latents (n, draws, latents), without the amplitude.

        The amplitude is integrated out by Laplace's approximation.
        """
        source = self._source(z)
        log_gain, information = self._best_gain(source)
        value = self._log_posterior(z, torch.exp(log_gain)[..., None] * source)
        return value - 0.5 * torch.log(information.double())

    def with_amplitude(self, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw an amplitude for each of the latents (n, draws, latents) by unit normal `noise`.

        Returns the log amplitude, and the log posterior minus the log density with which the
        amplitude was drawn, (n, draws) each, up to a constant per row.

        Without background, the amplitude given the latents follows a gamma distribution, whose cube
        root is nearly normal (Wilson & Hilferty 1931). It is drawn as such about its maximum, with
        the information there as the shape; a negative root counts by its absolute value.
        """
        source = self._source(z)
        log_gain, information = self._best_gain(source)
        inverse = 1.0 / (9.0 * information.double())
        mean, width = 1.0 - inverse, inverse.sqrt()
        root = (mean + width * noise).abs().clamp_min(_ROOT_MIN)
        both = torch.logaddexp(
            -0.5 * ((root - mean) / width).square(), -0.5 * ((root + mean) / width).square()
        )
        # The density in the log amplitude is that of the root times d root / d log a = root / 3.
        log_proposal = both - torch.log(width) + torch.log(root)
        log_gain = log_gain.double() + 3.0 * torch.log(root)
        value = self._log_posterior(z, torch.exp(log_gain).float()[..., None] * source)
        return self._reference + log_gain, value - log_proposal

    def _source(self, z: Tensor) -> Tensor:
        """Fold latents at the reference amplitude: source counts (n, draws, bins)."""
        n, draws, latents = z.shape
        log_shape = self._model.log_shape(z.float().reshape(n * draws, latents))
        log_shape = log_shape.reshape(n, draws, log_shape.shape[-1])
        photons = log_shape.add_(self._reference[:, None]).exp_()
        photons *= self._to_photons
        return redistribute(photons, self._batch.response_index, self._batch.responses)

    def _best_gain(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Find the most probable log gain of each draw and its information, (n, draws) each.

        The gain multiplies the reference amplitude. A few steps of Fisher scoring need not arrive:
        the draws are weighted by what they were drawn from.
        """
        total = source.sum(-1, keepdim=True)
        excess = (self._counts - self._background).sum(-1, keepdim=True).clamp_min(1.0)
        log_gain = torch.log(excess / total)
        for _ in range(_STEPS):
            scaled = torch.exp(log_gain) * source
            ratio = scaled / (scaled + self._background).clamp_min(MU_MIN)
            counts = torch.exp(log_gain) * total
            # The prior S / (S + 1) of log S adds 1 / (S + 1) to the slope.
            gradient = (ratio * self._counts).sum(-1, keepdim=True) - counts + 1.0 / (counts + 1.0)
            information = (ratio * scaled).sum(-1, keepdim=True) + counts / (counts + 1.0).square()
            information = information.clamp_min(_INFORMATION_MIN)
            log_gain = log_gain + (gradient / information).clamp(-_STEP_MAX, _STEP_MAX)
        return log_gain[..., 0], information[..., 0]

    def _log_posterior(self, z: Tensor, source: Tensor) -> Tensor:
        """Compute the log posterior of latents and log amplitude, up to a constant per row."""
        total = source.double().sum(-1)
        log_mu = torch.log((source + self._background).clamp_min(MU_MIN))
        # Relative to the background alone the terms are of the size of the differences.
        likelihood = (self._counts * log_mu).double().sum(-1) - total
        prior = torch.log(total / (total + 1.0)) - 0.5 * z.double().square().sum(-1)
        return likelihood + prior
