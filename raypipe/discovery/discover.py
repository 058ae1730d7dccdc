"""discover: from a folder, a bucket or the archive to a manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from raypipe.config import Config, as_config
from raypipe.discovery.archive import is_release_name
from raypipe.discovery.archive_pages import archive_detections
from raypipe.discovery.catalog_columns import join_catalog, read_catalog
from raypipe.discovery.listing import Detection, csc_detections, is_csc_name, looks_like_pha
from raypipe.discovery.manifest import write_manifest
from raypipe.discovery.own_files import own_detections
from raypipe.errors import UsageError
from raypipe.runs import record_run
from raypipe.workspace import Workspace, check_name

log = logging.getLogger(__name__)

_COLUMN_TYPES = {
    "detection_id": "string",
    "obsid": "Int64",
    "obi": "Int64",
    "region_id": "Int64",
    "name": "string",
    "ra": "float64",
    "dec": "float64",
    "pha_uri": "string",
    "arf_uri": "string",
    "rmf_uri": "string",
    "background_uri": "string",
    "files_stamp": "string",
}


def discover(
    workspace: str | Path | Workspace,
    *,
    source: str,
    where: str | None = None,
    catalog: str | Path | None = None,
    release: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """List a source's detections into the manifest of a release and return its summary.

    `source` is a folder or s3:// prefix, searched with all its subfolders, or the name of a release
    of the archive (csc2.1), of which `where`, an ADQL condition, may choose a part; `catalog` is a
    table whose columns and class labels are joined to the detections. The manifest is that of
    `release`; by default a simulated survey and a release of the archive name theirs themselves,
    other folders are taken for `discover.release` of the configuration. Raises UsageError where
    there are no spectra, ServiceError where the archive fails: the same call goes on from there.
    """
    settings = as_config(config)
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    with record_run(workspace, "discover", settings) as figures:
        if is_release_name(source):
            release = check_name(release or source, "release")
            rows, origin = archive_detections(workspace, source, release, where, settings.discover)
        elif where is not None:
            raise UsageError(
                f"--where chooses from a release of the archive (csc2.1), not {source}"
            )
        else:
            folder = Workspace(source)
            if not folder.exists(""):
                raise UsageError(f"{folder.uri}: no such folder")
            stamps = folder.all_files()
            release = release or _survey_release(folder, stamps) or settings.discover.release
            check_name(release, "release")
            rows, origin = _listed_detections(folder, stamps, release), folder.absolute_uri()
        columns = dict.fromkeys([*_COLUMN_TYPES, *rows.columns])
        rows = rows.reindex(columns=list(columns)).astype(_COLUMN_TYPES)
        if catalog is not None:
            rows = join_catalog(rows, read_catalog(catalog)).astype(_COLUMN_TYPES)
        summary = write_manifest(workspace, release, rows, settings.discover.part_rows, origin)
        figures.update(summary)
    log.info("discover: %d detections of %s in %s", len(rows), release, source)
    return summary


def _listed_detections(folder: Workspace, stamps: dict[str, str], release: str) -> pd.DataFrame:
    """Detections among a folder's files, whose sizes and times are `stamps`."""
    files = sorted(stamps)
    candidates = [name for name in files if not is_csc_name(name) and looks_like_pha(name)]
    uris = [folder.absolute_uri(name) for name in files]
    detections = [
        *csc_detections(uris, release),
        *own_detections(folder, candidates, set(files)),
    ]
    if not detections:
        raise UsageError(
            f"{folder.uri}: no spectra there (CSC names, .pi or .pha files) "
            f"among {len(files)} files"
        )
    rows = pd.DataFrame([asdict(detection) for detection in detections])
    rows["files_stamp"] = [_stamp(detection, folder, stamps) for detection in detections]
    return rows


def _stamp(detection: Detection, folder: Workspace, stamps: dict[str, str]) -> str:
    """Sizes and times of a detection's files: another stamp, and it is ingested again."""
    uris = detection.pha_uri, detection.arf_uri, detection.rmf_uri, detection.background_uri
    root = f"{folder.absolute_uri()}/"
    return " ".join(stamps.get(uri.removeprefix(root), "") if uri else "" for uri in uris)


def _survey_release(folder: Workspace, files: Collection[str]) -> str | None:
    if "survey.json" not in files:
        return None
    try:
        return str(folder.read_json("survey.json")["release"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise UsageError(
            f"{folder.absolute_uri('survey.json')}: not a survey's description ({error}); "
            "simulate the survey again or give --release"
        ) from error
