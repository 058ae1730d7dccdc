"""Propose latents of instruments that see a small part of the grid, about many local solutions.

What such an instrument does not see is free within the prior, and the seen part bends with it: the
posterior is wide and curved, and no normal distribution about its maximum resembles it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raypipe.model.features import Batch
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined, refine
from raypipe.model.row_noise import normal_noise
from raypipe.model.seen_energies import seen_shares
from raypipe.model.split_normal import SplitNormal

_SEEN_ENOUGH = 0.5
"""Share of the grid, in the logarithm of energy, that other proposals need: NuSTAR sees 0.34 of
it, and the other telescopes 0.67 or more."""
_LEAST_COUNTS = 100.0
"""Counts up to which other proposals are good enough for any instrument."""
_PLACES = 32
_WIDTH = 0.7
"""Width of a proposal where the counts say nothing, in units of the prior's: those of neighboring
places overlap."""
_WIDENING = 1.1
_STEPS, _ARRIVED = 12, 1e-2
_STAGE = 60


def needs_local_proposals(model: Folded, batch: Batch) -> Tensor:
    """Tell whose instrument sees too little for a proposal about the maximum, (n,)."""
    edges = model.grid.edges_kev
    share = seen_shares(model.grid, batch, {"grid": (float(edges[0]), float(edges[-1]))})[:, 0]
    return (share < _SEEN_ENOUGH) & (batch.counts.sum(-1) > _LEAST_COUNTS)


def local_proposals(
    model: Folded, refined: Refined, batch: Batch, seeds: Tensor
) -> tuple[SplitNormal, ...]:
    """Make normal distributions about the maxima of posteriors with other priors.

    The mean of each prior is drawn from the prior, and `seeds` (n,) fix it; together the maxima
    follow the posterior along its curves (randomized maximum likelihood, Oliver, He & Reynolds
    1996). A distribution has the covariance of the posterior about its own maximum, with a narrower
    prior.
    """
    size = refined.z.shape[1]
    means = normal_noise(seeds, _PLACES, size, _STAGE).float().flatten(0, 1)
    rows = torch.arange(len(batch)).repeat_interleave(_PLACES)
    start = 0.5 * (refined.z[rows.to(means.device)] + means)
    found = refine(model, start, batch.take(rows), _STEPS, _ARRIVED, means)
    # The information of the counts and of the narrower prior; that of the amplitude's is tiny.
    weights = torch.full((size + 1,), _WIDTH**-2, dtype=torch.float64, device=means.device)
    weights[-1] = 1e-3
    covariance = torch.linalg.inv_ex(found.information + torch.diag(weights))[0]
    by_row = found.z.double().unflatten(0, (-1, _PLACES))
    covariance = covariance[:, :size, :size].unflatten(0, (-1, _PLACES))
    return tuple(
        SplitNormal.of(by_row[:, place], covariance[:, place], _WIDENING)
        for place in range(_PLACES)
    )
