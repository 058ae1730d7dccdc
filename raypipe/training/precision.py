"""Choose the precision of a network during training, and whether to compile it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raypipe.config import TrainConfig
from raypipe.model.presets import Preset


@dataclass(frozen=True)
class Arithmetic:
    """Hold the precision of the encoder's matrix products, and whether modules are compiled."""

    precision: torch.dtype
    compiled: bool

    @property
    def name(self) -> str:
        """Return the name of the precision, as in the configuration."""
        return str(self.precision).removeprefix("torch.")


def choose_arithmetic(config: TrainConfig, device: torch.device) -> Arithmetic:
    """Choose precision and compilation for a device; by default, only GPUs use either."""
    on_gpu = device.type == "cuda"
    automatic = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return Arithmetic(
        precision=chosen.get(config.precision, automatic),
        compiled=on_gpu if config.compile is None else config.compile,
    )


def adapt(network: Preset, arithmetic: Arithmetic, device: torch.device) -> None:
    """Make a network train with the given arithmetic; outside training it computes as before.

    Encoder and decoder are compiled. Only the encoder uses the lower precision: it does most of the
    work, whereas bfloat16 would round the decoder's output, the logarithm of a flux, by a percent.
    Folding, amplitude and Cash stay in float32. The names of the weights do not change.
    """
    autoencoder = network.autoencoder
    _adapt(autoencoder.encoder, arithmetic.precision, arithmetic.compiled, device)
    _adapt(autoencoder.decoder, torch.float32, arithmetic.compiled, device)


def _adapt(module: nn.Module, precision: torch.dtype, compiled: bool, device: torch.device) -> None:
    exact: Callable[..., Tensor] = module.forward
    if precision == torch.float32 and not compiled:
        return
    quick: Callable[..., Tensor] = torch.compile(exact) if compiled else exact

    def forward(*inputs: Any) -> Tensor:
        if not module.training:
            return exact(*inputs)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            return quick(*inputs).float()

    module.forward = forward
