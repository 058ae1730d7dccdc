"""Read single spectra from the parts of a release, and predict them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.exploring.spectra import flux_energies
from raypipe.model.bundle import Model
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.decoding import COLUMNS
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import part_name, spectra_folder
from raypipe.store.workspace import Workspace

Floats = npt.NDArray[np.float64]

_GROUPS_KEPT = 16
_DRAWS = 64
"""Draws from the posterior of the detection that is shown, for the band of its flux."""
_LIMITS = ("flux", "low", "high")


class SpectraOfParts:
    """Read the spectrum of a detection from the row group of the part that holds it."""

    def __init__(self, store: Workspace, release: str, model: Model | None) -> None:
        self.store, self.release, self.model = store, release, model
        self.library = ResponseLibrary(store)

    def spectrum(self, part: int, detection_id: str, z: Floats) -> dict[str, Any] | None:
        """Return the spectrum of a detection as the page draws it, None if there is none.

        `z` (1, k) are its latents; without finite ones, or without a model, the spectrum has counts
        alone. The flux and its 68% limits are quantiles of draws from the exact posterior.
        """
        row = self._row(part, detection_id)
        if row is None:
            return None
        batch = SpectraBatch.from_table(row, self.library)
        bins = batch.bins[batch.response_index[0]]
        n = len(bins)
        found: dict[str, Any] = {
            "lo": bins.lo_kev.tolist(),
            "hi": bins.hi_kev.tolist(),
            "exposure": row["exposure_s"][0].as_py(),
            "counts": batch.counts[0, :n].tolist(),
        }
        if self.model is None or not np.isfinite(z).all():
            return found
        fold = self.model.reconstruct(batch, z)
        found |= {"fold": plain(fold.total[0, :n]), "background": plain(fold.background[0, :n])}
        if fold.flux is None:
            return found | {key: [] for key in ("fluxKev", "flux", "low", "high")}
        chosen = flux_energies()
        density = self.model.flux_density(batch, _DRAWS)
        limits = (density.value, density.lolim, density.hilim)
        flux = {name: plain(each[0, chosen]) for name, each in zip(_LIMITS, limits, strict=True)}
        return found | {"fluxKev": EnergyGrid().mid_kev[chosen].tolist(), **flux}

    def _row(self, part: int, detection_id: str) -> pa.Table | None:
        name = part_name(spectra_folder(self.release), part)
        place = pc.index(self._ids(name), pa.scalar(detection_id, pa.string())).as_py()
        if place < 0:
            return None
        group, within = self.store.locate_row(name, place)
        return self._group(name, group).slice(within, 1)

    @lru_cache(maxsize=256)  # noqa: B019  # One reader lives as long as the process.
    def _ids(self, name: str) -> pa.ChunkedArray:
        if not self.store.exists(name):
            return pa.chunked_array([], pa.string())
        return self.store.read_table(name, ["detection_id"])["detection_id"].cast(pa.string())

    @lru_cache(maxsize=_GROUPS_KEPT)  # noqa: B019
    def _group(self, name: str, group: int) -> pa.Table:
        return self.store.read_row_group(name, group, COLUMNS)


def plain(values: Iterable[float]) -> list[float | None]:
    """Return numbers in a form that JSON can hold, with None for those that are not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]
