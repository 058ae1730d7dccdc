"""Combine energy grids that differ: form their union, and find the bin of each piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from raypipe.ogip.fits import Floats, Integers

EnergyBins: TypeAlias = tuple[Floats, Floats]
"""Lower and upper edges (m,) of energy bins, keV, ascending; there may be gaps between them."""

SAME_EDGE = 1e-6
"""Relative distance within which two edges are the same, written in single precision."""

LINE_STEPS = 16
"""Number of times that the bin of a named line is halved toward the line, on either side."""


def same_bins(one: EnergyBins, other: EnergyBins) -> bool:
    """Tell whether two grids have the same edges, apart from rounding."""
    return len(one[0]) == len(other[0]) and all(
        bool((np.abs(mine - theirs) <= SAME_EDGE * np.abs(theirs)).all())
        for mine, theirs in zip(one, other, strict=True)
    )


def union_of(grids: Iterable[EnergyBins]) -> EnergyBins:
    """Return the pieces (k,) between all edges of all grids, including those in gaps.

    Edges that are the same within `SAME_EDGE` count once.
    """
    edges = np.unique(np.concatenate([edges for grid in grids for edges in grid]))
    apart = np.diff(edges) > SAME_EDGE * edges[1:]
    edges = edges[np.append(True, apart)]
    return edges[:-1], edges[1:]


def bins_of(pieces: EnergyBins, grid: EnergyBins) -> Integers:
    """Return the index (k,) of the bin of `grid` that holds each piece's middle; -1 for none."""
    middle = 0.5 * (pieces[0] + pieces[1])
    bins = np.searchsorted(grid[0], middle, side="right") - 1
    inside = (bins >= 0) & (middle < grid[1][bins])
    return np.where(inside, bins, -1)


def edges_around(lines_kev: Sequence[float], grid: EnergyBins) -> EnergyBins:
    """Return pieces for `union_of` whose edges approach each line from both ends of its bin."""
    lines = np.asarray(lines_kev, dtype=np.float64).reshape(-1)
    bins = np.searchsorted(grid[0], lines, side="right") - 1
    inside = (bins >= 0) & (lines < grid[1][bins])
    low, high, lines = grid[0][bins[inside]], grid[1][bins[inside]], lines[inside]
    steps = (high - low)[:, None] * 0.5 ** np.arange(LINE_STEPS)
    below = np.maximum(lines[:, None] - steps, low[:, None]).ravel()
    above = np.minimum(lines[:, None] + steps, high[:, None]).ravel()
    return below, above
