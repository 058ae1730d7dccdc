"""Spectra outside the CSC: their companions by what their headers name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from raypipe.discovery.listing import Detection, stem
from raypipe.errors import OgipError, RaypipeError
from raypipe.ogip import read_pha
from raypipe.workspace import Workspace

log = logging.getLogger(__name__)


def own_detections(
    folder: Workspace, candidates: Sequence[str], files: set[str]
) -> list[Detection]:
    """Detections among spectra with names of their own, background spectra left out.

    `candidates` and `files` are names relative to `folder`; `files` are all that are there. ARF,
    RMF and background are those the header names, beside the spectrum, with or without .gz. A
    file that cannot be read stays in, for ingestion to say why.
    """
    found: dict[str, Detection] = {}
    backgrounds: set[str] = set()
    for name in candidates:
        detection = Detection(f"file:{stem(name)}", None, None, None, folder.absolute_uri(name))
        found[name] = detection
        try:
            pha = read_pha(folder.read_bytes(name), name=name)
        except (OgipError, RaypipeError) as error:
            log.warning("%s: kept for ingestion to reject (%s)", name, error)
            continue
        arf = _beside(name, pha.ancrfile, files)
        rmf = _beside(name, pha.respfile, files)
        detection.arf_uri = folder.absolute_uri(arf) if arf else None
        detection.rmf_uri = folder.absolute_uri(rmf) if rmf else None
        background = _beside(name, pha.backfile, files)
        if background and background != name:
            detection.background_uri = folder.absolute_uri(background)
            backgrounds.add(background)
    kept = [found[name] for name in candidates if name not in backgrounds]
    return _with_unique_ids(kept, folder)


def _beside(name: str, companion: str | None, files: set[str]) -> str | None:
    if companion is None:
        return None
    parent = f"{name.rsplit('/', 1)[0]}/" if "/" in name else ""
    base = companion.rsplit("/", 1)[-1]
    for spelling in (base, f"{base}.gz", base.removesuffix(".gz")):
        if parent + spelling in files:
            return parent + spelling
    return None


def _with_unique_ids(detections: list[Detection], folder: Workspace) -> list[Detection]:
    """Files of one stem are told apart by their whole name, with the folder."""
    stems = Counter(detection.detection_id for detection in detections)
    root = f"{folder.absolute_uri()}/"
    for detection in detections:
        if stems[detection.detection_id] > 1:
            detection.detection_id = f"file:{detection.pha_uri.removeprefix(root)}"
    return detections
