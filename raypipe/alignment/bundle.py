"""Save and load alignments: weights, scales of the view, settings, metrics and a model card."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from raypipe.alignment.card import alignment_card
from raypipe.alignment.network import Aligner, ViewTensors
from raypipe.alignment.spectrum_inputs import LatentPosteriors
from raypipe.alignment.text_encoder import TextEncoder
from raypipe.alignment.view_table import ViewColumn
from raypipe.alignment.views import ViewInputs, ViewScale
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.errors import RaypipeError, UsageError
from raypipe.model.integrity import (
    DESCRIPTION,
    HASH,
    bundle_hash,
    require_finite,
    safetensors_metadata,
)
from raypipe.store.layout import alignment_folder
from raypipe.store.workspace import Workspace, check_name

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

FORMAT = 2
WEIGHTS = "align.safetensors"
_MAX_WEIGHTS_BYTES = 1 << 28
_MOST_LATENTS = 64
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class About:
    """Describe what was aligned: a catalog, and the view of a table.

    `key` is the key by which rows were joined, and `texts` are the columns that a text encoder
    read. The fingerprint and the folder of this encoder are kept with them.
    """

    alignment_id: str
    release: str
    model_id: str
    table: str
    key: str
    texts: tuple[str, ...] = ()
    text_encoder: str = ""
    text_encoder_fingerprint: str = ""


@dataclass
class Alignment:
    """Hold a trained alignment of spectra with a view."""

    about: About
    config: Config
    network: Aligner
    metrics: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        columns = ", ".join(column.name for column in self.view.columns[:8])
        return f"Alignment({self.about.alignment_id}: {self.about.model_id} with {columns})"

    @property
    def view(self) -> ViewScale:
        """Return how columns of the view become inputs."""
        return self.network.view_scale

    @property
    def dimensions(self) -> int:
        """Return the number of dimensions of the shared space."""
        return self.config.align.dimensions

    def embed_spectra(self, posteriors: LatentPosteriors) -> Float32:
        """Map posteriors of latents into the shared space: unit vectors (n, dimensions)."""
        features = torch.from_numpy(posteriors.features())
        with torch.no_grad():
            parts = [self.network.embed_spectra(each)[1] for each in features.split(_ROWS_AT_ONCE)]
        return np.asarray(torch.cat(parts).numpy())

    def embed_views(self, view: ViewInputs) -> Float32:
        """Map scaled views into the shared space: unit vectors (n, dimensions)."""
        rows = np.arange(len(view))
        with torch.no_grad():
            parts = [
                self.network.embed_views(view_tensors(view.take(each)))[1]
                for each in np.array_split(rows, max(1, -(-len(rows) // _ROWS_AT_ONCE)))
            ]
        return np.asarray(torch.cat(parts).numpy())

    def inputs_of(
        self, columns: Sequence[ViewColumn], encoder: TextEncoder | None = None
    ) -> ViewInputs:
        """Scale columns of a view; encode texts by the encoder with which the alignment was made.

        Raises UsageError if there are texts and the encoder is missing or another one.
        """
        return self.view.transform(encoded(columns, self._checked(encoder, columns)))

    def _checked(
        self, encoder: TextEncoder | None, columns: Sequence[ViewColumn]
    ) -> TextEncoder | None:
        if not any(column.kind == "text" for column in columns):
            return encoder
        if not self.about.texts:
            raise UsageError(
                f"{self.about.alignment_id}: made without texts; give --text-encoder FOLDER to "
                "raypipe align"
            )
        if encoder is None or encoder.fingerprint != self.about.text_encoder_fingerprint:
            raise UsageError(
                f"{self.about.alignment_id}: its texts were encoded by another text encoder, the "
                f"one in {self.about.text_encoder}"
            )
        return encoder


def encoded(columns: Sequence[ViewColumn], encoder: TextEncoder | None) -> list[ViewColumn]:
    """Replace the texts among columns by their vectors."""
    made = []
    for column in columns:
        if column.kind == "text":
            if encoder is None:
                raise UsageError(f"column {column.name}: texts need a --text-encoder")
            column = ViewColumn(column.name, "vector", encoder.encode(column.values.tolist()))
        made.append(column)
    return made


def view_tensors(view: ViewInputs) -> ViewTensors:
    """Convert scaled views to tensors."""
    return ViewTensors(
        torch.from_numpy(np.ascontiguousarray(view.values)),
        torch.from_numpy(view.known),
        None if view.curves is None else torch.from_numpy(view.curves),
        None if view.points is None else torch.from_numpy(view.points),
    )


def save_alignment(made: Alignment, workspace: Workspace) -> None:
    """Write the bundle of an alignment; the weights come last and so mark it as complete."""
    folder = alignment_folder(made.about.alignment_id)
    tensors = {
        f"network.{name}": value.detach().contiguous().numpy()
        for name, value in made.network.state_dict().items()
    }
    tensors |= made.view.tensors()
    header = {
        "format": FORMAT,
        "latents": made.network.latents,
        "view": made.view.as_json(),
        "about": {**vars(made.about), "texts": list(made.about.texts)},
    }
    description, config = json.dumps(header), made.config.to_toml().encode()
    workspace.write_bytes(f"{folder}/config.toml", config)
    workspace.write_json(f"{folder}/metrics.json", made.metrics)
    card = alignment_card(vars(made.about), made.view, made.metrics)
    workspace.write_bytes(f"{folder}/README.md", card.encode())
    metadata = {DESCRIPTION: description, HASH: bundle_hash(description, config, tensors)}
    workspace.write_bytes(f"{folder}/{WEIGHTS}", save_tensors(tensors, metadata=metadata))


def load_alignment(path: str | os.PathLike[str]) -> Alignment:
    """Open the bundle of an alignment, a folder or s3:// prefix.

    Raises RaypipeError if it is no such bundle, is incomplete, has changed since it was saved, or
    holds impossible numbers.
    """
    bundle = Workspace(path)
    where = bundle.absolute_uri(WEIGHTS)
    if not bundle.exists(WEIGHTS):
        raise RaypipeError(f"{where}: no such file; {bundle.uri} is not the bundle of an alignment")
    if bundle.fs.get_file_info(bundle.path(WEIGHTS)).size > _MAX_WEIGHTS_BYTES:
        raise RaypipeError(f"{where}: more bytes than the bundle of an alignment has")
    data, config_bytes = bundle.read_bytes(WEIGHTS), bundle.read_bytes("config.toml")
    again = "run raypipe align again"
    try:
        tensors = load_tensors(data)
        metadata = safetensors_metadata(data)
        description = metadata[DESCRIPTION]
        if metadata[HASH] != bundle_hash(description, config_bytes, tensors):
            raise ValueError("it, or config.toml beside it, has changed since it was saved")
        header = json.loads(description)
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']}, this version reads {FORMAT}")
        require_finite(tensors)
        config = load_config(settings=tomllib.loads(config_bytes.decode()))
        view = ViewScale.read(header["view"], tensors)
        network = Aligner(_latents_of(header), view, config.align)
        network.load_state_dict(_weights(tensors))
        about = About(**header["about"] | {"texts": tuple(header["about"]["texts"])})
        check_name(about.alignment_id, "alignment")
    except (UsageError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise RaypipeError(f"{where}: not a whole alignment ({error}); {again}") from error
    network.eval()
    return Alignment(about, config, network, bundle.read_object("metrics.json", {}))


def _latents_of(header: Mapping[str, Any]) -> int:
    """Read the number of latents; raises ValueError before a network of any size is built."""
    latents = int(header["latents"])
    if not 0 < latents <= _MOST_LATENTS:
        raise ValueError(f"{latents} latents; expected 1 to {_MOST_LATENTS}")
    return latents


def _weights(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("network."): torch.from_numpy(value)
        for name, value in tensors.items()
        if name.startswith("network.")
    }
