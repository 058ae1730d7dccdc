"""embed: from spectra to the latent catalog, with a pool of encoders on Ray Data."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from raypipe.catalog.models import adopt_model, resolve_model
from raypipe.cluster import map_parts, ray_session
from raypipe.config import Config, EmbedConfig, as_config
from raypipe.discovery.manifest import choose_release
from raypipe.embedding.part import embed_part, is_embedded
from raypipe.ingestion.progress import drop_parts_beyond, require_ingested
from raypipe.ingestion.responses import ResponseLibrary
from raypipe.model.bundle import Model, load_model
from raypipe.runs import record_run
from raypipe.workspace import Workspace, catalog_folder, model_folder

log = logging.getLogger(__name__)


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
    bundle = load_model(uri)
    with record_run(workspace, "embed", settings) as figures:
        todo = _parts_to_do(workspace, release, bundle, settings.embed)
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
        self.model.network.to("cuda" if task.config.gpus_per_actor else "cpu")
        self.library = ResponseLibrary(task.workspace)

    def __call__(self, part: int) -> dict[str, int]:
        task = self.task
        rows = embed_part(task.workspace, task.release, part, self.model, self.library, task.config)
        return {"part": part, "rows": rows}


def _parts_to_do(
    workspace: Workspace, release: str, model: Model, config: EmbedConfig
) -> list[int]:
    parts = require_ingested(workspace, release)
    folder = catalog_folder(release, model.model_id)
    drop_parts_beyond(workspace, folder, parts)
    return [
        part for part in range(parts) if not is_embedded(workspace, release, part, model, config)
    ]


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
    outcomes = map_parts(
        parts,
        _Encoder,
        fn_constructor_args=(_Task(workspace, release, uri, config),),
        compute=ActorPoolStrategy(size=actors),
        num_cpus=config.cpus_per_actor,
        num_gpus=config.gpus_per_actor,
    )
    started, rows = time.monotonic(), 0
    for number, outcome in enumerate(outcomes, 1):
        rows += outcome["rows"]
        rate = rows / max(time.monotonic() - started, 1e-3)
        log.info("embed: %d/%d parts, %d detections, %.0f/s", number, len(parts), rows, rate)
