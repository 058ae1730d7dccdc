"""List the detections of a folder, bucket or release in a manifest: the verb `discover`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypipe._version import __version__
from raypipe.archive.pages import release_pages
from raypipe.archive.products import is_release_name
from raypipe.catalog.brought_table import read_catalog
from raypipe.config import Config, DiscoverConfig
from raypipe.discovery.account import Account
from raypipe.discovery.catalog_join import CatalogJoin
from raypipe.discovery.columns import manifest_rows
from raypipe.discovery.folder import detections
from raypipe.discovery.header_positions import with_positions
from raypipe.discovery.manifest import write_manifest
from raypipe.discovery.own_ids import manifest_source, published_ids
from raypipe.discovery.release import choose_release_name, is_survey
from raypipe.errors import UsageError
from raypipe.store.hash_partitioner import remove_leftovers, scratch_folder
from raypipe.store.layout import manifest_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import SIMULATED, find_manifest, set_aside_name
from raypipe.store.workspace import Workspace
from raypipe.telemetry import stage
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

POSITION = "position"
"""Value of `by` that joins a catalog by position on the sky."""


@verb
def discover(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    source: str,
    where: str | None = None,
    catalog: str | Path | None = None,
    by: str | None = None,
    radius: float = 1.0,
    release: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """List the detections of a folder or release in a manifest, and return its summary.

    `source` is a folder or s3:// prefix, which is searched with all its subfolders, or the name of
    a release of the archive (csc2.1), of which `where`, an ADQL condition, selects a part. The
    columns and class labels of the table `catalog` are joined to the detections, by detection_id,
    observation and region, or name; with `by="position"`, the nearest of its rows within `radius`
    arcsec is joined, and its distance is the column `separation_arcsec`. `release` names
    the manifest; by default it is the name of the archive's release, that of a simulated survey
    (survey.json), or the name of the folder. Apart from the catalog, memory does not grow with the
    number of files.

    A complete manifest of the same query, catalog and settings is not queried from the archive
    again. Raises UsageError if there are no spectra, ServiceError if the archive fails (the same
    call then continues), BusyError if another run discovers the same release.
    """
    workspace, settings = call.workspace, call.config
    if where is not None and not is_release_name(source):
        raise UsageError(f"--where chooses from a release of the archive (csc2.1), not {source}")
    if by not in (None, POSITION):
        raise UsageError(f"--by {by}: expected {POSITION}; without it, a catalog is joined by name")
    release = choose_release_name(source, release, settings.discover)
    join = None
    if catalog is not None:
        join = CatalogJoin(read_catalog(catalog), radius if by == POSITION else None)
    with (
        call.recorded() as figures,
        exclusive(workspace, f"discover-{release}", [manifest_folder(release)]),
        stage("discover", release) as progress,
    ):
        if is_release_name(source):
            summary = _from_archive(workspace, source, release, where, join, settings.discover)
        else:
            summary = _from_files(
                workspace, Workspace(source), release, join, by == POSITION, settings.discover
            )
        progress.add("rows", summary["rows"])
        figures.update(summary)
    log.info("discover: %d detections of %s in %s", summary["rows"], release, source)
    return summary


def _from_archive(
    workspace: Workspace,
    source: str,
    release: str,
    where: str | None,
    join: CatalogJoin | None,
    settings: DiscoverConfig,
) -> dict[str, Any]:
    """Write the manifest of a release of the archive; keep its pages until it is complete."""
    pages = release_pages(workspace, source, release, where, settings)
    recipe = [pages.question, join and join.fingerprint, settings.part_rows, __version__]
    made_of = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    summary = find_manifest(workspace, release, made_of)
    if summary is None:
        remove_leftovers(workspace, release)
        workspace.delete(set_aside_name(release))
        tables = map(manifest_rows, pages.detections())
        summary = write_manifest(
            workspace,
            release,
            tables,
            settings.part_rows,
            pages.origin,
            join=join,
            made_of=made_of,
            extra={SIMULATED: False},
        )
    else:
        log.info(
            "the manifest is complete already; delete %s to query the archive again",
            workspace.absolute_uri(manifest_folder(release)),
        )
    pages.remove()
    return summary


def _from_files(
    workspace: Workspace,
    folder: Workspace,
    release: str,
    join: CatalogJoin | None,
    by_position: bool,
    settings: DiscoverConfig,
) -> dict[str, Any]:
    """Write the manifest of the files that a folder holds now."""
    source = folder.absolute_uri()
    if (earlier := manifest_source(workspace, release)) not in (None, source):
        log.warning(
            "release %s is that of %s, and becomes that of %s; --release NAME keeps both",
            *(release, earlier, source),
        )
    remove_leftovers(workspace, release)
    account = Account()
    extra: dict[str, Any] = {SIMULATED: True} if is_survey(folder) else {}

    def tables() -> Iterator[pa.Table]:
        published = published_ids(workspace, release, earlier or source)
        try:
            for table in detections(folder, release, scratch, account, published):
                rows = manifest_rows(table)
                yield with_positions(folder, rows) if by_position else rows
        finally:
            account.report()
        extra.update(account.summary())
        _write_set_aside(workspace, release, account)

    with scratch_folder(workspace, release) as scratch:
        return write_manifest(
            workspace, release, tables(), settings.part_rows, source, join=join, extra=extra
        )


def _write_set_aside(workspace: Workspace, release: str, account: Account) -> None:
    """Publish the list of files that could have been detections and are none."""
    name = set_aside_name(release)
    if entries := account.entries():
        workspace.write_json(name, [entry._asdict() for entry in entries])
        log.warning("%s lists all files that are set aside", workspace.absolute_uri(name))
    else:
        workspace.delete(name)
