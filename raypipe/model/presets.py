"""Define the presets: input, output and loss of an autoencoder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from raypipe.config import ModelConfig
from raypipe.model.autoencoder import Autoencoder, Decoder, Encoder, LinearizedDecoder
from raypipe.model.channel_axes import EVEN_BINS
from raypipe.model.count_splitting import unseen
from raypipe.model.features import Batch
from raypipe.model.flux_errors import FluxErrors
from raypipe.model.folding import best_amplitude, cash_per_bin, fold, redistribute
from raypipe.model.photon_energies import (
    CONDITIONS,
    INPUT_BINS,
    MARKS,
    VALUES,
    EncoderInput,
    PhotonEnergies,
    patch_places,
)
from raypipe.spectra.grid import EnergyGrid

LOG_FLUX_LIMIT = 30.0
"""Largest logarithm of a flux shape, of either sign."""
_TYPICAL_PHOTON_INDEX = 1.7
_KNOTS = 24
"""Knots in log energy between which the decoder's first weights are interpolated."""
_TYPICAL_COUNTS = 300.0
"""Scale of the loss: at this number of counts the weight is 1 / sqrt(counts) for any power."""


class Preset(nn.Module, ABC):
    """Define an autoencoder by its input, its output and its loss.

    `most_shown` is the largest share of the counts that the encoder sees in training.
    """

    name: str
    most_shown: float
    energy_widths_kev: Tensor

    def __init__(self, autoencoder: Autoencoder, grid: EnergyGrid) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.grid = grid
        widths = torch.tensor(grid.widths_kev, dtype=torch.float32)
        self.register_buffer("energy_widths_kev", widths, persistent=False)

    def encode(self, batch: Batch) -> Tensor:
        """Encode a batch to latents (n, latents)."""
        z: Tensor = self.autoencoder.encoder(*self.inputs(batch))
        return z

    def forward(self, batch: Batch, shown: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean square of the latents of each row, (n,) each.

        The encoder sees `shown`, a view of the same detections made by `count_splitting.thin`.
        """
        z = self.encode(shown)
        return self.loss(z, batch, shown), z.square().mean(-1)

    def expected_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """Predict the counts per channel bin, of source and background, (n, bins)."""
        return self.source_counts(z, batch) + batch.background

    @abstractmethod
    def inputs(self, batch: Batch) -> EncoderInput:
        """Return the encoder's arguments for a batch."""

    @abstractmethod
    def loss(self, z: Tensor, batch: Batch, shown: Batch) -> Tensor:
        """Compute the loss of each row, (n,), for latents `z` encoded from `shown`."""

    @abstractmethod
    def source_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """Predict the source counts per channel bin, (n, bins), with fitted amplitude."""


class Folded(Preset):
    """Model the photon flux, which is folded through the detection's response.

    The loss is the Cash statistic divided by a power of the counts, by default their fourth root:
    bright detections, which constrain the shape of spectra best, weigh more than faint ones without
    drowning them. The amplitude is profiled out. `flux_errors` are those of the fluxes of trained
    weights, None where they were not measured.
    """

    name = "folded"
    most_shown = 0.8
    flux_errors: FluxErrors | None = None
    log_flux_base: Tensor

    def __init__(self, config: ModelConfig, grid: EnergyGrid) -> None:
        encoder = Encoder(config, INPUT_BINS, VALUES, CONDITIONS, MARKS, patch_places(config.patch))
        super().__init__(Autoencoder(encoder, Decoder(config, grid.n_energy)), grid)
        self.photon_energies = PhotonEnergies(grid)
        self.loss_power = config.loss_power
        _smooth_in_energy(self.autoencoder.decoder.layers[-1], grid)
        base = -_TYPICAL_PHOTON_INDEX * np.log(grid.mid_kev)
        self.register_buffer("log_flux_base", torch.tensor(base, dtype=torch.float32))

    def inputs(self, batch: Batch) -> EncoderInput:
        """Carry counts back to photon energies; see `PhotonEnergies`."""
        found: EncoderInput = self.photon_energies(batch)
        return found

    def log_shape(self, z: Tensor) -> Tensor:
        """Return the logarithm of the photon flux density up to the amplitude, (n, n_energy)."""
        return _limited(_centered(self.log_flux_base + self.autoencoder.decoder(z)))

    def linearize(self, z: Tensor) -> LinearizedShape:
        """Return `log_shape` at `z` with its derivatives."""
        decoder = self.autoencoder.decoder.linearize(z)
        return LinearizedShape(_centered(self.log_flux_base + decoder.outputs), decoder)

    def flux(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the photon flux density (n, n_energy), photon/cm2/s/keV, with fitted amplitude."""
        shape = torch.exp(self.log_shape(z))
        folded = fold(shape, batch, self.energy_widths_kev)
        return best_amplitude(batch.counts, folded, batch.background) * shape

    def source_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """Fold the flux through each row's response."""
        folded = fold(torch.exp(self.log_shape(z)), batch, self.energy_widths_kev)
        return best_amplitude(batch.counts, folded, batch.background) * folded

    def loss(self, z: Tensor, batch: Batch, shown: Batch) -> Tensor:
        """Scale the Cash statistic of the counts not shown by a power of the number of counts."""
        judged = unseen(batch, shown)
        cash = cash_per_bin(judged.counts, self.expected_counts(z, judged)).sum(-1)
        relative = batch.counts.sum(-1).clamp_min(1.0) / _TYPICAL_COUNTS
        return cash / (math.sqrt(_TYPICAL_COUNTS) * relative.pow(self.loss_power))


@dataclass(frozen=True)
class LinearizedShape:
    """Hold the logarithm of a flux shape, (n, n_energy), before its limits, with derivatives."""

    unlimited: Tensor
    decoder: LinearizedDecoder

    @property
    def log_shape(self) -> Tensor:
        """Return the logarithm of the photon flux density up to the amplitude, (n, n_energy)."""
        return _limited(self.unlimited)

    def slopes(self, merged: int = 1) -> Tensor:
        """Compute the derivatives of the logarithm by the latents, (n, latents, n_energy).

        With `merged` above 1 they are means over that many neighboring energies.
        """
        slopes = self.decoder.slopes(centered=True, merged=merged)
        if self._is_limited:
            free = self._is_free.unflatten(-1, (-1, merged)).all(-1)
            slopes = torch.where(free[:, None], slopes, 0.0)
        return slopes

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Convert a gradient in the logarithm (n, n_energy) to one in the latents."""
        if self._is_limited:
            gradient = torch.where(self._is_free, gradient, 0.0)
        return self.decoder.pull_back(_centered(gradient))

    @cached_property
    def _is_free(self) -> Tensor:
        return self.unlimited.abs() <= LOG_FLUX_LIMIT

    @cached_property
    def _is_limited(self) -> bool:
        return not bool(self._is_free.all())


class Paper(Preset):
    """Model the net count rate in 400 bins, scaled to [0, 1], as the published recipe does.

    After Pinciroli Vago et al. (arXiv:2510.14102), without response and likelihood. Its 400 bins
    divide the nominal energies of the channel bins of ACIS evenly, the background it subtracts is
    the smoothed one, and training thins the counts as for `Folded`. For the Cash statistic the
    decoded spectrum is scaled back, and its amplitude is fitted as for `Folded`.
    """

    name = "paper"
    most_shown = 1.0

    def __init__(self, config: ModelConfig, grid: EnergyGrid) -> None:
        encoder = Encoder(config, EVEN_BINS, values=1, conditions=0)
        super().__init__(Autoencoder(encoder, Decoder(config, EVEN_BINS)), grid)

    def inputs(self, batch: Batch) -> EncoderInput:
        """Return the net count rate (n, 1, 400), scaled to [0, 1], without marks and conditions."""
        scaled, _, _ = self._scaled_rate(batch)
        nothing = scaled.new_zeros(len(batch), 0)
        return EncoderInput(
            values=scaled[:, None],
            marks=nothing[..., None],
            seen=torch.ones_like(scaled, dtype=torch.bool),
            conditions=nothing,
        )

    def source_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """Scale the decoded spectrum back to counts in the channel bins."""
        _, low, span = self._scaled_rate(batch)
        rate = (self._decode(z) * span + low).clamp_min(0.0)
        shares = batch.axes.even_shares
        back = (shares / shares.sum(1, keepdim=True).clamp_min(1e-12)).transpose(1, 2)
        counts = redistribute(rate * batch.exposure_s[:, None], _kinds(batch), back)
        valid = batch.valid[batch.response_index_there]
        shape = torch.where(valid, counts.clamp_min(1e-3), 0.0)
        return best_amplitude(batch.counts, shape, batch.background) * shape

    def loss(self, z: Tensor, batch: Batch, shown: Batch) -> Tensor:
        """Compute the mean absolute error of the scaled spectrum."""
        scaled, _, _ = self._scaled_rate(batch)
        return (self._decode(z) - scaled).abs().mean(-1)

    def _decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.autoencoder.decoder(z))

    def _scaled_rate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        net = (batch.counts - batch.background) / batch.exposure_s[:, None].clamp_min(1e-3)
        rate = redistribute(net, _kinds(batch), batch.axes.even_shares)
        low = rate.amin(-1, keepdim=True)
        span = (rate.amax(-1, keepdim=True) - low).clamp_min(1e-12)
        return (rate - low) / span, low, span


PRESETS: dict[str, type[Folded] | type[Paper]] = {"folded": Folded, "paper": Paper}
"""The presets by name."""


@torch.no_grad()
def _smooth_in_energy(last: nn.Module, grid: EnergyGrid) -> None:
    """Make the random weights of the decoder's last layer smooth functions of the energy.

    The bins are narrower than any response resolves: if each had random weights of its own, no
    counts would ever smooth the flux. Weights are interpolated between knots instead.
    """
    assert isinstance(last, nn.Linear)
    log_energy = np.log(grid.mid_kev)
    knots = np.linspace(log_energy[0], log_energy[-1], _KNOTS)
    each = np.eye(_KNOTS)
    hats = np.stack([np.interp(log_energy, knots, hat) for hat in each], axis=1)
    between = torch.tensor(hats, dtype=last.weight.dtype)
    last.weight.copy_(between @ last.weight[:_KNOTS])
    last.bias.copy_(between @ last.bias[:_KNOTS])


def build(config: ModelConfig, grid: EnergyGrid) -> Folded | Paper:
    """Make a model of the preset that `config` names, with random weights."""
    return PRESETS[config.preset](config, grid)


def flux_errors_of(network: Folded | Paper) -> FluxErrors | None:
    """Return the errors of a network's fluxes; None where it has no fluxes or they are unknown."""
    return network.flux_errors if isinstance(network, Folded) else None


def _centered(values: Tensor) -> Tensor:
    """Subtract the mean over energies."""
    return values - values.mean(-1, keepdim=True)


def _limited(log_shape: Tensor) -> Tensor:
    return log_shape.clamp(-LOG_FLUX_LIMIT, LOG_FLUX_LIMIT)


def _kinds(batch: Batch) -> Tensor:
    """Return the index of each row's channel bins among the distinct ones, (n,), on the host."""
    return batch.axes.kind[batch.response_index]
