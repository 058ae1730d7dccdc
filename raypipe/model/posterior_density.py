"""Evaluate the posterior of latents and amplitude at many points per detection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from raypipe.model.banded_responses import BandedResponses
from raypipe.model.features import Batch
from raypipe.model.log_shapes import LogShapes
from raypipe.model.presets import Folded
from raypipe.model.statistics import MU_MIN

_STEP_MAX = 2.0
_INFORMATION_MIN = 0.5
_ROOT_MIN = 1e-4
_MOST_MERGED = 3
"""Most neighboring energies that count as one in the coarse density."""
_POINTS_AT_ONCE = {"cpu": 512, "cuda": 65536}
"""Points evaluated together: their 810 fluxes stay in the cache of a CPU's core."""


class Amplitudes(NamedTuple):
    """Hold log amplitudes drawn for given latents, (n, draws) each.

    `log_posterior` is that of latents and amplitude, up to a constant per row, and `log_proposal`
    the log density with which the amplitude was drawn.
    """

    log_amplitude: Tensor
    log_posterior: Tensor
    log_proposal: Tensor


@dataclass(frozen=True)
class PosteriorDensity:
    """Evaluate the posterior of the rows of a batch.

    The prior is a unit normal in the latents, as the refinement has it, and proportional to
    1 / (S + 1) in the expected source counts S: flat in the logarithm of the amplitude, as the
    refinement has it, down to about one count, and flat in S below. A prior that is flat in the
    logarithm everywhere has no finite integral where the background alone may explain the counts.
    As it depends on the amplitude by S alone, the number of counts does not favor any shape.

    The flux density of latents z at the amplitude `reference` (n, 1) is exp(shapes(z) + offset), of
    which the detector sees `to_photons` (n, 1, energies) as many photons. `gain` (n, 1, bins)
    multiplies the folded counts; it is None where they are exact.
    """

    shapes: LogShapes
    responses: BandedResponses
    counts: Tensor
    background: Tensor
    reference: Tensor
    offset: Tensor
    to_photons: Tensor
    gain: Tensor | None = None

    @classmethod
    def of(
        cls, model: Folded, batch: Batch, reference: Tensor, energies: int = 1
    ) -> PosteriorDensity:
        """Make the exact density; `reference` (n, 1) are log amplitudes near those of the draws.

        Energies above those that a response sees are left out, but not those before the number
        `energies`. It is fastest for rows that are sorted by response.
        """
        to_photons = batch.arf_cm2 * batch.exposure_s[:, None] * model.energy_widths_kev
        size = _merged(batch.responses.shape[1])
        energies = -(-max(energies, _seen_energies(batch.responses)) // size) * size
        to_photons = to_photons[:, :energies]
        return cls(
            LogShapes.of(model).first(energies),
            BandedResponses(batch.response_index, batch.responses[:, :energies]),
            batch.counts[:, None],
            batch.background[:, None],
            reference,
            reference[:, None],
            to_photons[:, None],
        )

    def coarse(self, center: Tensor) -> PosteriorDensity:
        """Return a cheaper density that is equal at latents `center` (n, latents), and close near.

        Neighboring energies count as one: logarithms of fluxes change with the latents as their
        mean does, photons are those of `center` together, and counts are scaled to those of
        `center` in each bin.
        """
        size = _merged(int(self.to_photons.shape[-1]))
        shapes, responses = self.shapes.merged(size), self.responses.merge(size)
        center = center[:, None].to(self.counts.dtype)
        photons = self._density(center) * self.to_photons
        source = self.responses.fold(photons)
        photons = photons.unflatten(-1, (-1, size)).sum(-1)
        folded = responses.fold(photons)
        return replace(
            self,
            shapes=shapes,
            responses=responses,
            offset=-shapes(center),
            to_photons=photons,
            gain=torch.where(folded > 0.0, source / folded, 1.0),
        )

    def take(self, rows: Tensor | slice) -> PosteriorDensity:
        """Select rows in their order, by a slice or by increasing indices."""
        on_host = rows if isinstance(rows, slice) else rows.cpu()
        return replace(
            self,
            responses=self.responses.keep(on_host),
            counts=self.counts[rows],
            background=self.background[rows],
            reference=self.reference[rows],
            offset=self.offset[rows],
            to_photons=self.to_photons[rows],
            gain=None if self.gain is None else self.gain[rows],
        )

    def profile(self, z: Tensor) -> Tensor:
        """Compute the log posterior of latents (n, draws, latents), without the amplitude.

        The amplitude is integrated out by Laplace's approximation.
        """
        values = []
        for here, rows in self._pieces(z):
            source = here.source(z[rows])
            log_gain, information = here._best_gain(source)
            value = here._log_posterior(z[rows], source.mul_(torch.exp(log_gain)[..., None]))
            values.append(value - 0.5 * torch.log(information.double()))
        return torch.cat(values)

    def with_amplitude(
        self, z: Tensor, noise: Tensor, densities: Tensor | None = None
    ) -> Amplitudes:
        """Draw an amplitude for each of the latents (n, draws, latents) by unit normal `noise`.

        Without background, the amplitude given the latents follows a gamma distribution, whose cube
        root is nearly normal (Wilson & Hilferty 1931). It is drawn as such about its maximum, with
        the information there as the shape; a negative root counts by its absolute value.

        `densities` (n, draws, energies) is filled with the flux densities at the reference.
        """
        found = [
            here._with_amplitude(z[rows], noise[rows], _part(densities, rows))
            for here, rows in self._pieces(z)
        ]
        return Amplitudes(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def at(self, z: Tensor, log_amplitude: Tensor, densities: Tensor | None = None) -> Tensor:
        """Compute the log posterior of latents and log amplitude (n, draws), (n, draws).

        `densities` is filled as in `with_amplitude`.
        """
        values = []
        for here, rows in self._pieces(z):
            source = here.source(z[rows], _part(densities, rows))
            log_gain = log_amplitude[rows] - here.reference
            values.append(here._log_posterior(z[rows], source.mul_(torch.exp(log_gain)[..., None])))
        return torch.cat(values)

    def source(self, z: Tensor, densities: Tensor | None = None) -> Tensor:
        """Fold latents at the reference amplitude: source counts (n, draws, bins)."""
        density = self._density(z.to(self.counts.dtype))
        if densities is not None:
            densities.copy_(density)
        source = self.responses.fold(density.mul_(self.to_photons))
        return source if self.gain is None else source.mul_(self.gain)

    def _density(self, z: Tensor) -> Tensor:
        return self.shapes(z).add_(self.offset).exp_()

    def _pieces(self, z: Tensor) -> Iterator[tuple[PosteriorDensity, slice]]:
        """Cut the rows so that few enough points (n, draws, ...) are evaluated together."""
        size = max(1, _POINTS_AT_ONCE[z.device.type] // z.shape[1])
        for start in range(0, max(len(z), 1), size):
            rows = slice(start, start + size)
            yield self.take(rows), rows

    def _with_amplitude(self, z: Tensor, noise: Tensor, densities: Tensor | None) -> Amplitudes:
        source = self.source(z, densities)
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
        value = self._log_posterior(z, source.mul_(torch.exp(log_gain).float()[..., None]))
        return Amplitudes(self.reference + log_gain, value, log_proposal)

    def _best_gain(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Find the most probable log gain of each draw and its information, (n, draws) each.

        The gain multiplies the reference amplitude. One step of Fisher scoring, from the gain that
        explains the counts above the background, need not arrive: the draws are weighted by what
        they were drawn from, and further steps do not raise their effective number.
        """
        total = source.sum(-1, keepdim=True)
        excess = (self.counts - self.background).sum(-1, keepdim=True).clamp_min(1.0)
        gain = excess / total
        scaled, counts = gain * source, gain * total
        ratio = scaled / (scaled + self.background).clamp_min_(MU_MIN)
        # The prior S / (S + 1) of log S adds 1 / (S + 1) to the slope.
        gradient = torch.linalg.vecdot(ratio, self.counts)[..., None] - counts
        gradient += 1.0 / (counts + 1.0)
        information = torch.linalg.vecdot(ratio, scaled)[..., None]
        information += counts / (counts + 1.0).square()
        information = information.clamp_min(_INFORMATION_MIN)
        log_gain = torch.log(gain) + (gradient / information).clamp(-_STEP_MAX, _STEP_MAX)
        return log_gain[..., 0], information[..., 0]

    def _log_posterior(self, z: Tensor, source: Tensor) -> Tensor:
        """Compute the log posterior of latents and log amplitude, up to a constant per row."""
        total = source.sum(-1, dtype=torch.float64)
        log_mu = torch.log((source + self.background).clamp_min_(MU_MIN))
        # Relative to the background alone the terms are of the size of the differences.
        likelihood = log_mu.mul_(self.counts).sum(-1, dtype=torch.float64) - total
        prior = torch.log(total / (total + 1.0)) - 0.5 * z.double().square().sum(-1)
        return likelihood + prior


def _merged(energies: int) -> int:
    """Return the most energies that can be merged evenly."""
    return max(size for size in range(1, _MOST_MERGED + 1) if energies % size == 0)


def _seen_energies(responses: Tensor) -> int:
    """Return the number of energies up to the last one that a response sees."""
    is_seen = (responses != 0.0).any(0).any(-1)
    return int(torch.nonzero(is_seen)[-1]) + 1 if bool(is_seen.any()) else len(is_seen)


def _part(values: Tensor | None, rows: slice) -> Tensor | None:
    return None if values is None else values[rows]
