"""One part of the latent catalog: read its spectra, encode them, publish."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa

from raypipe._version import __version__
from raypipe.catalog.schema import catalog_table
from raypipe.config import EmbedConfig
from raypipe.discovery.fingerprints import FINGERPRINT
from raypipe.ingestion.responses import ResponseLibrary
from raypipe.model.batch import SpectraBatch
from raypipe.model.bundle import Model
from raypipe.model.split import source_keys
from raypipe.workspace import Workspace, catalog_folder, part_name, spectra_folder

MADE_OF = "made_of_sha256"
"""Key of a catalog part's metadata that says which spectra, model and settings it was made of."""


def embed_part(
    workspace: Workspace,
    release: str,
    part: int,
    model: Model,
    library: ResponseLibrary,
    config: EmbedConfig,
) -> int:
    """Encode a part of the spectra, publish that part of the catalog, return its rows."""
    spectra = workspace.read_table(part_name(spectra_folder(release), part))
    by_response = spectra.sort_by([("rmf_id", "ascending"), ("detection_id", "ascending")])
    pieces = [
        _encode(by_response.slice(start, config.batch_size), model, library, config)
        for start in range(0, max(spectra.num_rows, 1), config.batch_size)
    ]
    table = pa.concat_tables(pieces).sort_by("detection_id")
    metadata = {
        MADE_OF: _fingerprint(workspace, release, part, model, config),
        "model_id": model.model_id,
        "raypipe_version": __version__,
    }
    workspace.write_table(_name(release, part, model), table, metadata)
    return int(table.num_rows)


def is_embedded(
    workspace: Workspace, release: str, part: int, model: Model, config: EmbedConfig
) -> bool:
    """Whether a part of the catalog is there and made of what it would be made of now."""
    name = _name(release, part, model)
    if not workspace.exists(name):
        return False
    made_of = workspace.read_metadata(name).get(MADE_OF)
    return made_of == _fingerprint(workspace, release, part, model, config)


def _encode(
    spectra: pa.Table, model: Model, library: ResponseLibrary, config: EmbedConfig
) -> pa.Table:
    keys = source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())
    batch = SpectraBatch.from_table(spectra, library, model.grid)
    measured = model.encode_batch(batch, keys, config.refine_steps)
    return catalog_table(spectra, measured, model.split_of(keys), model.model_id)


def _name(release: str, part: int, model: Model) -> str:
    return part_name(catalog_folder(release, model.model_id), part)


def _fingerprint(
    workspace: Workspace, release: str, part: int, model: Model, config: EmbedConfig
) -> str:
    """A hash of what a part of the catalog is made of: manifest rows, spectra, model, settings."""
    spectra = part_name(spectra_folder(release), part)
    rows = workspace.read_table(spectra, ["detection_id", "content_sha256"]).to_pydict()
    manifest = workspace.read_metadata(spectra).get(FINGERPRINT, "")
    recipe = [rows, manifest, model.fingerprint, config.refine_steps, __version__]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
