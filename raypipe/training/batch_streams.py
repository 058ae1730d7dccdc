"""Iterate over a worker's spectra in batches, from memory or from files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from raypipe.model.features import Batch
from raypipe.training.compact import CompactSpectra

if TYPE_CHECKING:
    from raypipe.training.reading import PartReader, Rows

_SWEEP = 256


class BatchStream(Protocol):
    """Yield a worker's spectra in batches, each with the positions of its rows, on the host."""

    def __len__(self) -> int: ...

    def steps(self, count: int, share: int, seed: int) -> Iterator[tuple[Tensor, Batch]]:
        """Yield `count` batches of `share` spectra, in a random order, none of them twice."""

    def sweep(self) -> Iterator[tuple[Tensor, Batch]]:
        """Yield all spectra once, in order."""


class ResidentStream:
    """Keep spectra on the device."""

    def __init__(self, spectra: CompactSpectra | Batch) -> None:
        self.spectra = spectra

    def __len__(self) -> int:
        return len(self.spectra)

    def steps(self, count: int, share: int, seed: int) -> Iterator[tuple[Tensor, Batch]]:
        """Yield batches in a random order of all spectra."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for places in order.split(share)[:count]:
            yield places, self.spectra.take(places)

    def sweep(self) -> Iterator[tuple[Tensor, Batch]]:
        """Yield all spectra once, in order."""
        for places in torch.arange(len(self)).split(_SWEEP):
            yield places, self.spectra.take(places)


class FileStream:
    """Read spectra again in each epoch, about `window` of them at a time.

    A thread reads the next window while the current one is used, so that two windows are in memory.
    A window consists of whole part files in random order, and its spectra are shuffled.
    """

    def __init__(self, reader: PartReader, rows: Rows, window: int) -> None:
        self.reader, self.rows, self.window = reader, rows, window
        ends = np.cumsum([len(part) for part in reader.by_part(rows)], dtype=np.int64)
        self._parts = np.split(np.arange(len(rows)), ends[:-1])

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, count: int, share: int, seed: int) -> Iterator[tuple[Tensor, Batch]]:
        """Yield batches from windows of random part files; leftovers join the next window."""
        random = np.random.default_rng(seed)
        order = [self._parts[i] for i in random.permutation(len(self._parts))]
        generator = torch.Generator().manual_seed(seed)
        left: tuple[Tensor, CompactSpectra] | None = None
        taken = 0
        for window in self._windows(order):
            places, spectra = window if left is None else _together(left, window)
            shuffled = torch.randperm(len(places), generator=generator)
            # Only full batches are used; the remaining spectra go into the next window.
            whole = len(places) // share * share
            for rows in shuffled[:whole].split(share):
                if taken == count:
                    return
                taken += 1
                yield places[rows], spectra.take(rows)
            rest = shuffled[whole:]
            left = places[rest], spectra.rows(rest)

    def sweep(self) -> Iterator[tuple[Tensor, Batch]]:
        """Yield all spectra once, in order."""
        for places, spectra in self._windows(self._parts):
            for rows in torch.arange(len(places)).split(_SWEEP):
                yield places[rows], spectra.take(rows)

    def _windows(self, parts: list[Rows]) -> Iterator[tuple[Tensor, CompactSpectra]]:
        """Yield windows of part files in order, reading each while the previous one is used."""
        groups = self._grouped(parts)
        with ThreadPoolExecutor(1, "spectra") as reading:
            ahead = [reading.submit(self._read, group) for group in groups[:1]]
            for group in [*groups[1:], None]:
                if not ahead:
                    return
                window = ahead.pop().result()
                if group is not None:
                    ahead.append(reading.submit(self._read, group))
                yield window

    def _grouped(self, parts: list[Rows]) -> list[list[Rows]]:
        groups: list[list[Rows]] = []
        size = self.window
        for part in parts:
            if size >= self.window:
                groups.append([])
                size = 0
            groups[-1].append(part)
            size += len(part)
        return groups

    def _read(self, group: list[Rows]) -> tuple[Tensor, CompactSpectra]:
        places = np.concatenate(group)
        return torch.from_numpy(places), self.reader.read(self.rows[places])


def _together(
    left: tuple[Tensor, CompactSpectra], window: tuple[Tensor, CompactSpectra]
) -> tuple[Tensor, CompactSpectra]:
    """Join the leftovers of a window with the next one, whose responses include those of both."""
    newest = window[1]
    spectra = CompactSpectra.join([left[1], newest], newest.responses, newest.axes)
    return torch.cat([left[0], window[0]]), spectra
