"""Turn a manifest into spectra and rejects, part by part, on Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypipe.config import Config, IngestConfig
from raypipe.ingestion.chip_rmfs import choose_chip_rmfs
from raypipe.ingestion.fetch import Fetcher
from raypipe.ingestion.part import copy_part, ingest_part, is_published
from raypipe.ingestion.progress import parts_to_ingest
from raypipe.ray_session import map_parts, ray_session, tasks_for
from raypipe.spectra.responses import FOLDER as RESPONSES
from raypipe.spectra.responses import chip_rmfs_name
from raypipe.store.layout import rejects_folder, spectra_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.parts import check_totals, count_parts, count_rows, drop_parts_beyond
from raypipe.store.workspace import Workspace
from raypipe.telemetry import Stage, stage
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_COPIED_HERE = 64
"""Most parts that are copied by the driver: each takes a fraction of a second."""


@verb
def ingest(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, int]:
    """Read a release's files into spectra; return the numbers of manifest, spectra, rejects.

    Parts are read if they are missing, if their rows of the manifest have changed, or if they have
    rejects that are worth a retry; rows that are published already are kept. The same command
    therefore completes an interrupted run. Raises RaypipeError unless every detection of the
    manifest is in the end a row of spectra or of rejects, and BusyError if another run ingests into
    the workspace.
    """
    workspace, settings = call.workspace, call.config
    release = choose_release(workspace, release)
    own = spectra_folder(release), rejects_folder(release), RESPONSES
    with call.recorded() as figures, exclusive(workspace, "ingest", own):
        parts = count_parts(workspace, release)
        for folder in spectra_folder(release), rejects_folder(release):
            drop_parts_beyond(workspace, folder, parts)
        todo = parts_to_ingest(workspace, release, settings.ingest)
        log.info("ingest: %d of %d parts to do", len(todo), parts)
        choosing = _must_choose(workspace, release, settings.ingest, bool(todo))
        if not choosing:
            todo = _copy_parts(workspace, release, todo, settings.ingest, figures)
        if todo or choosing:
            kept = figures.get("work", {}).get("kept", 0)
            with ray_session(settings.ray):
                work = _run(workspace, release, todo, choosing, settings)
            figures["work"] = work | {"kept": work["kept"] + kept}
        totals = count_rows(workspace, release)
        figures.update(totals)
        check_totals(workspace, release, totals)
    log.info("ingest: %(manifest)d detections = %(spectra)d spectra + %(rejects)d rejects", totals)
    return totals


def _copy_parts(
    workspace: Workspace,
    release: str,
    parts: list[int],
    config: IngestConfig,
    figures: dict[str, Any],
) -> list[int]:
    """Make parts whose rows are all published already, without Ray, whose start takes longer.

    Returns the parts that are still to do, and adds what the others took to `figures`. More than a
    few parts are left to the workers.
    """
    published = [part for part in parts if is_published(workspace, release, part)]
    if not 0 < len(published) <= _COPIED_HERE:
        return parts
    left = [part for part in parts if part not in published]
    with stage("ingest", release) as tally:
        for part in published:
            outcome = copy_part(workspace, release, part, config)
            if outcome is None:
                left.append(part)
                continue
            tally.add("kept", outcome.kept)
            tally.reject(outcome.rejected)
    if len(left) < len(parts):
        figures["work"] = tally.figures()
        log.info("ingest: %d detections kept", tally.totals["kept"])
    return sorted(left)


def _must_choose(workspace: Workspace, release: str, config: IngestConfig, needed: bool) -> bool:
    """Tell whether to choose RMFs for chip zones: if requested, or if none are chosen yet."""
    if config.rmf != "chip":
        return False
    return config.choose_rmfs_again or (needed and not workspace.exists(chip_rmfs_name(release)))


def _run(
    workspace: Workspace, release: str, parts: list[int], choosing: bool, settings: Config
) -> dict[str, Any]:
    """Choose RMFs for zones if necessary, then process the parts; return what that took.

    Parts made with an RMF that is no longer chosen are processed again, too.
    """
    config = settings.ingest

    def choose(_: int) -> dict[str, Any]:
        fetcher = Fetcher(config)
        zones = choose_chip_rmfs(workspace, release, config, fetcher)
        return {"zones": zones} | fetcher.traffic.counts()

    def work(part: int) -> dict[str, Any]:
        return asdict(ingest_part(workspace, release, part, config))

    cpus = config.cpus_per_task
    with stage("ingest", release) as tally:
        if choosing:
            for chosen in map_parts("choose RMFs", [0], choose, num_cpus=cpus):
                log.info("ingest: RMFs chosen for %d zones of chips", chosen["zones"])
                if config.choose_rmfs_again and not chosen["zones"]:
                    log.warning("ingest: no RMF could be chosen; see that the source is in reach")
                _count(tally, chosen)
            parts = parts_to_ingest(workspace, release, config)
        tasks = tasks_for(len(parts), cpus, settings.ray)
        outcomes = map_parts("ingest", parts, work, tasks, num_cpus=cpus)
        for number, outcome in enumerate(outcomes, 1):
            tally.add("rows", outcome["spectra"] + outcome["rejects"] - outcome["kept"])
            tally.add("kept", outcome["kept"])
            tally.reject(outcome["rejected"])
            _count(tally, outcome)
            log.info(
                "ingest: %d/%d parts, %d detections, %d kept, %d rejects, %.0f detections/s, "
                "%.1f MB/s, %d requests (%d of them again)",
                number,
                len(parts),
                *(tally.totals[name] for name in ("rows", "kept", "rejects")),
                tally.per_s("rows"),
                tally.per_s("bytes_read") / 1e6,
                tally.totals["requests"],
                tally.totals["retries"],
            )
    return tally.figures()


def _count(tally: Stage, outcome: Mapping[str, Any]) -> None:
    """Add the cost of reading to the stage's counts."""
    for name in "bytes_read", "requests", "retries", "rmfs", "rmf_bytes":
        tally.add(name, outcome[name])
