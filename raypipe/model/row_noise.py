"""Make quasi-random normal noise that depends on each row's own content, not on its batch."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from raypipe.model.features import Batch

_SOBOL_SEED = 2026
_GAMMA, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""Constants of the hash splitmix64, as signed integers of 64 bits."""
_BITS = 53
_EDGE = 1e-9


def content_seeds(batch: Batch) -> Tensor:
    """Hash the counts, the exposure and the background of each row to an integer, (n,)."""
    total = batch.background.sum(-1, keepdim=True)
    content = torch.cat([batch.counts, batch.exposure_s[:, None]], 1)
    # The sum of the background may be rounded differently in another batch: keep 10 bits of it.
    coarse = total.contiguous().view(torch.int32) >> 13
    words = torch.cat([content.contiguous().view(torch.int32), coarse], 1).long()
    places = torch.arange(words.shape[1], device=words.device)
    return (_mixed(places) * words).sum(1)


def random_seeds(rows: int, generator: torch.Generator) -> Tensor:
    """Draw a seed per row, (rows,), on the host."""
    return torch.randint(1 << 62, (rows,), generator=generator, device=generator.device).cpu()


def uniforms(seeds: Tensor, size: int, stage: int) -> Tensor:
    """Return numbers in [0, 1), (n, size); those of another seed or stage are independent."""
    counter = torch.arange(size, device=seeds.device) + (stage << 32)
    numbers = _mixed(_mixed(seeds)[:, None] + _mixed(counter))
    return (numbers & ((1 << _BITS) - 1)).double() / float(1 << _BITS)


def normal_noise(seeds: Tensor, draws: int, size: int, stage: int) -> Tensor:
    """Return unit normal noise (n, draws, size) by Sobol points that are shifted per row.

    The shift modulo one (Cranley & Patterson 1976) makes each point uniform, so that averages have
    no bias, and the errors of different rows independent.
    """
    points = _sobol_points(draws, size, stage).to(seeds.device)
    shifted = (points + uniforms(seeds, size, stage)[:, None]).remainder(1.0)
    return torch.special.ndtri(shifted.clamp(_EDGE, 1.0 - _EDGE))


@lru_cache(maxsize=16)
def _sobol_points(draws: int, size: int, stage: int) -> Tensor:
    """Return scrambled Sobol points (draws, size), on the host."""
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=_SOBOL_SEED + stage)
    return engine.draw(draws, dtype=torch.float64)


def _mixed(numbers: Tensor) -> Tensor:
    """Hash integers of 64 bits by splitmix64 (Steele, Lea & Flood 2014)."""
    x = (numbers + 1) * _GAMMA
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros, as for integers without a sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
