"""Fold through redistributions without multiplying by their zeros."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 128
"""Energy bins per block on a CPU: a photon rarely appears above its own energy."""


class _Block(NamedTuple):
    """Hold the part of a redistribution for some energies, without bins that they never reach."""

    energies: slice
    bins: slice
    matrix: Tensor


class BandedResponses:
    """Fold the rows of a batch, which are sorted by response, again and again.

    `responses` (m, n_energy, bins) are cut into blocks of energies, of which zeros at both ends of
    the bins are left out; each is cut once, when it is first used. On a GPU there is one block,
    because starting a small product takes longer than multiplying zeros. `keep` selects rows.
    With `merged` above 1 that many neighboring energies count as one.
    """

    def __init__(self, response_index: Tensor, responses: Tensor, merged: int = 1) -> None:
        self.responses, self.merged = responses, merged
        self._index = response_index
        self._blocks: dict[int, list[_Block]] = {}
        self._groups = _groups(response_index)

    def keep(self, rows: Tensor | slice) -> BandedResponses:
        """Select rows in their order: a slice, increasing indices on the host, or a mask there."""
        kept = BandedResponses(self._index[rows], self.responses, self.merged)
        kept._blocks = self._blocks
        return kept

    def merge(self, size: int) -> BandedResponses:
        """Let that many neighboring energies count as one."""
        return BandedResponses(self._index, self.responses, size)

    def fold(self, photons: Tensor) -> Tensor:
        """Map photons (n, ..., n_energy) to counts (n, ..., bins), as `folding.redistribute`."""
        folded = photons.new_zeros(*photons.shape[:-1], self.responses.shape[2])
        for number, rows in self._groups:
            own, into = photons[rows].flatten(0, -2), folded[rows].flatten(0, -2)
            for energies, bins, matrix in self._blocks_of(number):
                into[:, bins].addmm_(own[:, energies], matrix)
        return folded

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Convert a gradient in the counts (n, bins) to one in the photons (n, n_energy)."""
        back = gradient.new_zeros(len(gradient), self.responses.shape[1])
        for number, rows in self._groups:
            for energies, bins, matrix in self._blocks_of(number):
                back[rows, energies] = gradient[rows, bins] @ matrix.T
        return back

    def _blocks_of(self, number: int) -> list[_Block]:
        if number not in self._blocks:
            response = self.responses[number]
            if self.merged > 1:
                response = response.unflatten(0, (-1, self.merged)).mean(1)
            self._blocks[number] = _cut(response)
        return self._blocks[number]


def _groups(index: Tensor) -> list[tuple[int, slice]]:
    """Return each response in a sorted index with the slice of its rows."""
    used, sizes = torch.unique_consecutive(index, return_counts=True)
    ends = sizes.cumsum(0)
    each = zip(used.tolist(), (ends - sizes).tolist(), ends.tolist(), strict=True)
    return [(number, slice(start, end)) for number, start, end in each]


def _cut(response: Tensor) -> list[_Block]:
    if response.device.type != "cpu":
        return [_Block(slice(None), slice(None), response)]
    blocks = []
    for start in range(0, len(response), _BLOCK):
        energies = slice(start, min(start + _BLOCK, len(response)))
        reached = (response[energies] != 0).any(0).nonzero()[:, 0]
        if len(reached):
            bins = slice(int(reached[0]), int(reached[-1]) + 1)
            blocks.append(_Block(energies, bins, response[energies, bins].contiguous()))
    return blocks
