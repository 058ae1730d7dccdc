"""The transformer autoencoders: spectra to latents, latents to a photon flux or a spectrum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raypipe.config import ModelConfig


class Encoder(nn.Module):
    """Patches of per-bin features and a summary token through a transformer to latents.

    Input (n, features, bins) and (n, conditions), which the summary token carries; output
    (n, latents).
    """

    shift: Tensor
    rotation: Tensor

    def __init__(self, config: ModelConfig, bins: int, features: int, conditions: int) -> None:
        super().__init__()
        if bins % config.patch:
            raise ValueError(f"{bins} bins do not divide into patches of {config.patch}")
        self.patch = config.patch
        tokens = bins // config.patch
        self.embed = nn.Linear(features * config.patch, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, config.width))
        self.summary = nn.Parameter(0.02 * torch.randn(config.width))
        self.condition = (
            nn.Sequential(
                nn.Linear(conditions, config.width),
                nn.GELU(),
                nn.Linear(config.width, config.width),
            )
            if conditions
            else None
        )
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            dim_feedforward=2 * config.width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(2 * config.width)
        self.head = nn.Linear(2 * config.width, config.latents)
        self.register_buffer("shift", torch.zeros(config.latents))
        self.register_buffer("rotation", torch.eye(config.latents))

    def forward(self, features: Tensor, conditions: Tensor) -> Tensor:
        """Latents (n, latents)."""
        n, channels, bins = features.shape
        patches = features.reshape(n, channels, bins // self.patch, self.patch)
        tokens = self.embed(patches.transpose(1, 2).flatten(2)) + self.position
        summary = self.summary.expand(n, -1)
        if self.condition is not None:
            summary = summary + self.condition(conditions)
        tokens = self.layers(torch.cat([summary[:, None], tokens], 1))
        pooled = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)
        z: Tensor = self.head(self.norm(pooled))
        return (z - self.shift) @ self.rotation


class Decoder(nn.Module):
    """Latents (n, latents) to (n, outputs), through two hidden layers."""

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
        """Outputs (n, outputs)."""
        out: Tensor = self.layers(z @ self.rotation + self.shift)
        return out


class Autoencoder(nn.Module):
    """An encoder and a decoder of one latent space."""

    def __init__(
        self, config: ModelConfig, bins: int, features: int, outputs: int, conditions: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(config, bins, features, conditions)
        self.decoder = Decoder(config, outputs)

    @torch.no_grad()
    def whiten(self, z: Tensor) -> Tensor:
        """Make the latents of a population, given as `z`, uncorrelated with mean 0 and variance 1.

        The encoder's output and the decoder's input change by one linear map and its inverse:
        what is decoded stays as it was. Components are ordered by the variance they had. Returns
        `z` (n, latents) in the new coordinates.
        """
        shift = z.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((z - shift).T).double())
        values, vectors = values.flip(0).clamp_min(1e-12), vectors.flip(1)
        to_white = (vectors / values.sqrt()).to(z.dtype)
        from_white = (vectors * values.sqrt()).T.to(z.dtype)
        encoder, decoder = self.encoder, self.decoder
        encoder.shift.copy_(encoder.shift + shift @ torch.linalg.inv(encoder.rotation))
        encoder.rotation.copy_(encoder.rotation @ to_white)
        decoder.shift.copy_(shift @ decoder.rotation + decoder.shift)
        decoder.rotation.copy_(from_white @ decoder.rotation)
        return (z - shift) @ to_white
