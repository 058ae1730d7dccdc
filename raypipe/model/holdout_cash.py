"""Compare models by the Cash statistic of counts that the encoder does not see.

Each detection's counts are split in halves; the measure does not depend on how a model was trained.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.model.count_splitting import part_of, unseen
from raypipe.model.features import Batch
from raypipe.model.folding import cash_per_bin
from raypipe.model.presets import Preset


def halve(batch: Batch, seeds: npt.NDArray[np.uint64]) -> Batch:
    """Return a view of the batch with a binomial half of each detection's counts.

    `seeds` (n,) seed the draws: a detection of the same counts and seed has the same half in any
    batch and on any device.
    """
    counts = batch.counts.cpu().numpy().astype(np.int64)
    halves = [
        np.random.default_rng(seed).binomial(row, 0.5)
        for row, seed in zip(counts, seeds, strict=True)
    ]
    shown = torch.from_numpy(np.stack(halves).astype(np.float32)) if halves else batch.counts
    return part_of(batch, shown.to(batch.counts.device), torch.full_like(batch.exposure_s, 0.5))


@torch.no_grad()
def unseen_cash(network: Preset, batch: Batch, seeds: npt.NDArray[np.uint64]) -> Tensor:
    """Compute the Cash statistic per bin, (n,), of the half that the encoder does not see."""
    shown = halve(batch, seeds)
    judged = unseen(batch, shown)
    expected = network.expected_counts(network.encode(shown), judged)
    return cash_per_bin(judged.counts, expected).sum(-1) / judged.n_bins
