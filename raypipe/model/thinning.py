"""Counts split in two: what the encoder is shown in training, and what it is judged on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from raypipe.model.features import Batch


def thin(batch: Batch, least: float, most: float = 1.0) -> Batch:
    """A view of the batch with a random share, `least` to `most`, of each detection's counts.

    Binomial thinning of Poisson counts is a Poisson draw with that share of the exposure: what a
    shorter observation would have seen. With `least` 1 it is the batch itself.
    """
    if least >= 1.0:
        return batch
    share = least + (max(least, most) - least) * torch.rand_like(batch.exposure_s)
    counts = torch.binomial(batch.counts, share[:, None].expand_as(batch.counts).contiguous())
    return part_of(batch, counts, share)


def unseen(batch: Batch, shown: Batch) -> Batch:
    """What is left of the batch without what `shown`, a view by `thin`, has of it.

    Both parts are independent Poisson draws of the same source. The batch itself where all of it
    was shown on purpose.
    """
    if shown is batch:
        return batch
    share = (batch.exposure_s - shown.exposure_s) / batch.exposure_s
    return part_of(batch, batch.counts - shown.counts, share)


def part_of(batch: Batch, counts: Tensor, share: Tensor) -> Batch:
    """The batch with these of its counts, of a share (n,) of the exposure."""
    each = share[:, None]
    return replace(
        batch,
        counts=counts,
        background=batch.background * each,
        background_variance=batch.background_variance * each**2,
        background_scale=batch.background_scale * each,
        exposure_s=batch.exposure_s * share,
    )
