"""Build the two heads that map spectra and views into one space, and the decoders between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from raypipe.alignment.losses import cholesky_nll, gaussian_nll
from raypipe.alignment.views import CURVE_CHANNELS, ViewScale
from raypipe.config_align import AlignConfig

_CURVE_WIDTH = 32
_CURVE_LAYERS = 2
_CURVE_HEADS = 4
_LOG_WIDTHS = -4.0, 3.0
"""Range of predicted logarithms of widths, so that no prediction is certain."""
_FIRST_SCALE = 10.0
_MOST_SCALE = 100.0


@dataclass
class ViewTensors:
    """Hold a batch of scaled views as tensors; the fields are those of `ViewInputs`."""

    values: Tensor
    known: Tensor
    curves: Tensor | None = None
    points: Tensor | None = None


class CurveEncoder(nn.Module):
    """Encode light curves with a small transformer over their points."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(CURVE_CHANNELS + 2 * _CURVE_HEADS, _CURVE_WIDTH)
        layer = nn.TransformerEncoderLayer(
            _CURVE_WIDTH,
            _CURVE_HEADS,
            2 * _CURVE_WIDTH,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, _CURVE_LAYERS, enable_nested_tensor=False)

    def forward(self, curves: Tensor, points: Tensor) -> Tensor:
        """Encode curves (n, points, channels), given the number of points of each; (n, width)."""
        place = torch.arange(curves.shape[1])[None, :]
        there = place < points[:, None]
        # Sines of the place in time, at 1, 2, 4 and 8 cycles per curve.
        phase = curves[..., :1] * (2 * math.pi * 2.0 ** torch.arange(_CURVE_HEADS))
        tokens = self.embed(torch.cat([curves, phase.sin(), phase.cos()], dim=-1))
        # A row without any point attends to one blank token: its mean below is zero all the same.
        seen = there | (place == 0)
        tokens = self.layers(tokens, src_key_padding_mask=~seen)
        weight = there.to(tokens.dtype)[..., None]
        return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class Head(nn.Module):
    """Map inputs to hidden features, and these to a unit vector of the shared space."""

    def __init__(self, inputs: int, config: AlignConfig) -> None:
        super().__init__()
        width = config.width
        self.trunk = nn.Sequential(
            nn.Linear(inputs, width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Dropout(config.dropout),
        )
        self.project = nn.Linear(width, config.dimensions)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden features (n, width) and unit vectors (n, dimensions)."""
        hidden = self.trunk(inputs)
        return hidden, functional.normalize(self.project(hidden), dim=1)


@dataclass
class Aligned:
    """Hold the outputs of the network: unit vectors and hidden features of either side."""

    spectrum: Tensor
    view: Tensor
    spectrum_hidden: Tensor
    view_hidden: Tensor


class Aligner(nn.Module):
    """Hold the heads of spectra and views, the scale of their similarity, and two decoders.

    `center` and `spread` (2 latents,) standardize the features of spectra. `view_widening`
    (inputs,) and `latent_widening` (latents,) multiply predicted widths; they are 1 until
    calibration.
    """

    center: Tensor
    spread: Tensor
    view_widening: Tensor
    latent_widening: Tensor

    def __init__(self, latents: int, view: ViewScale, config: AlignConfig) -> None:
        super().__init__()
        self.latents, self.view_scale = latents, view
        self.register_buffer("center", torch.zeros(2 * latents))
        self.register_buffer("spread", torch.ones(2 * latents))
        self.register_buffer("view_widening", torch.ones(view.inputs))
        self.register_buffer("latent_widening", torch.ones(latents))
        self.spectrum = Head(2 * latents, config)
        self.curve = CurveEncoder() if view.has_curve else None
        curve_width = _CURVE_WIDTH if view.has_curve else 0
        self.view = Head(view.inputs + len(view.columns) + curve_width, config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.bias = nn.Parameter(torch.tensor(-_FIRST_SCALE))
        self.to_view = _decoder(config, 2 * view.inputs)
        self.to_latents = _decoder(config, latents + latents * (latents + 1) // 2)

    def forward(self, features: Tensor, view: ViewTensors) -> Aligned:
        """Map features of spectra (n, 2 latents) and their views into the shared space."""
        hidden, spectrum = self.embed_spectra(features)
        view_hidden, shared = self.embed_views(view)
        return Aligned(spectrum, shared, hidden, view_hidden)

    def embed_spectra(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden features and unit vectors of spectra."""
        found: tuple[Tensor, Tensor] = self.spectrum((features - self.center) / self.spread)
        return found

    def embed_views(self, view: ViewTensors) -> tuple[Tensor, Tensor]:
        """Return hidden features and unit vectors of views."""
        parts = [view.values, view.known.to(view.values.dtype)]
        if self.curve is not None:
            parts.append(self.curve(view.curves, view.points))
        found: tuple[Tensor, Tensor] = self.view(torch.cat(parts, dim=1))
        return found

    def similarity(self, spectrum: Tensor, view: Tensor, *, with_bias: bool) -> Tensor:
        """Return logits of all pairs of unit vectors, (spectra, views)."""
        scale = self.log_scale.exp().clamp(max=_MOST_SCALE)
        logits = scale * spectrum @ view.T
        return logits + self.bias if with_bias else logits

    def predict_view(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the inputs of views from hidden features of spectra.

        Returns means and logarithms of widths, (n, inputs) each. For a categorical column the
        means are logits, and the widths have no meaning.
        """
        mean, log_width = self.to_view(hidden).chunk(2, dim=1)
        return mean, log_width.clamp(*_LOG_WIDTHS) + self.view_widening.log()

    def predict_latents(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Predict latents from hidden features of views: means, and factors of the precision."""
        out = self.to_latents(hidden)
        k = self.latents
        rows, columns = torch.tril_indices(k, k)
        flat = out[:, k:]
        factor = torch.zeros(len(out), k, k, dtype=out.dtype)
        factor[:, rows, columns] = flat
        diagonal = torch.diagonal(factor, dim1=1, dim2=2)
        positive = torch.exp(diagonal.clamp(-_LOG_WIDTHS[1], -_LOG_WIDTHS[0]))
        factor = torch.tril(factor, diagonal=-1) + torch.diag_embed(positive)
        # With widths multiplied by W the precision L L^T becomes W^-1 L (W^-1 L)^T.
        return out[:, :k], factor / self.latent_widening[:, None]

    def translation_loss(self, made: Aligned, latents: Tensor, view: ViewTensors) -> Tensor:
        """Return the loss by which either side predicts the other, in nats per number."""
        return self._view_loss(made.spectrum_hidden, view) + cholesky_nll(
            *self.predict_latents(made.view_hidden), latents
        )

    def _view_loss(self, hidden: Tensor, view: ViewTensors) -> Tensor:
        mean, log_width = self.predict_view(hidden)
        losses = []
        for number, (column, place) in enumerate(
            zip(self.view_scale.columns, self.view_scale.slices(), strict=True)
        ):
            known = view.known[:, number]
            if column.kind == "category":
                nats = -(functional.log_softmax(mean[:, place], 1) * view.values[:, place]).sum(1)
                losses.append((nats * known).sum() / known.sum().clamp(min=1))
            else:
                every = known[:, None].expand(-1, column.size)
                truth = view.values[:, place]
                losses.append(gaussian_nll(mean[:, place], log_width[:, place], truth, every))
        return torch.stack(losses).mean()


def _decoder(config: AlignConfig, outputs: int) -> nn.Sequential:
    width = config.width
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))
