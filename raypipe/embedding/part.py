"""Make a part of the latent catalog: read its spectra, encode those not measured yet, and write it.

The name of a part is a hash of the table that was encoded, so that it always matches the content.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe._version import __version__
from raypipe.catalog.schema import LEFT_OUT, catalog_table
from raypipe.config import EmbedConfig
from raypipe.embedding.row_cache import CONTENT, RECIPE, ROW_KEYS, CachedRows, RowCache
from raypipe.identity import source_keys
from raypipe.model.bundle import Model
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.responses import ResponseLibrary
from raypipe.spectra.schema import SPECTRUM_COLUMNS, SPECTRUM_FIELDS
from raypipe.store.fingerprints import FINGERPRINT
from raypipe.store.layout import catalog_folder, part_name, spectra_folder
from raypipe.store.workspace import Workspace

_MOST_NAMED = 5
_ROWS_VERSION = 6
"""Increase this when rows of the same spectra change: rows of earlier versions are not reused."""


@dataclass(frozen=True)
class Outcome:
    """Describe the result for a part: of its `rows`, `kept` had been measured before.

    `not_measured` counts rows without latents; `named` has the detection_ids of some of them.
    """

    part: int
    name: str
    rows: int
    kept: int
    not_measured: int
    named: list[str]


class Wanted(NamedTuple):
    """Describe the part that certain spectra will make: its name and its number of rows.

    The name is a hash of everything that the part is made from.
    """

    name: str
    rows: int


class PartEncoder:
    """Make parts of a release's catalog from parts of its spectra; `parts` is their number."""

    def __init__(
        self, workspace: Workspace, release: str, parts: int, model: Model, config: EmbedConfig
    ) -> None:
        self._workspace, self._release = workspace, release
        self._model, self._config = model, config
        self._library = ResponseLibrary(workspace)
        self._recipe = recipe_of(model, config)
        self._cache = RowCache(workspace, release, model.model_id, parts, self._recipe)

    def has_earlier(self, part: int) -> bool:
        """Tell whether a catalog may hold rows of a part, measured now or before."""
        return self._cache.has(part)

    def copy(self, part: int) -> Outcome | None:
        """Write a part from rows that are all measured already, without reading their counts.

        Returns None, and writes nothing, if a spectrum has to be encoded.
        """
        if not self.has_earlier(part):
            return None
        name = part_name(spectra_folder(self._release), part)
        names = [each for each in self._workspace.read_schema(name).names if each not in LEFT_OUT]
        read = self._workspace.read_table(name, [*names, CONTENT])
        cached = self._cache.of(part)
        if not all(key in cached.rows for key in read[CONTENT].to_pylist()):
            return None
        return self._write(part, read, cached)

    def embed(self, part: int) -> Outcome:
        """Encode the spectra of a part that are not measured yet, and write the part."""
        if (copied := self.copy(part)) is not None:
            return copied
        read = self._workspace.read_table(part_name(spectra_folder(self._release), part))
        return self._write(part, read, self._cache.of(part))

    def _write(self, part: int, read: pa.Table, cached: CachedRows) -> Outcome:
        model = self._model
        name = _name_part(read, self._release, part, model, self._recipe).name
        spectra = read.sort_by([("rmf_id", "ascending"), ("detection_id", "ascending")])
        sources = _sources(spectra)
        keys = np.array(spectra[CONTENT].to_pylist(), dtype=object)
        known = np.array([key in cached.rows for key in keys], dtype=bool)
        if known.all():
            measured = self._nothing_measured
        else:
            measured = self._measure(spectra.filter(pa.array(~known)))
        if known.any():
            earlier = self._earlier(cached.take(keys[known].tolist()), sources[known], measured)
            measured = pd.concat([earlier, measured], ignore_index=True)
        # `measured` has the known rows first: the inverse permutation restores the spectra's order.
        place = np.argsort(np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)]))
        split = model.split_of(sources)
        table = catalog_table(spectra, measured.iloc[place], split, model.model_id)
        order = np.argsort(spectra["detection_id"].to_numpy(zero_copy_only=False), kind="stable")
        metadata = {
            RECIPE: self._recipe,
            ROW_KEYS: json.dumps(spectra[CONTENT].take(pa.array(order)).to_pylist()),
            "model_id": model.model_id,
            "raypipe_version": __version__,
        }
        table = table.take(pa.array(order))
        self._workspace.write_table(name, table, metadata)
        lost = table["detection_id"].filter(table["z0"].is_null())
        return Outcome(
            part=part,
            name=name,
            rows=int(table.num_rows),
            kept=int(known.sum()),
            not_measured=len(lost),
            named=lost.slice(0, _MOST_NAMED).to_pylist(),
        )

    def _earlier(
        self, kept: pa.Table, sources: npt.NDArray[np.int64], measured: pd.DataFrame
    ) -> pd.DataFrame:
        """Return rows measured before, with the columns and types of rows measured now.

        The training detections of a source have no vote on its class, so that the probabilities of
        detections that now belong to another source are computed again from their latents.
        """
        frame = kept.select(list(measured.columns)).to_pandas().astype(measured.dtypes.to_dict())
        moved = _sources(kept) != sources
        population = self._model.population
        if moved.any() and population.classes:
            latents = [f"z{i}" for i in range(self._model.config.model.latents)]
            z = frame.loc[moved, latents].to_numpy(np.float64)
            shares = population.class_probabilities(z, sources[moved], self._config.class_scheme)
            frame.loc[moved, [f"p_{name}" for name in population.classes]] = shares
        return frame

    @cached_property
    def _nothing_measured(self) -> pd.DataFrame:
        """Return the columns of measured rows, without a row."""
        fields = [pa.field("name", pa.string()), pa.field("detection_id", pa.string())]
        return self._measure(pa.schema([*fields, *SPECTRUM_FIELDS]).empty_table())

    def _measure(self, spectra: pa.Table) -> pd.DataFrame:
        size = self._config.batch_size
        starts = range(0, max(spectra.num_rows, 1), size)
        pieces = [self._measure_batch(spectra.slice(start, size)) for start in starts]
        return pd.concat(pieces, ignore_index=True)

    def _measure_batch(self, spectra: pa.Table) -> pd.DataFrame:
        batch = SpectraBatch.from_table(spectra, self._library)
        measured = self._model.encode_batch(batch, _sources(spectra), self._config)
        if not self._config.fits:
            return measured
        from raypipe.fits import add_fits  # Imports what takes long.

        return add_fits(measured, batch, self._config.fits, self._config.apec_dir)


