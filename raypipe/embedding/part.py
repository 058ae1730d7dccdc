"""One part of the latent catalog: read its spectra, encode those not measured yet, write it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from raypipe._version import __version__
from raypipe.catalog.schema import catalog_table
from raypipe.config import EmbedConfig
from raypipe.discovery.fingerprints import FINGERPRINT
from raypipe.embedding.earlier import RECIPE, ROW_KEYS, earlier_rows, row_keys
from raypipe.ingestion.responses import ResponseLibrary
from raypipe.model.batch import SpectraBatch
from raypipe.model.bundle import Model
from raypipe.model.split import source_keys
from raypipe.workspace import Workspace, catalog_folder, part_name, spectra_folder


@dataclass(frozen=True)
class Outcome:
    """What became of a part; `kept` of its rows had been measured before."""

    part: int
    rows: int
    kept: int


def embed_part(
    workspace: Workspace,
    release: str,
    part: int,
    parts: int,
    model: Model,
    library: ResponseLibrary,
    config: EmbedConfig,
) -> Outcome:
    """Encode a part of the spectra, of `parts`, and write that part of the catalog."""
    spectra = workspace.read_table(part_name(spectra_folder(release), part))
    by_response = spectra.sort_by([("rmf_id", "ascending"), ("detection_id", "ascending")])
    sources = _sources(by_response)
    keys = np.array(row_keys(by_response, sources), dtype=object)
    recipe = recipe_of(model, config)
    earlier = earlier_rows(workspace, release, model.model_id, part, parts, recipe)
    known = np.array([key in earlier.rows for key in keys], dtype=bool)
    measured = _measure(by_response.filter(pa.array(~known)), model, library, config)
    kept = earlier.take(list(keys[known]))
    if kept is not None:
        measured = pd.concat([_again(kept, measured), measured], ignore_index=True)
    place = np.empty(len(keys), np.int64)
    place[np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])] = np.arange(len(keys))
    table = catalog_table(
        by_response, measured.iloc[place], model.split_of(sources), model.model_id
    )
    order = np.argsort(by_response["detection_id"].to_numpy(zero_copy_only=False), kind="stable")
    metadata = {
        RECIPE: recipe,
        ROW_KEYS: json.dumps(keys[order].tolist()),
        "model_id": model.model_id,
        "raypipe_version": __version__,
    }
    name = catalog_part_name(workspace, release, part, model, config)
    workspace.write_table(name, table.take(pa.array(order)), metadata)
    return Outcome(part, int(table.num_rows), int(known.sum()))


def catalog_part_name(
    workspace: Workspace, release: str, part: int, model: Model, config: EmbedConfig
) -> str:
    """Name of a part of the catalog, which says what it is made of: no other content has it."""
    folder = catalog_folder(release, model.model_id)
    made_of = _fingerprint(workspace, release, part, model, config)
    return f"{folder}/part-{part:05d}-{made_of}.parquet"


def recipe_of(model: Model, config: EmbedConfig) -> str:
    """A hash of all that rows are measured with: model, settings, version."""
    text = json.dumps([model.fingerprint, config.refine_steps, __version__])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measure(
    spectra: pa.Table, model: Model, library: ResponseLibrary, config: EmbedConfig
) -> pd.DataFrame:
    starts = range(0, max(spectra.num_rows, 1), config.batch_size)
    pieces = [spectra.slice(start, config.batch_size) for start in starts]
    return pd.concat(
        [
            model.encode_batch(
                SpectraBatch.from_table(piece, library, model.grid),
                _sources(piece),
                config.refine_steps,
            )
            for piece in pieces
        ],
        ignore_index=True,
    )


def _again(kept: pa.Table, measured: pd.DataFrame) -> pd.DataFrame:
    """Rows measured before, with the columns and types of those measured now."""
    frame = kept.select(list(measured.columns)).to_pandas()
    return frame.astype(measured.dtypes.to_dict())


def _sources(spectra: pa.Table) -> np.ndarray:
    return source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())


def _fingerprint(
    workspace: Workspace, release: str, part: int, model: Model, config: EmbedConfig
) -> str:
    """A hash of what a part of the catalog is made of: manifest rows, spectra, recipe."""
    spectra = part_name(spectra_folder(release), part)
    rows = workspace.read_table(spectra, ["detection_id", "content_sha256"]).to_pydict()
    manifest = workspace.read_metadata(spectra).get(FINGERPRINT, "")
    text = json.dumps([rows, manifest, recipe_of(model, config)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
