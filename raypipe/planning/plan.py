"""Predict the cost of ingesting a release from a sample that is ingested."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypipe.config import Config
from raypipe.errors import RaypipeError, UsageError
from raypipe.planning.cluster_file import read_cluster
from raypipe.planning.measurement import measure
from raypipe.planning.plan_text import assumptions, not_included
from raypipe.planning.prediction import predict, price
from raypipe.planning.sample import draw_sample
from raypipe.store.manifest import choose_release, parts_for, read_manifest_summary
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)


@verb
def plan(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    sample: int | None = None,
    detections: int | None = None,
    seed: int | None = None,
    cluster: str | Path | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Ingest a random sample of a release, publish nothing, and predict the cost of the release.

    `sample` detections of the manifest are fetched and read as `ingest` does it; `seed` chooses
    them. Their cost is scaled to all detections of the manifest, or to a number of `detections`, in
    parts of `discover.part_rows`. With `model`, the id of a model in the workspace or a bundle that
    all nodes can read, the sample is embedded as well. `cluster` is a Ray launcher file with
    prices, by default `plan.cluster_file` of the configuration.

    Returns release, sample, prediction, cost and assumptions: bytes, requests, core hours, memory,
    hours and US dollars. Hours and dollars are lower limits; `not_included` names what they leave
    out. The same record is kept in W/runs.
    """
    workspace, settings = call.workspace, call.config
    size = settings.plan.sample if sample is None else sample
    if size < 1:
        raise UsageError(f"cannot plan from {size} detections: give --sample 1 or more")
    if detections is not None and detections < 1:
        raise UsageError(f"cannot plan for {detections} detections: give --detections 1 or more")
    nodes = read_cluster(settings.plan.cluster_file if cluster is None else cluster)
    release = choose_release(workspace, release)
    uri = _model_uri(workspace, model)
    with call.recorded() as figures:
        summary = read_manifest_summary(workspace, release)
        rows = draw_sample(workspace, release, size, settings.plan.seed if seed is None else seed)
        if not rows.num_rows:
            raise RaypipeError(
                f"{workspace.uri} {release}: its manifest has no detections; run discover again"
            )
        log.info("plan: ingesting %d of %d detections", rows.num_rows, summary["rows"])
        measured = measure(rows, release, settings, uri)
        total, parts = int(summary["rows"]), int(summary["parts"])
        if detections is not None:
            total, parts = detections, parts_for(detections, settings.discover.part_rows)
        predicted = predict(measured, total, parts, settings.ingest)
        cost = price(measured, predicted, parts, nodes, settings)
        figures.update(
            release=release,
            measured=asdict(measured),
            prediction=asdict(predicted),
            cluster=asdict(nodes),
            cost=asdict(cost),
            not_included=not_included(predicted, cost, settings),
            assumptions=assumptions(measured, predicted, nodes, cost, settings),
        )
    return figures


def _model_uri(workspace: Workspace, model: str | None) -> str | None:
    if model is None:
        return None
    from raypipe.model.choice import resolve_model  # imports torch, which ingestion does not use

    return resolve_model(workspace, model)
