"""discover: from a folder or bucket to a manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.fs as pafs

from raypipe.config import Config, as_config
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
    catalog: str | Path | None = None,
    release: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """List a source's detections into the manifest of a release and return its summary.

    `source` is a folder or s3:// prefix, searched with all its subfolders; `catalog` a table
    whose columns and class labels are joined to the detections. A simulated survey names its
    release itself; other folders are taken for `release` or `discover.release` of the
    configuration. Raises UsageError where there are no spectra.
    """
    settings = as_config(config)
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    folder = Workspace(source)
    stamps = _all_files(folder)
    files = sorted(stamps)
    release = release or _survey_release(folder, files) or settings.discover.release
    check_name(release, "release")
    candidates = [name for name in files if not is_csc_name(name) and looks_like_pha(name)]
    uris = [folder.absolute_uri(name) for name in files]
    detections = [
        *csc_detections(uris, release),
        *own_detections(folder, candidates, set(files)),
    ]
    if not detections:
        raise UsageError(
            f"{source}: no spectra there (CSC names, .pi or .pha files) among {len(files)} files"
        )
    rows = pd.DataFrame([asdict(detection) for detection in detections])
    rows["files_stamp"] = [_stamp(detection, folder, stamps) for detection in detections]
    rows = rows.reindex(columns=list(_COLUMN_TYPES)).astype(_COLUMN_TYPES)
    if catalog is not None:
        rows = join_catalog(rows, read_catalog(catalog)).astype(_COLUMN_TYPES)
    with record_run(workspace, "discover", settings) as figures:
        summary = write_manifest(
            workspace, release, rows, settings.discover.part_rows, folder.absolute_uri()
        )
        figures.update(summary)
    log.info("discover: %d detections of %s in %s", len(rows), release, source)
    return summary


def _all_files(folder: Workspace) -> dict[str, str]:
    """Names of all files in a folder, with size and time of each."""
    if not folder.exists(""):
        raise UsageError(f"{folder.uri}: no such folder")
    selector = pafs.FileSelector(folder.root, recursive=True)
    return {
        info.path.removeprefix(folder.root).lstrip("/"): f"{info.size}@{info.mtime_ns}"
        for info in folder.fs.get_file_info(selector)
        if info.type == pafs.FileType.File and not info.base_name.startswith(".")
    }


def _stamp(detection: Detection, folder: Workspace, stamps: dict[str, str]) -> str:
    """Sizes and times of a detection's files: another stamp, and it is ingested again."""
    uris = detection.pha_uri, detection.arf_uri, detection.rmf_uri, detection.background_uri
    root = f"{folder.absolute_uri()}/"
    return " ".join(stamps.get(uri.removeprefix(root), "") if uri else "" for uri in uris)


def _survey_release(folder: Workspace, files: list[str]) -> str | None:
    if "survey.json" not in files:
        return None
    try:
        return str(folder.read_json("survey.json")["release"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise UsageError(
            f"{folder.absolute_uri('survey.json')}: not a survey's description ({error}); "
            "simulate the survey again or give --release"
        ) from error
