"""Split counts in two: a part that the encoder sees, and a part on which it is judged."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from raypipe.model.features import Batch


def thin(batch: Batch, least: float, most: float = 1.0) -> Batch:
    """Return a view with a random share, `least` to `most`, of each detection's counts.

    Binomial thinning of Poisson counts gives Poisson counts for that share of the exposure, as from
    a shorter observation. With `least` 1 the batch itself is returned.
    """
    if least >= 1.0:
        return batch
    share = least + (max(least, most) - least) * torch.rand_like(batch.exposure_s)
    counts = torch.binomial(batch.counts, share[:, None].expand_as(batch.counts).contiguous())
    return part_of(batch, counts, share)


def unseen(batch: Batch, shown: Batch) -> Batch:
    """Return the counts of the batch that `shown`, a view made by `thin`, does not contain.

    Both parts are independent Poisson draws of the same source. If `shown` is the batch itself,
    that is returned.
    """
    if shown is batch:
        return batch
    share = (batch.exposure_s - shown.exposure_s) / batch.exposure_s
    return part_of(batch, batch.counts - shown.counts, share)


def part_of(batch: Batch, counts: Tensor, share: Tensor) -> Batch:
    """Return the batch with `counts`, which are those of a share (n,) of the exposure."""
    each = share[:, None]
    return replace(
        batch,
        counts=counts,
        background=batch.background * each,
        background_variance=batch.background_variance * each**2,
        background_scale=batch.background_scale * each,
        exposure_s=batch.exposure_s * share,
    )
