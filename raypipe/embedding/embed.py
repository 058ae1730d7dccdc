"""embed: from spectra to the latent catalog, with a pool of encoders on Ray Data."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from raypipe._version import __version__
from raypipe.catalog.models import adopt_model, resolve_model
from raypipe.catalog.schema import catalog_table
from raypipe.cluster import ray_session
from raypipe.config import Config, EmbedConfig, as_config
from raypipe.discovery.manifest import choose_release, read_manifest_summary
from raypipe.errors import RaypipeError
from raypipe.ingestion.responses import ResponseLibrary
from raypipe.model.batch import SpectraBatch
from raypipe.model.bundle import Model, load_model
from raypipe.model.split import source_keys
from raypipe.runs import record_run
from raypipe.workspace import (
    Workspace,
    catalog_folder,
    model_folder,
    part_name,
    spectra_folder,
)

log = logging.getLogger(__name__)

SPECTRA_FINGERPRINT = "spectra_part"
"""Key of a catalog part's metadata that says which spectra and settings it was made of."""


def embed(
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Write the latent catalog of a release by a model and return the model's id.

    `model` is the id of a model of the workspace, or the path or URI of a bundle, which is copied
    into the workspace; by default the newest one of the workspace. Only parts that are missing or
    whose spectra have changed are done: the same command completes an interrupted run.
    """
    settings = as_config(config)
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(workspace, release)
    model_id = adopt_model(workspace, resolve_model(workspace, model))
    uri = workspace.absolute_uri(model_folder(model_id))
    with record_run(workspace, "embed", settings) as figures:
        todo = _parts_to_do(workspace, release, model_id, settings.embed)
        log.info("embed: %s on %s, %d parts to do", model_id, release, len(todo))
        if todo:
            with ray_session(settings.ray):
                _run_parts(workspace, release, uri, todo, settings.embed)
        folder = catalog_folder(release, model_id)
        rows = sum(workspace.count_rows(name) for name in workspace.files(folder, ".parquet"))
        figures.update({"model_id": model_id, "rows": rows})
    log.info("embed: %d detections in %s", rows, workspace.absolute_uri(folder))
    return model_id


@dataclass(frozen=True)
class _Task:
    workspace: Workspace
    release: str
    model_uri: str
    config: EmbedConfig


class _Encoder:
    """An actor: the model loaded once, then part after part."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.model = load_model(task.model_uri)
        self.library = ResponseLibrary(task.workspace)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        rows = [
            embed_part(
                self.task.workspace,
                self.task.release,
                int(part),
                self.model,
                self.library,
                self.task.config,
            )
            for part in batch["part"]
        ]
        return {"part": [int(part) for part in batch["part"]], "rows": rows}


def embed_part(
    workspace: Workspace,
    release: str,
    part: int,
    model: Model,
    library: ResponseLibrary,
    config: EmbedConfig,
) -> int:
    """Encode a part of the spectra, publish that part of the catalog, return its rows."""
    name = part_name(spectra_folder(release), part)
    spectra = workspace.read_table(name)
    by_response = spectra.sort_by([("rmf_id", "ascending"), ("detection_id", "ascending")])
    pieces = [
        _encode(by_response.slice(start, config.batch_size), model, library, config)
        for start in range(0, max(spectra.num_rows, 1), config.batch_size)
    ]
    table = pa.concat_tables(pieces).sort_by("detection_id")
    metadata = {
        SPECTRA_FINGERPRINT: _fingerprint(workspace, name, config),
        "model_id": model.model_id,
        "raypipe_version": __version__,
    }
    target = part_name(catalog_folder(release, model.model_id), part)
    workspace.write_table(target, table, metadata)
    return int(table.num_rows)


def _encode(
    spectra: pa.Table, model: Model, library: ResponseLibrary, config: EmbedConfig
) -> pa.Table:
    keys = source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())
    batch = SpectraBatch.from_table(spectra, library, model.grid)
    measured = model.encode_batch(batch, keys, config.refine_steps)
    return catalog_table(spectra, measured, model.split_of(keys), model.model_id)


def _parts_to_do(
    workspace: Workspace, release: str, model_id: str, config: EmbedConfig
) -> list[int]:
    parts = int(read_manifest_summary(workspace, release)["parts"])
    folder = catalog_folder(release, model_id)
    for name in workspace.files(folder, ".parquet"):
        if name >= part_name(folder, parts):
            workspace.delete(name)
    todo = []
    for part in range(parts):
        spectra, done = part_name(spectra_folder(release), part), part_name(folder, part)
        if not workspace.exists(spectra):
            raise RaypipeError(
                f"{workspace.absolute_uri(spectra)}: missing; run raypipe ingest first"
            )
        made_of = workspace.read_metadata(done) if workspace.exists(done) else {}
        if made_of.get(SPECTRA_FINGERPRINT) != _fingerprint(workspace, spectra, config):
            todo.append(part)
    return todo


def _fingerprint(workspace: Workspace, spectra: str, config: EmbedConfig) -> str:
    from raypipe.ingestion.part import FINGERPRINT

    rows = workspace.count_rows(spectra)
    made_of = workspace.read_metadata(spectra).get(FINGERPRINT, "")
    return f"{made_of}:{rows}:refine_steps={config.refine_steps}"


def _run_parts(
    workspace: Workspace, release: str, uri: str, parts: list[int], config: EmbedConfig
) -> None:
    resources = ray.cluster_resources()
    slots = (
        resources.get("GPU", 0) / config.gpus_per_actor
        if config.gpus_per_actor
        else resources.get("CPU", 1) / config.cpus_per_actor
    )
    actors = min(config.actors or max(1, int(slots)), len(parts))
    tasks = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=len(parts)
    ).map_batches(
        _Encoder,
        fn_constructor_args=(_Task(workspace, release, uri, config),),
        batch_size=1,
        compute=ActorPoolStrategy(size=actors),
        num_cpus=config.cpus_per_actor,
        num_gpus=config.gpus_per_actor,
    )
    started, rows = time.monotonic(), 0
    for number, row in enumerate(tasks.iter_rows(), 1):
        rows += int(row["rows"])
        rate = rows / max(time.monotonic() - started, 1e-3)
        log.info("embed: %d/%d parts, %d detections, %.0f/s", number, len(parts), rows, rate)
