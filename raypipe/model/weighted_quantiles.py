"""Compute quantiles of weighted draws that keep their probability however few the draws are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ONE_SIGMA = 0.158655, 0.5, 0.841345
"""Lower limit, median and upper limit of the central interval of one sigma, 68.27%."""


def weighted_quantiles(
    values: Tensor, weights: Tensor, effective: Tensor, probabilities: Sequence[float]
) -> Tensor:
    """Return quantiles (p, n, ...) over the second axis of `values` and `weights` (n, draws, ...).

    Of N draws from the same distribution as the truth, the truth lies below the i-th smallest with
    the probability i / (N + 1) (Weibull 1939; the sixth definition of Hyndman & Fan 1996, American
    Statistician 50, 361). So quantiles of few draws lie as far out as their probability says, where
    other definitions give intervals that are too narrow. For N stands the effective number of
    draws, `effective` (n, ...). Beyond the outermost draws a quantile is the outermost draw.
    """
    ordered, order = values.sort(1)
    share = weights.gather(1, order)
    share = share / share.sum(1, keepdim=True)
    number = effective[:, None].to(share.dtype)
    # Equal weights: (i - 1/2) / N below the middle of the i-th draw becomes i / (N + 1).
    below = share.cumsum(1) - 0.5 * share
    position = (0.5 + below * number) / (number + 1.0)
    found, last = [], values.shape[1] - 1
    for probability in probabilities:
        upper = (position < probability).sum(1, keepdim=True).clamp(0, last)
        lower = (upper - 1).clamp_min(0)
        p_low, p_high = position.gather(1, lower), position.gather(1, upper)
        low, high = ordered.gather(1, lower), ordered.gather(1, upper)
        along = ((probability - p_low) / (p_high - p_low).clamp_min(1e-12)).clamp(0.0, 1.0)
        found.append((low + along * (high - low))[:, 0])
    return torch.stack(found)


def kish(weights: Tensor) -> Tensor:
    """Return the effective number of draws with `weights` (n, draws, ...), (n, ...) (Kish 1965)."""
    return weights.sum(1).square() / weights.square().sum(1)
