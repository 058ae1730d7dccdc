"""Tell which energies an instrument sees."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raypipe.model.band_sums import Bands, overlaps
from raypipe.model.features import Batch
from raypipe.spectra.grid import EnergyGrid

SEEN_AREA = 0.01
"""Least area, in units of the largest, at which an instrument sees an energy."""


def seen_shares(grid: EnergyGrid, batch: Batch, bands: Bands) -> Tensor:
    """Return the share of each band that each row's instrument sees, (n, bands).

    Energies count by the width of their bins in the logarithm, so that each decade counts the same.
    An energy is seen where the area, times the probability that its photon is counted in one of the
    channel bins, is at least `SEEN_AREA` of its maximum.
    """
    caught = batch.responses.sum(-1)[batch.response_index_there]
    area = batch.arf_cm2 * caught
    is_seen = (area >= SEEN_AREA * area.amax(1, keepdim=True)) & (area > 0)
    low, high = overlaps(grid, bands)
    width = np.log(high / low)
    width = width / width.sum(0)
    return is_seen.float() @ torch.from_numpy(width).float().to(area.device)
