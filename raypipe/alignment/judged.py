"""Keep the pairs by which an alignment is judged, so that later labels can be scored on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.alignment.bundle import Alignment
from raypipe.alignment.spectrum_inputs import LatentPosteriors
from raypipe.alignment.usefulness import Features, usefulness
from raypipe.alignment.views import ViewInputs, flat
from raypipe.errors import RaypipeError
from raypipe.spectra.decoding import vectors
from raypipe.store.layout import alignment_folder
from raypipe.store.workspace import Workspace

Floats = npt.NDArray[np.float64]

_SIDES = ("latents", "view")


@dataclass(frozen=True)
class Space:
    """Hold the shared vectors of the spectra and the views of n pairs, (n, dimensions) each."""

    spectra: Floats
    views: Floats

    @classmethod
    def of(cls, made: Alignment, posteriors: LatentPosteriors, view: ViewInputs) -> Space:
        """Map spectra and views into the space of an alignment."""
        return cls(
            made.embed_spectra(posteriors).astype(np.float64),
            made.embed_views(view).astype(np.float64),
        )


@dataclass(frozen=True)
class JudgedPairs:
    """Hold n pairs of a spectrum and a view that training has not seen, one per source.

    `latents` and `view` (n, features) are the plain features of the two sides. `spaces` has the
    space of the alignment first, then those of alignments of permuted pairs.
    """

    detection_ids: Sequence[str]
    latents: Floats
    view: Floats
    spaces: tuple[Space, ...]

    @classmethod
    def of(
        cls,
        detection_ids: Sequence[str],
        posteriors: LatentPosteriors,
        view: ViewInputs,
        alignments: Sequence[Alignment],
    ) -> JudgedPairs:
        """Collect pairs with their shared vectors in the space of each alignment."""
        return cls(
            detection_ids,
            posteriors.features().astype(np.float64),
            flat(view),
            tuple(Space.of(made, posteriors, view) for made in alignments),
        )

    def usefulness(
        self, targets: Mapping[str, npt.NDArray[Any]], seed: int
    ) -> list[dict[str, Any]]:
        """Score what each space adds for targets (n,), the alignment's first; see `usefulness`."""
        return usefulness([self._features(space) for space in self.spaces], targets, seed)

    def _features(self, space: Space) -> Features:
        return Features(self.latents, self.view, space.spectra, space.views)


def save_judged(store: Workspace, alignment_id: str, judged: JudgedPairs) -> None:
    """Write judged pairs beside the bundle of their alignment."""
    found: dict[str, Any] = {
        "detection_id": pa.array(judged.detection_ids, pa.string()),
        "latents": _list(judged.latents),
        "view": _list(judged.view),
    }
    for number, space in enumerate(judged.spaces):
        found |= dict(zip(_names(number), map(_list, (space.spectra, space.views)), strict=True))
    store.write_table(_file(alignment_id), pa.table(found))


def read_judged(store: Workspace, alignment_id: str) -> JudgedPairs:
    """Read the judged pairs of an alignment; raises RaypipeError if they are missing or damaged."""
    name = _file(alignment_id)
    again = (
        f"delete {store.absolute_uri(alignment_folder(alignment_id))} and run raypipe align again"
    )
    if not store.exists(name):
        raise RaypipeError(f"{store.absolute_uri(name)}: no such file; {again}")
    table = store.read_table(name)
    try:
        latents, view = (_array(table, side) for side in _SIDES)
        spaces: list[Space] = []
        while _names(len(spaces))[0] in table.column_names:
            spaces.append(Space(*(_array(table, each) for each in _names(len(spaces)))))
        if not spaces:
            raise ValueError("it has no shared space")
        return JudgedPairs(table["detection_id"].to_pylist(), latents, view, tuple(spaces))
    except (LookupError, AttributeError, ValueError) as error:
        raise RaypipeError(
            f"{store.absolute_uri(name)}: not the judged pairs of an alignment ({error}); {again}"
        ) from error


def _file(alignment_id: str) -> str:
    return f"{alignment_folder(alignment_id)}/judged.parquet"


def _names(number: int) -> tuple[str, str]:
    """Return the columns of a space; number 0 is the space of the alignment."""
    before = f"permuted_{number}_" if number else ""
    return f"{before}shared", f"{before}view_shared"


def _list(values: Floats) -> pa.Array:
    flat_values = pa.array(np.ascontiguousarray(values, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat_values, values.shape[1])


def _array(table: pa.Table, name: str) -> Floats:
    found = np.asarray(vectors(table[name]), dtype=np.float64)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"column {name} does not hold finite vectors of one length")
    return found
