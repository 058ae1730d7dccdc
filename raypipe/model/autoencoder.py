"""Define autoencoders: spectra to latents by a transformer, latents to a flux or a spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from raypipe.config import ModelConfig


class Encoder(nn.Module):
    """Map spectra to latents by a transformer over patches of bins and a summary token.

    Inputs are `values` (n, values, bins), which were measured; `marks` (n, marks, bins), which
    describe the bins; `seen` (n, bins), which says what bins there are; and `conditions`
    (n, conditions), which are added to the summary token. The output is (n, latents).

    Without marks a patch has a learned position. With marks, these and the `places` (patches,
    features) of the patches scale and shift the embedded values, because the same counts mean
    another flux if the area or the resolution differs.
    """

    shift: Tensor
    rotation: Tensor
    places: Tensor

    def __init__(
        self,
        config: ModelConfig,
        bins: int,
        values: int,
        conditions: int,
        marks: int = 0,
        places: Tensor | None = None,
    ) -> None:
        super().__init__()
        if bins % config.patch:
            raise ValueError(f"{bins} bins do not divide into patches of {config.patch}")
        self.patch, self.marks = config.patch, marks
        width = config.width
        self.embed = nn.Linear(values * config.patch, width)
        if places is None:
            self.position = nn.Parameter(0.02 * torch.randn(bins // config.patch, width))
        else:
            self.register_buffer("places", places, persistent=False)
            self.describe = nn.Sequential(
                nn.Linear(marks * config.patch + places.shape[1], 2 * width),
                nn.GELU(),
                nn.Linear(2 * width, 2 * width),
            )
        self.summary = nn.Parameter(0.02 * torch.randn(width))
        self.condition = (
            nn.Sequential(nn.Linear(conditions, width), nn.GELU(), nn.Linear(width, width))
            if conditions
            else None
        )
        layer = nn.TransformerEncoderLayer(
            width,
            config.heads,
            dim_feedforward=2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(2 * width)
        self.head = nn.Linear(2 * width, config.latents)
        self.register_buffer("shift", torch.zeros(config.latents))
        self.register_buffer("rotation", torch.eye(config.latents))

    def forward(self, values: Tensor, marks: Tensor, seen: Tensor, conditions: Tensor) -> Tensor:
        """Return the latents (n, latents)."""
        summary = self.summary.expand(len(values), -1)
        if self.condition is not None:
            summary = summary + self.condition(conditions)
        there = seen.reshape(len(seen), seen.shape[1] // self.patch, self.patch).any(-1)
        tokens = torch.cat([summary[:, None], self._tokens(values, marks)], 1)
        # Attention leaves out patches without a bin, but never the summary.
        tokens = self.layers(tokens, src_key_padding_mask=functional.pad(~there, (1, 0)))
        # The summary token, and the mean over the patches that hold a bin.
        weights = there[..., None].to(tokens.dtype)
        mean = (tokens[:, 1:] * weights).sum(1) / weights.sum(1).clamp_min(1.0)
        z: Tensor = self.head(self.norm(torch.cat([tokens[:, 0], mean], -1)))
        return (z - self.shift) @ self.rotation

    def _tokens(self, values: Tensor, marks: Tensor) -> Tensor:
        """Embed patches, (n, patches, width)."""
        tokens: Tensor = self.embed(self._patches(values))
        if not self.marks:
            return tokens + self.position
        places = self.places.expand(len(values), -1, -1)
        description = self.describe(torch.cat([self._patches(marks), places], -1))
        gain, offset = description.chunk(2, -1)
        return tokens * (1.0 + gain) + offset

    def _patches(self, features: Tensor) -> Tensor:
        """Cut features (n, k, bins) into patches (n, patches, k * patch)."""
        n, k, bins = features.shape
        patches = features.reshape(n, k, bins // self.patch, self.patch)
        return patches.transpose(1, 2).flatten(2)


class Decoder(nn.Module):
    """Map latents (n, latents) to outputs (n, outputs) by two hidden layers."""

    shift: Tensor
    rotation: Tensor

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(config.latents))
        self.register_buffer("rotation", torch.eye(config.latents))
        self.layers = nn.Sequential(
            nn.Linear(config.latents, config.decoder_width),
            nn.GELU(),
            nn.Linear(config.decoder_width, config.decoder_width),
            nn.GELU(),
            nn.Linear(config.decoder_width, outputs),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs (n, outputs)."""
        out: Tensor = self.layers(z @ self.rotation + self.shift)
        return out

    def linearize(self, z: Tensor) -> LinearizedDecoder:
        """Return the outputs at `z` (n, latents) with their derivatives, without autograd.

        Written out for two hidden layers: forward-mode differentiation of the modules spends as
        much time in Python as in matrix products.
        """
        first, second, last = self.composed()
        before = functional.linear(z, *first)
        between = functional.linear(functional.gelu(before), *second)
        return LinearizedDecoder(
            outputs=functional.linear(functional.gelu(between), *last),
            layers=(first[0], second[0], last[0]),
            bends=(_gelu_slope(before), _gelu_slope(between)),
        )

    def composed(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return weight and bias of each layer; the first includes the shift and the rotation."""
        first, second, last = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        entry = first.weight @ self.rotation.T, first.bias + first.weight @ self.shift
        return entry, (second.weight, second.bias), (last.weight, last.bias)


@dataclass(frozen=True)
class LinearizedDecoder:
    """Hold a decoder's `outputs` (n, outputs) at some latents, with their derivatives.

    The derivative is a product of three matrices, `layers`, and of `bends`, the slopes (n, width)
    of both activations.
    """

    outputs: Tensor
    layers: tuple[Tensor, Tensor, Tensor]
    bends: tuple[Tensor, Tensor]

    def slopes(self, centered: bool = False, merged: int = 1) -> Tensor:
        """Compute the derivatives (n, latents, outputs); `centered` subtracts their mean.

        With `merged` above 1 they are means over that many neighboring outputs, which is cheaper.
        """
        entry, middle, last = self.layers
        if centered:
            last = last - last.mean(0)
        if merged > 1:
            last = last.unflatten(0, (-1, merged)).mean(1)
        along = entry.T * self.bends[0][:, None]
        along = functional.linear(along, middle) * self.bends[1][:, None]
        return functional.linear(along, last)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Convert a gradient in the outputs (n, outputs) to one in the latents (n, latents)."""
        entry, middle, last = self.layers
        back = (gradient @ last) * self.bends[1]
        return ((back @ middle) * self.bends[0]) @ entry


class Autoencoder(nn.Module):
    """Combine an encoder and a decoder that share a latent space."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @torch.no_grad()
    def whiten(self, z: Tensor) -> Tensor:
        """Make latents uncorrelated, with mean 0 and variance 1, over the population given as `z`.

        A linear map is added to the encoder's output and its inverse to the decoder's input, so
        that the decoded spectra do not change. Latents are ordered by their former variance,
        largest first. Returns `z` (n, latents) in the new coordinates.
        """
        # With the mean m and the covariance V diag(v) V^T of the population, the new latents are
        # z' = (z - m) W, where W = V diag(v)^(-1/2) and W^-1 = diag(v)^(1/2) V^T.
        shift = z.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((z - shift).T).double())
        values, vectors = values.flip(0).clamp_min(1e-12), vectors.flip(1)
        to_white = (vectors / values.sqrt()).to(z.dtype)
        from_white = (vectors * values.sqrt()).T.to(z.dtype)
        encoder, decoder = self.encoder, self.decoder
        # Encoder: z = (h - s) R, therefore z' = (h - s - m R^-1) R W.
        encoder.shift.copy_(encoder.shift + shift @ torch.linalg.inv(encoder.rotation))
        encoder.rotation.copy_(encoder.rotation @ to_white)
        # Decoder: it reads z R + s, and z = z' W^-1 + m, therefore z' (W^-1 R) + (m R + s).
        decoder.shift.copy_(shift @ decoder.rotation + decoder.shift)
        decoder.rotation.copy_(from_white @ decoder.rotation)
        return (z - shift) @ to_white


def _gelu_slope(x: Tensor) -> Tensor:
    """Compute the derivative of GELU, x P(x), where P is the unit normal's distribution."""
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2.0 * math.pi)
    return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))) + x * density
