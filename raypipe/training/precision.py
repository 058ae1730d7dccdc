"""Choose the precision of a network in training, and whether it is compiled."""

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
    """The precision of the encoder's matrix products, and whether modules are compiled."""

    precision: torch.dtype
    compiled: bool

    @property
    def name(self) -> str:
        """Name of the precision, as in the configuration."""
        return str(self.precision).removeprefix("torch.")


def choose_arithmetic(config: TrainConfig, device: torch.device) -> Arithmetic:
    """Resolve the configuration on a device: by default only GPUs use bfloat16 and compilation."""
    on_gpu = device.type == "cuda"
    automatic = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return Arithmetic(
        precision=chosen.get(config.precision, automatic),
        compiled=on_gpu if config.compile is None else config.compile,
    )


def adapt(network: Preset, arithmetic: Arithmetic, device: torch.device) -> None:
    """Make a network train in the given arithmetic; outside training it computes as before.

    Encoder and decoder are compiled. Only the encoder is cast: it does nearly all the work, while
    the decoder returns the logarithm of a flux, which bfloat16 would round by a percent. Folding,
    amplitude and Cash stay in float32. Names of weights do not change.
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
