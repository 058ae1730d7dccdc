"""Transformer autoencoders: spectra to latents, and latents to a photon flux or a spectrum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raypipe.config import ModelConfig


class Encoder(nn.Module):
    """A transformer over patches of per-bin features and a summary token, which returns latents.

    Inputs are features (n, features, bins) and conditions (n, conditions), which are added to the
    summary token; the output is (n, latents).
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
        """Return the latents (n, latents)."""
        n, channels, bins = features.shape
        patches = features.reshape(n, channels, bins // self.patch, self.patch)
        tokens = self.embed(patches.transpose(1, 2).flatten(2)) + self.position
        summary = self.summary.expand(n, -1)
        if self.condition is not None:
            summary = summary + self.condition(conditions)
        tokens = self.layers(torch.cat([summary[:, None], tokens], 1))
        # The summary token, and the mean over the patches.
        pooled = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)
        z: Tensor = self.head(self.norm(pooled))
        return (z - self.shift) @ self.rotation


class Decoder(nn.Module):
    """Two hidden layers from latents (n, latents) to outputs (n, outputs)."""

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


class Autoencoder(nn.Module):
    """An encoder and a decoder that share a latent space."""

    def __init__(
        self, config: ModelConfig, bins: int, features: int, outputs: int, conditions: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(config, bins, features, conditions)
        self.decoder = Decoder(config, outputs)

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
