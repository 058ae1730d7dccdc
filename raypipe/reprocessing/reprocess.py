"""Make a new release from an earlier one, processing only what is new."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypipe.config import Config
from raypipe.discovery.discover import discover
from raypipe.embedding.embed import embed
from raypipe.errors import UsageError
from raypipe.ingestion.ingest import ingest
from raypipe.model.choice import choose_model
from raypipe.ray_session import map_parts, ray_session, tasks_for
from raypipe.reprocessing.changes import CHANGED, NEW, SAME, VANISHED
from raypipe.reprocessing.reuse import groups, reuse_chip_rmfs, reuse_group
from raypipe.store.layout import changes_folder, part_name
from raypipe.store.parts import count_parts, require_ingested
from raypipe.store.publication import published_models, require_publication
from raypipe.store.workspace import Workspace, check_name
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)


@verb
def reprocess(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str,
    source: str,
    base: str | None = None,
    where: str | None = None,
    catalog: str | Path | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Make the latent catalog of a new release from an earlier one's; returns a summary.

    `source`, `where` and `catalog` are those of `discover`. Detections whose files have the same
    names and sizes as in `base`, by default the only other release with a catalog, are carried
    over; new and changed ones are fetched and embedded; vanished ones are listed. The catalog is
    the one that `ingest` and `embed` would make of all files. The change of each detection is
    recorded in W/changes/<release>. `model` is the id of the model to use, by default that of the
    base's newest catalog. The same command completes an interrupted run, and does nothing if
    nothing changed. Raises UsageError if there is no such base.
    """
    workspace, settings = call.workspace, call.config
    check_name(release, "release")
    base = _choose_base(workspace, release, base)
    model_id = choose_model(workspace, base, model)
    require_ingested(workspace, base)
    with call.recorded() as figures, ray_session(settings.ray):
        discover(
            workspace,
            source=source,
            where=where,
            catalog=catalog,
            release=release,
            config=settings,
        )
        changes = _reuse(workspace, base, release, settings)
        log.info(
            "reprocess: compared with %s: %d detections unchanged, %d changed, %d new, %d vanished",
            base,
            *(changes[kind] for kind in (SAME, CHANGED, NEW, VANISHED)),
        )
        rows = ingest(workspace, release=release, config=settings)
        embed(workspace, release=release, model=model_id, config=settings)
        publication = require_publication(workspace, release, model_id)
        answer = {
            "release": release,
            "base": base,
            "model_id": model_id,
            "changes": changes,
            "rows": rows | {"catalog": publication.rows, "sources": publication.source_rows},
            "table": workspace.absolute_uri(changes_folder(release)),
        }
        figures.update(answer)
    return answer


def _choose_base(workspace: Workspace, release: str, base: str | None) -> str:
    known = [
        name
        for name in workspace.folders("catalog")
        if name != release and published_models(workspace, name)
    ]
    if base is not None:
        if base not in known:
            raise UsageError(
                f"{workspace.uri} has no catalog of {base} to start from; it has "
                f"{', '.join(known) or 'none'}"
            )
        return base
    if len(known) != 1:
        raise UsageError(
            f"{workspace.uri} has catalogs of {', '.join(known)}; choose one with --base"
            if known
            else f"{workspace.uri} has no catalog of an earlier release; use raypipe run"
        )
    return known[0]


def _reuse(workspace: Workspace, base: str, release: str, settings: Config) -> dict[str, int]:
    """Reuse rows of unchanged detections, on Ray; returns the number of detections by change."""
    if settings.ingest.rmf == "chip":
        reuse_chip_rmfs(workspace, base, release)
    work = groups(count_parts(workspace, base), count_parts(workspace, release))
    for name in workspace.files(changes_folder(release), ".parquet"):
        if name >= part_name(changes_folder(release), len(work)):
            workspace.delete(name)

    def reuse(number: int) -> dict[str, Any]:
        table = reuse_group(workspace, base, release, work[number])
        workspace.write_table(part_name(changes_folder(release), number), table, {"base": base})
        return dict(Counter(table["change"].to_pylist()))

    cpus = settings.ingest.cpus_per_task
    tasks = tasks_for(len(work), cpus, settings.ray)
    totals = Counter({SAME: 0, CHANGED: 0, NEW: 0, VANISHED: 0})
    for counts in map_parts("carry", list(range(len(work))), reuse, tasks, num_cpus=cpus):
        totals.update(counts)
    return dict(totals)
