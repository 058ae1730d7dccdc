"""Evaluate the shape of the flux at very many latents."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from raypipe.model.presets import LOG_FLUX_LIMIT, Folded


@dataclass(frozen=True)
class LogShapes:
    """Compute what `Folded.log_shape` computes, in fewer passes over memory.

    `layers` are weight and bias of the decoder's three layers. The first includes the shift and the
    rotation of the latents; the last includes the base of the flux, and is centered over energies.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, model: Folded) -> LogShapes:
        """Compose the layers of a model."""
        first, second, (weight, bias) = model.autoencoder.decoder.composed()
        bias = bias + model.log_flux_base
        return cls((first, second, (weight - weight.mean(0), bias - bias.mean())))

    def first(self, energies: int) -> LogShapes:
        """Leave out all energies after that many; the logarithm remains centered over all."""
        *hidden, (weight, bias) = self.layers
        return replace(self, layers=(*hidden, (weight[:energies], bias[:energies])))

    def merged(self, size: int) -> LogShapes:
        """Average the logarithm over that many neighboring energies."""
        *hidden, (weight, bias) = self.layers
        last = weight.unflatten(0, (-1, size)).mean(1), bias.unflatten(0, (-1, size)).mean(1)
        return replace(self, layers=(*hidden, last))

    def __call__(self, z: Tensor) -> Tensor:
        """Return the logarithm of the photon flux density up to the amplitude, (..., n_energy)."""
        first, second, last = self.layers
        hidden = functional.gelu(functional.linear(z, *first))
        hidden = functional.gelu(functional.linear(hidden, *second))
        return functional.linear(hidden, *last).clamp_(-LOG_FLUX_LIMIT, LOG_FLUX_LIMIT)