def wanted_part(
    workspace: Workspace, release: str, part: int, model: Model, config: EmbedConfig
) -> Wanted:
    """Describe the part of the catalog that a part of the spectra now makes."""
    name = part_name(spectra_folder(release), part)
    spectra = workspace.read_table(name, ["detection_id", "content_sha256"])
    return _name_part(spectra, release, part, model, recipe_of(model, config))


def recipe_of(model: Model, config: EmbedConfig) -> str:
    """Return a hash of everything with which rows are measured: model, settings and version."""
    settings: list[Any] = [
        config.refine_steps,
        config.errors,
        config.class_scheme,
        config.posterior_draws,
        config.fluxes,
        config.fits,
    ]
    if config.fits and config.apec_dir is not None:
        from raypipe.physics.apec import apec_files  # Needs astropy, which takes long to import.

        settings.append(apec_files(config.apec_dir))
    text = json.dumps([model.fingerprint, settings, __version__, _ROWS_VERSION])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources(spectra: pa.Table) -> np.ndarray:
    return source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())


def _name_part(spectra: pa.Table, release: str, part: int, model: Model, recipe: str) -> Wanted:
    """Name a part by its manifest's rows, its spectra and their columns, and the recipe."""
    rows = spectra.select(["detection_id", "content_sha256"]).to_pydict()
    metadata = spectra.schema.metadata or {}
    made_from = [
        metadata.get(key.encode(), b"").decode() for key in (FINGERPRINT, SPECTRUM_COLUMNS)
    ]
    text = json.dumps([rows, made_from, recipe])
    made_of = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = catalog_folder(release, model.model_id)
    return Wanted(f"{folder}/part-{part:05d}-{made_of}.parquet", int(spectra.num_rows))
