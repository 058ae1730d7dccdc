"""Perform the full pipeline, from a source of data to a report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypipe._version import __version__
from raypipe.catalog.labels import read_labels
from raypipe.classifying.classify import classify
from raypipe.classifying.training import ClassNamesError, TooFewLabelsError
from raypipe.clustering.cluster import cluster
from raypipe.clustering.finding import TooFewRowsError
from raypipe.config import Config
from raypipe.discovery.discover import discover
from raypipe.embedding.embed import embed
from raypipe.errors import UsageError
from raypipe.evaluation.evaluate import evaluate
from raypipe.evaluation.summary import headlines
from raypipe.ingestion.ingest import ingest
from raypipe.model.choice import resolve_model
from raypipe.ray_session import ray_session
from raypipe.reporting.report import report
from raypipe.simulation.simulate import SURVEY_FILE, recorded_settings, simulate
from raypipe.store.layout import catalog_folder, evaluation_folder
from raypipe.store.workspace import Workspace
from raypipe.training.train import make_model, with_preset
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

SIMULATED = "simulated"
"""Name of the source for which `run` first simulates a survey in the workspace."""
_OF_TRAINING: dict[str, tuple[str, ...]] = {
    "model": (),
    "train": (),
    "evaluate": ("baseline_presets",),
}
"""Settings that matter only to a training, by section; () stands for all of a section."""


@verb
def run(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    source: str,
    where: str | None = None,
    catalog: str | Path | None = None,
    by: str | None = None,
    radius: float = 1.0,
    labels: str | Path | None = None,
    release: str | None = None,
    model: str | None = None,
    train: bool = False,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Run the full pipeline on a source of data: latent catalog, its clusters, and the report.

    `source`, `where`, `catalog`, `by` and `radius` are those of `discover`. For the source
    "simulated", `run` first simulates a survey in the folder `survey` of the workspace and uses its
    true classes as labels.

    The spectra are embedded with `model`, the id or path of a trained bundle; by default with the
    newest model of the workspace, or with the model in the box if it has none. With `train`, `run`
    instead trains the configured preset on these spectra, and `evaluate.baseline_presets` for
    comparison. Where there are enough labels, `classify` adds class probabilities. Returns the
    addresses of catalog, metrics and report, and the main figures as text.
    The same call completes an interrupted run. Raises UsageError, before any work is done, for a
    missing model or labels, for `model` together with `train`, and if settings of a training are
    given without either.
    """
    workspace, settings = call.workspace, call.config
    _require_one_way(model, train, settings)
    if model is not None:
        resolve_model(workspace, model)
    if labels is not None:
        read_labels(labels)
    if source == SIMULATED:
        source = _simulated_survey(workspace, settings)
        catalog = labels = Path(source) / "truth.parquet"
    found = discover(
        workspace,
        source=source,
        where=where,
        catalog=catalog,
        by=by,
        radius=radius,
        release=release,
        config=settings,
    )
    release = str(found["release"])
    with ray_session(settings.ray):
        ingest(workspace, release=release, config=settings)
        uris = _models(workspace, release, model, train, settings)
        model_ids = [embed(workspace, release=release, model=uri, config=settings) for uri in uris]
    model_id = model_ids[0]
    try:
        cluster(workspace, release=release, model=model_id, config=settings)
    except TooFewRowsError as error:
        log.warning("run: no clusters: %s", error)
    metrics = evaluate(workspace, release=release, model=model_id, labels=labels, config=settings)
    _classify(workspace, release, model_id, labels, settings)
    page = report(workspace, release=release, model=model_id, labels=labels, config=settings)
    return {
        "release": release,
        "model_id": model_id,
        "catalog": workspace.absolute_uri(catalog_folder(release, model_id)),
        "metrics": workspace.absolute_uri(f"{evaluation_folder(release, model_id)}/metrics.json"),
        "report": page,
        "figures": {line.label: f"{line.value} ({line.note})" for line in headlines(metrics)},
    }


def _classify(
    workspace: Workspace,
    release: str,
    model_id: str,
    labels: str | Path | None,
    settings: Config,
) -> None:
    """Add class probabilities to the catalog if there are enough labels."""
    try:
        classify(workspace, release=release, model=model_id, labels=labels, config=settings)
    except TooFewLabelsError as error:
        log.info("run: no class probabilities with context: %s", error)
    except ClassNamesError as error:
        log.warning("run: no class probabilities with context: %s", error)


def _simulated_survey(workspace: Workspace, settings: Config) -> str:
    if not workspace.is_local:
        raise UsageError(
            f"--source {SIMULATED} writes FITS files: choose a local --workspace, or simulate a "
            "survey first and upload it"
        )
    folder = workspace.path("survey")
    asked = recorded_settings(**settings.simulate.model_dump())
    asked |= {"raypipe_version": __version__, "complete": True}
    description = f"survey/{SURVEY_FILE}"
    there = workspace.read_json(description) if workspace.exists(description) else {}
    if there == there | asked:
        log.info("run: the survey exists already")
    else:
        simulate(folder, **settings.simulate.model_dump())
    return folder


def _require_one_way(model: str | None, train: bool, settings: Config) -> None:
    """Raise UsageError unless it is clear whether to train a model or to use one."""
    if model is not None and train:
        raise UsageError("--model uses a trained model and --train trains one: give one of the two")
    if train or model is not None:
        return
    default = Config()
    changed = [
        f"{section}.{key}"
        for section, keys in _OF_TRAINING.items()
        for key in keys or type(getattr(default, section)).model_fields
        if getattr(getattr(settings, section), key) != getattr(getattr(default, section), key)
    ]
    if changed:
        raise UsageError(
            f"{', '.join(changed)}: settings of a training, but run trains only with --train; add "
            "it, or choose a trained model with --model"
        )


def _models(
    workspace: Workspace, release: str, model: str | None, train: bool, settings: Config
) -> list[str]:
    """Return the URIs of the models to embed with, the main one first."""
    if not train:
        return [resolve_model(workspace, model)]
    presets = [settings.model.preset, *settings.evaluate.baseline_presets]
    ids = [
        make_model(workspace, release, with_preset(settings, preset))
        for preset in dict.fromkeys(presets)
    ]
    return [resolve_model(workspace, model_id) for model_id in ids]
