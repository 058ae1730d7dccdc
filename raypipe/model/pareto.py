"""Smooth importance weights: Vehtari, Simpson, Gelman, Yao & Gabry (2024, JMLR 25, 72)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TAIL_MIN = 5
"""Fewest weights to which a tail can be fitted."""
_PRIOR_WEIGHT, _PRIOR_SHAPE = 10.0, 0.5
_GRID_SIZE, _GRID_SCALE = 30, 3.0


def smooth(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the largest weights of each row by quantiles of a Pareto tail fitted to them.

    Takes log weights (n, draws). Returns the smoothed weights (n, draws), which sum to one, and the
    shape k of the tail (n,): above 0.7, averages with these weights are not reliable. With fewer
    than 25 draws, weights stay as they are, and k is NaN.
    """
    log_weights = log_weights - log_weights.amax(-1, keepdim=True)
    weights = torch.exp(log_weights)
    draws = weights.shape[1]
    tail = math.ceil(min(0.2 * draws, 3.0 * math.sqrt(draws)))
    shape = torch.full_like(weights[:, 0], torch.nan)
    if tail >= _TAIL_MIN and draws >= _TAIL_MIN**2:
        ordered, order = weights.sort(-1)
        cutoff = ordered[:, -tail - 1 : -tail]
        excess = (ordered[:, -tail:] - cutoff).clamp_min(1e-30)
        shape, scale = fit_generalized_pareto(excess)
        # Expected order statistics of the tail, at most the largest weight, which is one.
        levels = (torch.arange(tail, dtype=weights.dtype, device=weights.device) + 0.5) / tail
        quantiles = scale[:, None] * torch.expm1(-shape[:, None] * torch.log1p(-levels))
        ordered[:, -tail:] = (cutoff + quantiles / shape[:, None]).clamp_max(1.0)
        weights = torch.empty_like(weights).scatter_(-1, order, ordered)
    return weights / weights.sum(-1, keepdim=True), shape


def fit_generalized_pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a generalized Pareto distribution to sorted values above zero, (n, m).

    Returns shape k and scale (n,) each, by the posterior mean of Zhang & Stephens (2009), with k
    drawn towards 0.5 as if by ten more values.
    """
    size = excess.shape[1]
    grid = _GRID_SIZE + int(math.sqrt(size))
    places = torch.arange(grid, dtype=excess.dtype, device=excess.device) + 0.5
    quartile = excess[:, int(size / 4 + 0.5) - 1, None]
    steps = (1.0 - torch.sqrt(grid / places)) / (_GRID_SCALE * quartile)
    rates = steps + 1.0 / excess[:, -1:]
    shapes = torch.log1p(-rates[..., None] * excess[:, None]).mean(-1)
    profile = size * (torch.log(-rates / shapes) - shapes - 1.0)
    rate = (torch.softmax(profile, -1) * rates).sum(-1)
    shape = torch.log1p(-rate[:, None] * excess).mean(-1)
    scale = -shape / rate
    shape = (size * shape + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (size + _PRIOR_WEIGHT)
    return shape, scale
