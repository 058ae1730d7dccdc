"""discover: from a folder, a bucket or the archive to a manifest."""

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
from raypipe.discovery.manifest import write_manifest
from raypipe.discovery.own_ids import published_ids
from raypipe.errors import RaypipeError, UsageError
from raypipe.store.hash_partitioner import remove_leftovers, scratch_folder
from raypipe.store.layout import manifest_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import find_manifest, set_aside_name
from raypipe.store.workspace import Workspace, check_name
from raypipe.telemetry import stage
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_SURVEY = "survey.json"


@verb
def discover(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    source: str,
    where: str | None = None,
    catalog: str | Path | None = None,
    release: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """List the detections of a source in the manifest of a release and return its summary.

    `source` is a folder or s3:// prefix, searched with all its subfolders, or the name of a release
    of the archive (csc2.1), from which the ADQL condition `where` may select. `catalog` is a table
    whose columns and class labels are joined to the detections. `release` names the release; by
    default that is the name of the archive's release or of a simulated survey, and
    `discover.release` for other folders.

    The same call resumes an interrupted discovery. It does not query the archive again if the
    manifest is complete and was made with the same query, catalog and settings. Memory does not
    grow with the source, except for the catalog. Raises UsageError if there are no spectra,
    ServiceError if the archive fails, BusyError if another run discovers the same release.
    """
    workspace, settings = call.workspace, call.config
    if where is not None and not is_release_name(source):
        raise UsageError(f"--where chooses from a release of the archive (csc2.1), not {source}")
    release = _release_of(source, release, settings.discover)
    with (
        call.recorded() as figures,
        exclusive(workspace, f"discover-{release}", [manifest_folder(release)]),
        stage("discover", release) as told,
    ):
        if is_release_name(source):
            summary = _from_archive(workspace, source, release, where, catalog, settings.discover)
        else:
            summary = _from_files(workspace, Workspace(source), release, catalog, settings.discover)
        told.add("rows", summary["rows"])
        figures.update(summary)
    log.info("discover: %d detections of %s in %s", summary["rows"], release, source)
    return summary


def _release_of(source: str, release: str | None, config: DiscoverConfig) -> str:
    """The release that a source's detections are of; UsageError where it is no folder."""
    if is_release_name(source):
        return check_name(release or source, "release")
    folder = Workspace(source)
    if not folder.exists(""):
        raise UsageError(f"{folder.uri}: no such folder")
    if folder.is_file(""):
        parent = folder.absolute_uri().rpartition("/")[0]
        raise UsageError(
            f"{folder.uri}: a file; give the folder that holds it: --source {parent or '/'}"
        )
    return check_name(_survey_release(folder, release) or config.release, "release")


def _from_archive(
    workspace: Workspace,
    source: str,
    release: str,
    where: str | None,
    catalog: str | Path | None,
    settings: DiscoverConfig,
) -> dict[str, Any]:
    """The manifest of a release of the archive; its pages are kept until that is whole."""
    pages = release_pages(workspace, source, release, where, settings)
    join = CatalogJoin(read_catalog(catalog)) if catalog is not None else None
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
        )
    else:
        log.info(
            "the manifest is there already; delete %s to ask the archive anew",
            workspace.absolute_uri(manifest_folder(release)),
        )
    pages.remove()
    return summary


def _from_files(
    workspace: Workspace,
    folder: Workspace,
    release: str,
    catalog: str | Path | None,
    settings: DiscoverConfig,
) -> dict[str, Any]:
    """The manifest of what a folder holds now."""
    join = CatalogJoin(read_catalog(catalog)) if catalog is not None else None
    remove_leftovers(workspace, release)
    account = Account()
    extra: dict[str, Any] = {}

    def tables() -> Iterator[pa.Table]:
        published = published_ids(workspace, release, folder.absolute_uri())
        try:
            yield from map(manifest_rows, detections(folder, release, scratch, account, published))
        finally:
            account.report()
        extra.update(account.summary())
        _write_set_aside(workspace, release, account)

    with scratch_folder(workspace, release) as scratch:
        source = folder.absolute_uri()
        return write_manifest(
            workspace, release, tables(), settings.part_rows, source, join=join, extra=extra
        )


def _write_set_aside(workspace: Workspace, release: str, account: Account) -> None:
    """Publish the list of what a folder holds that is no detection but could have been one."""
    name = set_aside_name(release)
    if entries := account.entries():
        workspace.write_json(name, [entry._asdict() for entry in entries])
        log.warning("%s lists all that is set aside", workspace.absolute_uri(name))
    else:
        workspace.delete(name)


def _survey_release(folder: Workspace, asked: str | None) -> str | None:
    """The release asked for, else that of the simulated survey in a folder, None without a survey.

    Raises UsageError where the survey is not complete, for detections are missing then, and so is
    the truth; and where no release is asked for and the file says none.
    """
    if not folder.exists(_SURVEY):
        return asked
    where = folder.absolute_uri(_SURVEY)
    try:
        survey = folder.read_json(_SURVEY)
        release, is_complete = str(survey["release"]), survey.get("complete", True)
    except (RaypipeError, LookupError, TypeError, AttributeError) as error:
        if asked is not None:
            return asked
        raise UsageError(
            f"{where}: not a survey's description ({error}); simulate the survey again or give "
            "--release"
        ) from error
    if not is_complete:
        raise UsageError(
            f"{where}: the survey there is not complete; run raypipe simulate again with the same "
            "arguments"
        )
    return asked or release
