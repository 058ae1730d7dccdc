"""Energy grids that differ: their union, and which bin of each grid a piece of it lies in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from raypipe.ogip.fits import Floats, Integers

EnergyBins: TypeAlias = tuple[Floats, Floats]
"""Lower and upper edges (m,) of energy bins, keV, ascending; there may be gaps between them."""

SAME_EDGE = 1e-6
"""Relative distance within which two edges are one, written in single precision."""

LINE_STEPS = 16
"""How often the bin of a named line is halved toward the line, on either side."""


def same_bins(one: EnergyBins, other: EnergyBins) -> bool:
    """Whether two grids have the same edges, apart from rounding."""
    return len(one[0]) == len(other[0]) and all(
        bool((np.abs(mine - theirs) <= SAME_EDGE * np.abs(theirs)).all())
        for mine, theirs in zip(one, other, strict=True)
    )


def union_of(grids: Iterable[EnergyBins]) -> EnergyBins:
    """Pieces (k,) between all edges of all grids, those in gaps too; edges alike count once."""
    edges = np.unique(np.concatenate([edges for grid in grids for edges in grid]))
    apart = np.diff(edges) > SAME_EDGE * edges[1:]
    edges = edges[np.append(True, apart)]
    return edges[:-1], edges[1:]


def bins_of(pieces: EnergyBins, grid: EnergyBins) -> Integers:
    """Number (k,) of the bin of `grid` that each piece lies in, by its middle; -1 for none."""
    middle = 0.5 * (pieces[0] + pieces[1])
    bins = np.searchsorted(grid[0], middle, side="right") - 1
    inside = (bins >= 0) & (middle < grid[1][bins])
    return np.where(inside, bins, -1)


def edges_around(lines_kev: Sequence[float], grid: EnergyBins) -> EnergyBins:
    """Pieces that close in on each line, from the width of its bin down, for `union_of`."""
    lines = np.asarray(lines_kev, dtype=np.float64).reshape(-1)
    bins = np.searchsorted(grid[0], lines, side="right") - 1
    inside = (bins >= 0) & (lines < grid[1][bins])
    low, high, lines = grid[0][bins[inside]], grid[1][bins[inside]], lines[inside]
    steps = (high - low)[:, None] * 0.5 ** np.arange(LINE_STEPS)
    below = np.maximum(lines[:, None] - steps, low[:, None]).ravel()
    above = np.minimum(lines[:, None] + steps, high[:, None]).ravel()
    return below, above
