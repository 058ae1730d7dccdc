"""ingest: from a manifest to spectra and rejects, part by part on Ray Data."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from raypipe.cluster import ray_session
from raypipe.config import Config, IngestConfig, as_config
from raypipe.discovery.manifest import choose_release, read_manifest_summary
from raypipe.errors import RaypipeError
from raypipe.ingestion.part import Outcome, ingest_part, is_done
from raypipe.runs import record_run
from raypipe.workspace import (
    Workspace,
    manifest_folder,
    part_name,
    rejects_folder,
    spectra_folder,
)

log = logging.getLogger(__name__)


def ingest(
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, int]:
    """Read a release's files into spectra; return the numbers of manifest, spectra, rejects.

    Only parts that are missing, whose manifest rows have changed, or that have rejects worth a
    retry are done, and of these only the rows that are not published: the same command completes
    an interrupted run. At the end every detection of the manifest is a row of spectra or of
    rejects, or RaypipeError is raised.
    """
    settings = as_config(config)
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(workspace, release)
    with record_run(workspace, "ingest", settings) as figures:
        parts = int(read_manifest_summary(workspace, release)["parts"])
        _drop_parts_beyond(workspace, release, parts)
        todo = [
            part for part in range(parts) if not is_done(workspace, release, part, settings.ingest)
        ]
        log.info("ingest: %d of %d parts to do", len(todo), parts)
        if todo:
            with ray_session(settings.ray):
                figures.update(_run_parts(workspace, release, todo, settings.ingest))
        totals = count_rows(workspace, release)
        figures.update(totals)
        check_totals(workspace, release, totals)
    log.info("ingest: %(manifest)d detections = %(spectra)d spectra + %(rejects)d rejects", totals)
    return totals


def count_rows(workspace: Workspace, release: str) -> dict[str, int]:
    """Rows of manifest, spectra and rejects; rejects count where their part's spectra are there."""
    parts = int(read_manifest_summary(workspace, release)["parts"])
    totals = {"manifest": 0, "spectra": 0, "rejects": 0}
    for part in range(parts):
        totals["manifest"] += workspace.count_rows(part_name(manifest_folder(release), part))
        spectra = part_name(spectra_folder(release), part)
        if workspace.exists(spectra):
            totals["spectra"] += workspace.count_rows(spectra)
            totals["rejects"] += workspace.count_rows(part_name(rejects_folder(release), part))
    return totals


def check_totals(workspace: Workspace, release: str, totals: dict[str, int]) -> None:
    """Raise RaypipeError unless manifest = spectra + rejects."""
    if totals["manifest"] != totals["spectra"] + totals["rejects"]:
        raise RaypipeError(
            f"{workspace.uri} {release}: {totals['manifest']} detections in the manifest, but "
            f"{totals['spectra']} spectra and {totals['rejects']} rejects; run ingest again"
        )


def _run_parts(
    workspace: Workspace, release: str, parts: list[int], config: IngestConfig
) -> dict[str, int]:
    """Do the parts on Ray; returns what was asked of servers, and what that brought."""

    def work(batch: dict[str, Any]) -> dict[str, list[int]]:
        outcomes = [ingest_part(workspace, release, int(part), config) for part in batch["part"]]
        return {key: [getattr(o, key) for o in outcomes] for key in Outcome.__dataclass_fields__}

    tasks = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=len(parts)
    ).map_batches(work, batch_size=1, num_cpus=config.cpus_per_task, zero_copy_batch=False)
    started = time.monotonic()
    done = Counter[str]()
    for number, row in enumerate(tasks.iter_rows(), 1):
        done.update({key: int(row[key]) for key in Outcome.__dataclass_fields__})
        seconds = max(time.monotonic() - started, 1e-3)
        log.info(
            "ingest: %d/%d parts, %d spectra, %d rejects, %.0f detections/s, %.1f MB/s, "
            "%d requests (%d of them again)",
            number,
            len(parts),
            done["spectra"],
            done["rejects"],
            (done["spectra"] + done["rejects"] - done["kept"]) / seconds,
            done["bytes_read"] / seconds / 1e6,
            done["requests"],
            done["retries"],
        )
    return {key: done[key] for key in ("kept", "requests", "retries", "bytes_read")}


def _drop_parts_beyond(workspace: Workspace, release: str, parts: int) -> None:
    """Remove parts of an earlier, larger manifest."""
    for folder in spectra_folder(release), rejects_folder(release):
        for name in workspace.files(folder, ".parquet"):
            if name >= part_name(folder, parts):
                workspace.delete(name)
