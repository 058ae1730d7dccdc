"""Perform the full pipeline, from a source of data to a report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypipe._version import __version__
from raypipe.cluster import ray_session
from raypipe.config import Config
from raypipe.discovery.discover import discover
from raypipe.embedding.embed import embed
from raypipe.errors import UsageError
from raypipe.evaluation.evaluate import evaluate
from raypipe.evaluation.labels import read_labels
from raypipe.evaluation.summary import headlines
from raypipe.ingestion.ingest import ingest
from raypipe.model.choice import resolve_model
from raypipe.reporting.report import report
from raypipe.simulation.simulate import SURVEY_FILE, simulate
from raypipe.store.layout import catalog_folder, evaluation_folder
from raypipe.store.workspace import Workspace
from raypipe.training.train import train
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

SIMULATED = "simulated"
"""Name of the source for which `run` first simulates a survey in the workspace."""


@verb
def run(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    source: str,
    where: str | None = None,
    catalog: str | Path | None = None,
    labels: str | Path | None = None,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Run the full pipeline on a source of data, up to the latent catalog and the report.

    `source` and `where` are those of `discover`. For the source "simulated", `run` first simulates
    a survey in the folder `survey` of the workspace and uses its true classes as labels. With
    `model`, the id or path of a trained bundle, `run` trains nothing; otherwise it trains the
    configured preset, and `evaluate.baseline_presets` for comparison. Returns the addresses of
    catalog, metrics and report, and the main figures as text. The same call completes an
    interrupted run. Raises UsageError for a missing model or labels before any work is done.
    """
    workspace, settings = call.workspace, call.config
    if model is not None:
        resolve_model(workspace, model)
    if labels is not None:
        read_labels(labels)
    if source == SIMULATED:
        source = _simulated_survey(workspace, settings)
        catalog = labels = Path(source) / "truth.parquet"
    found = discover(
        workspace, source=source, where=where, catalog=catalog, release=release, config=settings
    )
    release = str(found["release"])
    with ray_session(settings.ray):
        ingest(workspace, release=release, config=settings)
        uris = _models(workspace, release, model, settings)
        model_ids = [embed(workspace, release=release, model=uri, config=settings) for uri in uris]
    model_id = model_ids[0]
    metrics = evaluate(workspace, release=release, model=model_id, labels=labels, config=settings)
    page = report(workspace, release=release, model=model_id, labels=labels, config=settings)
    return {
        "release": release,
        "model_id": model_id,
        "catalog": workspace.absolute_uri(catalog_folder(release, model_id)),
        "metrics": workspace.absolute_uri(f"{evaluation_folder(release, model_id)}/metrics.json"),
        "report": page,
        "figures": {line.label: f"{line.value} ({line.note})" for line in headlines(metrics)},
    }


def _simulated_survey(workspace: Workspace, settings: Config) -> str:
    if not workspace.is_local:
        raise UsageError(
            f"--source {SIMULATED} writes FITS files: choose a local --workspace, or simulate a "
            "survey first and upload it"
        )
    folder = workspace.path("survey")
    asked = settings.simulate.model_dump() | {"raypipe_version": __version__, "complete": True}
    description = f"survey/{SURVEY_FILE}"
    there = workspace.read_json(description) if workspace.exists(description) else {}
    if there == there | asked:
        log.info("run: the survey exists already")
    else:
        simulate(folder, **settings.simulate.model_dump())
    return folder


def _models(workspace: Workspace, release: str, model: str | None, settings: Config) -> list[str]:
    """Return the URIs of the models to embed with, the main one first."""
    if model is not None:
        return [resolve_model(workspace, model)]
    presets = [settings.model.preset, *settings.evaluate.baseline_presets]
    ids = [
        train(workspace, release=release, preset=preset, config=settings)
        for preset in dict.fromkeys(presets)
    ]
    return [resolve_model(workspace, model_id) for model_id in ids]
