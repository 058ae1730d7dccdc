"""Stages without Ray, part after part in this process: what Ray's must come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypipe.config import IngestConfig
from raypipe.config_toml import load_config
from raypipe.embedding.embed import embed
from raypipe.embedding.part import PartEncoder
from raypipe.ingestion.chip_rmfs import choose_chip_rmfs
from raypipe.ingestion.part import ingest_part
from raypipe.model.bundle import load_model
from raypipe.model.choice import resolve_model
from raypipe.store.parts import count_parts
from raypipe.store.workspace import Workspace


def choose_rmfs_alone(workspace: Workspace, release: str) -> None:
    """Choose the RMFs of chip zones, so that an ingest begins with the parts."""
    choose_chip_rmfs(workspace, release, IngestConfig())


def ingest_alone(workspace: Workspace, release: str) -> None:
    """Ingest the release of a workspace, which has its manifest."""
    config = IngestConfig()
    choose_rmfs_alone(workspace, release)
    for part in range(count_parts(workspace, release)):
        ingest_part(workspace, release, part, config)


def embed_alone(
    workspace: Workspace, release: str, model: str, config: Mapping[str, Any] | None = None
) -> str:
    """Embed and publish the release of a workspace, which is ingested; the id of the model."""
    parts = count_parts(workspace, release)
    bundle = load_model(resolve_model(workspace, model))
    settings = load_config(settings=config or {}).embed
    encoder = PartEncoder(workspace, release, parts, bundle, settings)
    for part in range(parts):
        encoder.embed(part)
    return embed(workspace, release=release, model=model, config=config)
