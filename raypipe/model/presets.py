"""The recipes: what is encoded, what is decoded, and what makes a reconstruction good."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raypipe.config import PRESET_BINS, ModelConfig
from raypipe.model.autoencoder import Autoencoder
from raypipe.model.features import CONDITIONS, Batch, encoder_inputs
from raypipe.model.folding import best_amplitude, cash_per_bin, fold
from raypipe.model.grid import Grid
from raypipe.model.thinning import unseen

_LOG_FLUX_LIMIT = 30.0
_TYPICAL_PHOTON_INDEX = 1.7
_TYPICAL_COUNTS = 300.0
"""Where the weight is one over the square root of the counts, whatever the power: the scale."""
_PAPER_BINS = PRESET_BINS["paper"]


class Preset(nn.Module, ABC):
    """An autoencoder with its input, its output and its loss.

    `most_shown` is the largest share of the counts that the encoder is shown in training.
    """

    name: str
    most_shown: float

    def __init__(self, autoencoder: Autoencoder, grid: Grid) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.grid = grid

    def encode(self, batch: Batch) -> Tensor:
        """Latents (n, latents) of a batch."""
        z: Tensor = self.autoencoder.encoder(*self.inputs(batch))
        return z

    def forward(self, batch: Batch, shown: Batch) -> tuple[Tensor, Tensor]:
        """Loss and mean square of the latents of each row, (n,) each.

        The encoder sees `shown`, a view of the same detections by `thinning.thin`.
        """
        z = self.encode(shown)
        return self.loss(z, batch, shown), z.square().mean(-1)

    def expected_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """Expected counts per channel bin, source and background, (n, bins)."""
        return self.source_counts(z, batch) + batch.background

    @abstractmethod
    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (n, features, bins) and conditions (n, conditions) of a batch."""

    @abstractmethod
    def loss(self, z: Tensor, batch: Batch, shown: Batch) -> Tensor:
        """Loss of each row, (n,), when the latents are of `shown`."""

    @abstractmethod
    def source_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """Expected source counts per channel bin, (n, bins), amplitude fitted to the counts."""


class Folded(Preset):
    """Decodes a photon flux, folds it through the detection's response, judges it by Poisson.

    The loss is the Cash statistic over a power of the counts, by default their fourth root, so that
    bright detections, which know most of what a spectrum can look like, weigh more than faint ones
    but do not drown them; the amplitude is profiled out.
    """

    name = "folded"
    most_shown = 0.8
    log_flux_base: Tensor

    def __init__(self, config: ModelConfig, grid: Grid) -> None:
        super().__init__(
            Autoencoder(config, grid.n_channel_bins, 2, grid.n_energy, CONDITIONS), grid
        )
        self.loss_power = config.loss_power
        base = -_TYPICAL_PHOTON_INDEX * np.log(grid.energy_mid_kev)
        self.register_buffer("log_flux_base", torch.tensor(base, dtype=torch.float32))

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Square roots of the shares of counts and background; see `encoder_inputs`."""
        return encoder_inputs(batch)

    def log_shape(self, z: Tensor) -> Tensor:
        """Log of the photon flux density up to the amplitude, (n, n_energy)."""
        out: Tensor = self.log_flux_base + self.autoencoder.decoder(z)
        return (out - out.mean(-1, keepdim=True)).clamp(-_LOG_FLUX_LIMIT, _LOG_FLUX_LIMIT)

    def flux(self, z: Tensor, batch: Batch) -> Tensor:
        """Photon flux density, (n, n_energy), photon/cm2/s/keV, amplitude fitted to the counts."""
        shape = torch.exp(self.log_shape(z))
        folded = fold(shape, batch, self.grid.energy_width_kev)
        return best_amplitude(batch.counts, folded, batch.background) * shape

    def source_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """The flux folded through each row's response."""
        folded = fold(torch.exp(self.log_shape(z)), batch, self.grid.energy_width_kev)
        return best_amplitude(batch.counts, folded, batch.background) * folded

    def loss(self, z: Tensor, batch: Batch, shown: Batch) -> Tensor:
        """Cash statistic of the counts not shown over a power of all counts, scaled."""
        judged = unseen(batch, shown)
        cash = cash_per_bin(judged.counts, self.expected_counts(z, judged)).sum(-1)
        relative = batch.counts.sum(-1).clamp_min(1.0) / _TYPICAL_COUNTS
        return cash / (math.sqrt(_TYPICAL_COUNTS) * relative.pow(self.loss_power))


class Paper(Preset):
    """The published recipe: min-max scaled net count rates on 400 bins, absolute error.

    After Pinciroli Vago et al. (arXiv:2510.14102): no response, no likelihood. Its 400 bins are
    the common channel bins spread evenly, the background subtracted is the smoothed one, and it is
    trained like `Folded`, thinned counts included. For its Cash statistic the decoded spectrum is
    scaled back and its amplitude fitted like that of `Folded`.
    """

    name = "paper"
    most_shown = 1.0
    rebin: Tensor

    def __init__(self, config: ModelConfig, grid: Grid) -> None:
        super().__init__(Autoencoder(config, _PAPER_BINS, 1, _PAPER_BINS, 0), grid)
        overlap = torch.tensor(_overlap(grid.n_channel_bins, _PAPER_BINS), dtype=torch.float32)
        self.register_buffer("rebin", overlap)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Min-max scaled net count rate (n, 1, 400); no conditions."""
        scaled, _, _ = self._scaled_rate(batch)
        return scaled[:, None], scaled.new_zeros(len(batch), 0)

    def source_counts(self, z: Tensor, batch: Batch) -> Tensor:
        """The decoded spectrum, scaled back, on the channel bins."""
        _, low, span = self._scaled_rate(batch)
        rate = (self._decode(z) * span + low).clamp_min(0.0)
        counts = (rate * batch.exposure_s[:, None]) @ (self.rebin.T / self.rebin.sum(0)[:, None])
        shape = counts.clamp_min(1e-3)
        return best_amplitude(batch.counts, shape, batch.background) * shape

    def loss(self, z: Tensor, batch: Batch, shown: Batch) -> Tensor:
        """Mean absolute error of the scaled spectrum."""
        scaled, _, _ = self._scaled_rate(batch)
        return (self._decode(z) - scaled).abs().mean(-1)

    def _decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.autoencoder.decoder(z))

    def _scaled_rate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        net = (batch.counts - batch.background) / batch.exposure_s[:, None].clamp_min(1e-3)
        rate = net @ self.rebin
        low = rate.amin(-1, keepdim=True)
        span = (rate.amax(-1, keepdim=True) - low).clamp_min(1e-12)
        return (rate - low) / span, low, span


PRESETS: dict[str, type[Folded] | type[Paper]] = {"folded": Folded, "paper": Paper}
"""The recipes by name."""


def build(config: ModelConfig, grid: Grid) -> Folded | Paper:
    """A new model of the preset that `config` names, with random weights."""
    return PRESETS[config.preset](config, grid)


def _overlap(n: int, m: int) -> npt.NDArray[Any]:
    """Shares (n, m) of each of n even bins that lie in each of m even bins of the same range."""
    old, new = np.linspace(0, 1, n + 1), np.linspace(0, 1, m + 1)
    low = np.maximum(old[:-1, None], new[None, :-1])
    high = np.minimum(old[1:, None], new[None, 1:])
    return np.clip(high - low, 0.0, None) * n
