"""Propose latents from normal distributions with different widths on both sides of each axis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_EDGE = 1e-12


@dataclass(frozen=True)
class SplitNormal:
    """Hold split normal distributions, one per row (Geweke 1989).

    `center` (n, latents); the columns of `directions` (n, latents, latents) are orthonormal axes
    with `lengths` (n, latents); `upper` and `lower` (n, latents) are the standard deviations on
    both sides of the center, in units of the lengths.
    """

    center: Tensor
    directions: Tensor
    lengths: Tensor
    upper: Tensor
    lower: Tensor

    @classmethod
    def of(cls, center: Tensor, covariance: Tensor, widening: float) -> SplitNormal:
        """Make normal distributions with a covariance (n, latents, latents), widened.

        The axes are its eigenvectors. Rows whose covariance is not finite are NaN.
        """
        broken = ~torch.isfinite(covariance).all(-1).all(-1)[:, None, None]
        unit = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
        values, vectors = torch.linalg.eigh(torch.where(broken, unit, covariance))
        lengths = torch.where(broken[..., 0], torch.nan, values.clamp_min(_EDGE).sqrt())
        widths = torch.full_like(lengths, widening)
        return cls(center, vectors, lengths, widths, widths)

    @property
    def axes(self) -> Tensor:
        """Return the axes with their lengths, (n, axis, latents)."""
        return (self.directions * self.lengths[:, None]).transpose(1, 2)

    def draw(self, noise: Tensor) -> Tensor:
        """Map unit normal noise (n, draws, latents) to latents, (n, draws, latents)."""
        # Each axis maps quantiles to quantiles; the share of the lower side is proportional to its
        # width, so that the density has no jump at the center.
        upper, lower = self.upper[:, None], self.lower[:, None]
        level, share = torch.special.ndtr(noise), lower / (lower + upper)
        below = lower * _quantile(level / (2.0 * share))
        above = upper * _quantile(0.5 + (level - share) / (2.0 * (1.0 - share)))
        return self.center[:, None] + torch.where(level < share, below, above) @ self.axes

    def log_density(self, z: Tensor) -> Tensor:
        """Compute the log density (n, draws), up to a constant, at latents (n, draws, latents)."""
        along = ((z - self.center[:, None]) @ self.directions) / self.lengths[:, None]
        width = torch.where(along < 0.0, self.lower[:, None], self.upper[:, None])
        volume = torch.log(self.lengths * 0.5 * (self.lower + self.upper)).sum(-1, keepdim=True)
        return -0.5 * (along / width).square().sum(-1) - volume

    def widened(self, factor: float) -> SplitNormal:
        """Return distributions that are wider by a factor in all directions."""
        return replace(self, upper=factor * self.upper, lower=factor * self.lower)

    def take(self, rows: Tensor) -> SplitNormal:
        """Select the rows of those indices."""
        parts = (self.center, self.directions, self.lengths, self.upper, self.lower)
        return SplitNormal(*(part[rows] for part in parts))


def _quantile(level: Tensor) -> Tensor:
    return torch.special.ndtri(level.clamp(_EDGE, 1.0 - _EDGE))
