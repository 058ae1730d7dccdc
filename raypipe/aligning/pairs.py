"""Pair detections with rows of a view, and divide the pairs by source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.alignment.spectrum_inputs import LatentPosteriors
from raypipe.alignment.views import ViewInputs

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Hold n detections, each with a row of the view.

    `view` has the rows of the view that occur, `place` (n,) is the row of each detection in it, and
    `source` (n,) the key of its source. `group` (rows,) numbers the rows of the view so that equal
    rows share a number: they count as right answers (positives) for each other.
    """

    posteriors: LatentPosteriors
    view: ViewInputs
    place: Rows
    source: Rows
    group: Rows

    def __len__(self) -> int:
        return len(self.place)

    def take(self, rows: Rows) -> Pairs:
        """Return the pairs of these rows."""
        return Pairs(
            self.posteriors.take(rows), self.view, self.place[rows], self.source[rows], self.group
        )

    def permuted(self, seed: int) -> Pairs:
        """Exchange the views of sources at random, so that nothing links the two sides.

        All detections of a source get the same view.
        """
        # Exchange among the sources' first rows: a source's detections stay together.
        sources, first, inverse = np.unique(self.source, return_index=True, return_inverse=True)
        order = np.random.default_rng(seed).permutation(len(sources))
        place = self.place[first][order][inverse]
        return Pairs(self.posteriors, self.view, place, self.source, self.group)

    def one_per_source(self) -> Rows:
        """Return one row per source and group of views: the one with the narrowest posterior.

        Among these rows, no source and no view occurs twice, so that each spectrum has one right
        answer.
        """
        widths = self.posteriors.widths
        size = np.log(widths.clip(1e-6)).sum(axis=1) if widths.any() else np.zeros(len(self))
        chosen: list[int] = []
        seen_sources: set[int] = set()
        seen_groups: set[int] = set()
        for row in np.argsort(size, kind="stable"):
            source, group = int(self.source[row]), int(self.group[self.place[row]])
            if source not in seen_sources and group not in seen_groups:
                seen_sources.add(source)
                seen_groups.add(group)
                chosen.append(int(row))
        return np.sort(np.array(chosen, dtype=np.int64))

    def views(self) -> ViewInputs:
        """Return the view of each detection, (n,)."""
        return self.view.take(self.place)

    def positives(self, rows: Rows) -> Tensor:
        """Return which of the pairs of detections (rows) and views (columns) belong together."""
        source, group = self.source[rows], self.group[self.place[rows]]
        same = source[:, None] == source[None, :]
        return torch.from_numpy(same | (group[:, None] == group[None, :]))
