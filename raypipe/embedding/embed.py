"""Turn spectra into the latent catalog, with a pool of encoders on Ray Data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from raypipe._version import __version__
from raypipe.catalog.added_columns import added_verbs
from raypipe.catalog.source_table import source_columns, source_tables
from raypipe.config import Config, EmbedConfig
from raypipe.embedding.part import PartEncoder, Wanted, wanted_part
from raypipe.errors import BusyError
from raypipe.model.bundle import Model, load_model
from raypipe.model.choice import adopt_model, resolve_model
from raypipe.ray_session import joins_cluster, map_parts, ray_session, without_restart_warning
from raypipe.store.layout import catalog_folder, model_folder, sources_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.parts import require_ingested
from raypipe.store.publication import Publication, find_publication, publish
from raypipe.store.workspace import Workspace
from raypipe.telemetry import stage
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_READERS = 16
_DETECTIONS = "detections"
"""Key of the table of sources' metadata with the number of detections it was made of."""
_COPIED_HERE = 64
"""Most parts that are copied by the driver: each takes a fraction of a second."""
_ROUNDS = 3
"""How many times a run makes parts whose spectra keep changing before it gives up."""


@verb
def embed(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Write the latent catalog of a release with a model and return the model's id.

    `model` is the id of a model in the workspace, by default of the newest one, or the path or URI
    of a bundle, which is copied into the workspace. Only spectra that the model has not measured in
    this release or another are encoded: the same command completes an interrupted run. A spectrum
    that cannot be measured has the flag `not_measured` and no latents.

    All parts and the table of sources are published in one step at the end. If spectra have changed
    by then, their parts are made again first. Raises PublishedMeanwhileError if another run has
    published this catalog since, and BusyError if another run is making it, or if spectra change
    each time they are measured.
    """
    workspace, settings = call.workspace, call.config
    release = choose_release(workspace, release)
    model_id = adopt_model(workspace, resolve_model(workspace, model))
    uri = workspace.absolute_uri(model_folder(model_id))
    bundle = load_model(uri)
    folders = catalog_folder(release, model_id), sources_folder(release, model_id)
    with (
        call.recorded() as figures,
        exclusive(workspace, f"embed-{release}-{model_id}", folders),
    ):
        base = find_publication(workspace, release, model_id)
        there = {name for folder in folders for name in workspace.files(folder, ".parquet")}
        parts, work = _make_parts(workspace, release, uri, bundle, settings, there)
        new = _assemble(workspace, release, bundle, parts, settings.embed)
        published = publish(workspace, new, base, there)
        figures.update(work)
        figures.update({"model_id": model_id, "rows": new.rows, "sources": new.source_rows})
    log.info(
        "embed: %d detections of %d sources in %s",
        published.rows,
        published.source_rows,
        workspace.absolute_uri(catalog_folder(release, model_id)),
    )
    _warn_of_stale_columns(workspace, published)
    return model_id


def _warn_of_stale_columns(workspace: Workspace, catalog: Publication) -> None:
    stale = [verb for verb, current in added_verbs(workspace, catalog).items() if not current]
    if stale:
        log.warning(
            "embed: the catalog has changed; readers leave the columns of %s out until %s",
            ", ".join(stale),
            " and ".join(f"raypipe {verb}" for verb in stale) + " has run again",
        )


@dataclass(frozen=True)
class _Task:
    workspace: Workspace
    release: str
    parts: int
    model_uri: str
    config: EmbedConfig


class _Encoder:
    """Load the model once, then make part after part, as an actor of Ray Data."""

    def __init__(self, task: _Task) -> None:
        model = load_model(task.model_uri)
        model.network.to("cuda" if task.config.gpus_per_actor else "cpu")
        self.encoder = PartEncoder(task.workspace, task.release, task.parts, model, task.config)

    def __call__(self, part: int) -> dict[str, int]:
        return asdict(self.encoder.embed(part))


def _make_parts(
    workspace: Workspace, release: str, uri: str, model: Model, settings: Config, there: set[str]
) -> tuple[list[Wanted], dict[str, Any]]:
    """Make the missing parts, and make again those whose spectra change meanwhile.

    Returns the parts of the catalog, which are those of the spectra as they are now, and the
    figures of the work; adds the files it wrote to `there`.
    """
    parts, todo = _look(workspace, release, model, settings.embed)
    log.info("embed: %s on %s, %d parts to do", model.model_id, release, len(todo))
    work = _copy_parts(workspace, release, model, settings.embed, len(parts), todo, there)
    if work:
        parts, todo = _look(workspace, release, model, settings.embed)
    for number in range(1, _ROUNDS + 1):
        if not todo:
            return parts, work
        if number > 1:
            log.warning("embed: the spectra of %d parts have changed meanwhile", len(todo))
        with ray_session(settings.ray), without_restart_warning():
            task = _Task(workspace, release, len(parts), uri, settings.embed)
            figures = _run_parts(task, todo, joins_cluster(settings.ray), there)
        if number == 1:
            kept = work.get("work", {}).get("kept", 0)
            work["work"] = figures | {"kept": figures["kept"] + kept}
        else:
            work[f"work_{number}"] = figures
        parts, todo = _look(workspace, release, model, settings.embed)
    if todo:
        raise BusyError(
            f"{workspace.uri} {release}: the spectra of {len(todo)} parts have changed each time "
            "they were embedded; wait until raypipe ingest has ended and run the same command again"
        )
    return parts, work


def _copy_parts(
    workspace: Workspace,
    release: str,
    model: Model,
    config: EmbedConfig,
    parts: int,
    todo: list[int],
    there: set[str],
) -> dict[str, Any]:
    """Make parts whose spectra are all measured already, without Ray, whose start takes longer.

    Returns the figures of the work, empty if there was none; adds the files it wrote to `there`.
    More than a few parts are left to the workers.
    """
    if not 0 < len(todo) <= _COPIED_HERE:
        return {}
    encoder = PartEncoder(workspace, release, parts, model, config)
    todo = [part for part in todo if encoder.has_earlier(part)]
    if not todo:
        return {}
    copied = []
    with stage("embed", release) as tally:
        for outcome in map(encoder.copy, todo):
            if outcome is not None:
                copied.append(outcome.name)
                tally.add("kept", outcome.kept)
    if not copied:
        return {}
    there.update(copied)
    log.info("embed: %d detections measured before", tally.totals["kept"])
    return {"work": tally.figures()}


def _look(
    workspace: Workspace, release: str, model: Model, config: EmbedConfig
) -> tuple[list[Wanted], list[int]]:
    """List the parts that the present spectra make, and the numbers of those still to make.

    A part has to be made if its file is absent, or has not as many rows as its spectra.
    """
    parts = require_ingested(workspace, release)
    with ThreadPoolExecutor(_READERS) as pool:
        look = partial(wanted_part, workspace, release, model=model, config=config)
        wanted = list(pool.map(look, range(parts)))
        footers = list(pool.map(workspace.read_footer, (part.name for part in wanted)))
    todo = [
        number
        for number, (part, footer) in enumerate(zip(wanted, footers, strict=True))
        if footer is None or footer.rows != part.rows
    ]
    return wanted, todo


def _assemble(
    workspace: Workspace,
    release: str,
    model: Model,
    parts: list[Wanted],
    config: EmbedConfig,
) -> Publication:
    """Make the publication of a catalog from its parts, and write its table of sources."""
    names = [part.name for part in parts]
    rows = sum(part.rows for part in parts)
    text = json.dumps([[name.rsplit("/", 1)[1] for name in names], __version__])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    sources = f"{sources_folder(release, model.model_id)}/sources-{fingerprint}.parquet"
    footer = workspace.read_footer(sources)
    if footer is None or footer.metadata.get(_DETECTIONS) != str(rows):
        columns = source_columns(model.config.model.latents)
        with ThreadPoolExecutor(_READERS) as pool:
            tables = pool.map(lambda name: workspace.read_table(name, columns), names)
            detections = pa.concat_tables(tables, promote_options="permissive")
        metadata = {
            "model_id": model.model_id,
            "raypipe_version": __version__,
            _DETECTIONS: str(detections.num_rows),
        }
        workspace.write_tables(
            sources, source_tables(detections, model, config.class_scheme), metadata
        )
    return Publication(
        release=release,
        model_id=model.model_id,
        number=0,
        rows=rows,
        source_rows=workspace.count_rows(sources),
        parts=tuple(names),
        sources=sources,
        fingerprint=fingerprint,
    )


def _pool(config: EmbedConfig, parts: int, joined: bool) -> ActorPoolStrategy:
    """Make a pool of as many encoders as fit, or will fit on a cluster that may grow."""
    resources = ray.cluster_resources()
    slots = (
        resources.get("GPU", 0) / config.gpus_per_actor
        if config.gpus_per_actor
        else resources.get("CPU", 0) / config.cpus_per_actor
    )
    fit = max(1, int(slots))
    if not joined:
        return ActorPoolStrategy(size=min(config.actors or fit, parts))
    most = min(config.actors or parts, parts)
    return ActorPoolStrategy(min_size=1, max_size=most, initial_size=min(fit, most))


def _run_parts(task: _Task, parts: list[int], joined: bool, there: set[str]) -> dict[str, Any]:
    """Make parts on Ray; return the totals, and add the names of the files to `there`."""
    config = task.config
    pool = _pool(config, len(parts), joined)
    plural = "" if pool.initial_size == 1 else "s"
    log.info("embed: starting %d encoder%s (about 10 s)", pool.initial_size, plural)
    outcomes = map_parts(
        "embed",
        parts,
        _Encoder,
        fn_constructor_args=(task,),
        compute=pool,
        num_cpus=config.cpus_per_actor,
        num_gpus=config.gpus_per_actor,
    )
    with stage("embed", task.release) as tally:
        for number, outcome in enumerate(outcomes, 1):
            tally.add("rows", outcome["rows"] - outcome["kept"])
            tally.add("kept", outcome["kept"])
            tally.add("not_measured", outcome["not_measured"])
            there.add(outcome["name"])
            _name_unmeasured(outcome)
            log.info(
                "embed: %d/%d parts, %d detections, %d measured before, %.0f/s",
                number,
                len(parts),
                tally.totals["rows"],
                tally.totals["kept"],
                tally.per_s("rows"),
            )
    return tally.figures()


def _name_unmeasured(outcome: Mapping[str, Any]) -> None:
    """Log which detections of a part have no latents: the first few, and how many more."""
    number, named = outcome["not_measured"], outcome["named"]
    if number:
        log.warning(
            "embed: part %d: detections that could not be measured (flag not_measured): %s%s",
            outcome["part"],
            ", ".join(named),
            f" and {number - len(named)} more" if number > len(named) else "",
        )
