"""Spectra outside the CSC: their companions by what their headers name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import pyarrow as pa

from raypipe.config import IngestConfig
from raypipe.discovery.columns import OWN_TYPES
from raypipe.discovery.files import list_files
from raypipe.discovery.listing import stem
from raypipe.errors import OgipError, RaypipeError
from raypipe.ogip import read_pha
from raypipe.workspace import Workspace

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
_MOST_BYTES = IngestConfig().max_file_mb << 20
"""Size of a file above which it is not opened: ingestion refuses it anyway, unless told."""


@dataclass
class Detection:
    """A spectrum outside the CSC, and its files' sizes and times."""

    detection_id: str
    pha_uri: str
    arf_uri: str | None
    rmf_uri: str | None
    background_uri: str | None
    files_stamp: str


_COLUMNS = pa.schema({field.name: OWN_TYPES[field.name] for field in fields(Detection)})


class _Companions(NamedTuple):
    """Files that a spectrum's header names, None where it does not."""

    arf: str | None = None
    rmf: str | None = None
    background: str | None = None


def own_detections(folder: Workspace, candidates: Mapping[str, str]) -> Iterator[pa.Table]:
    """Detections among spectra with names of their own, background spectra left out, in tables.

    `candidates` are names relative to `folder`, each with the file's stamp. ARF, RMF and background
    are those the header names, beside the spectrum, with or without .gz. A file that cannot be
    read stays in, for ingestion to say why.
    """
    named = {name: _companions(folder, name, candidates[name]) for name in sorted(candidates)}
    stamps = {**candidates, **_stamps(folder, named)}
    found = {}
    backgrounds = set()
    for name, companions in named.items():
        arf, rmf, background = (_beside(name, companion, stamps) for companion in companions)
        files = [name, arf, rmf, background if background != name else None]
        backgrounds.add(files[-1])
        found[name] = _detection(folder, files, stamps)
    kept = [detection for name, detection in found.items() if name not in backgrounds]
    rows = [vars(detection) for detection in _with_unique_ids(kept, folder)]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield pa.Table.from_pylist(rows[start : start + _ROWS_AT_ONCE], _COLUMNS)


def _detection(
    folder: Workspace, files: Sequence[str | None], stamps: Mapping[str, str]
) -> Detection:
    """A detection of these files: PHA, ARF, RMF, background."""
    pha, arf, rmf, background = (folder.absolute_uri(file) if file else None for file in files)
    return Detection(
        detection_id=f"file:{stem(pha or '')}",
        pha_uri=pha or "",
        arf_uri=arf,
        rmf_uri=rmf,
        background_uri=background,
        files_stamp=" ".join(stamps[file] if file else "" for file in files),
    )


def _companions(folder: Workspace, name: str, stamp: str) -> _Companions:
    size = int(stamp.partition("@")[0])
    if size > _MOST_BYTES:
        log.warning("%s: kept for ingestion to reject (%d bytes)", name, size)
        return _Companions()
    try:
        pha = read_pha(folder.read_bytes(name), name=name)
    except (OgipError, RaypipeError) as error:
        log.warning("%s: kept for ingestion to reject (%s)", name, error)
        return _Companions()
    return _Companions(pha.ancrfile, pha.respfile, pha.backfile)


def _stamps(folder: Workspace, named: Mapping[str, _Companions]) -> dict[str, str]:
    """Of the files that are named, those that are there, with their stamps."""
    wanted = {
        spelling
        for name, companions in named.items()
        for companion in companions
        for spelling in _spellings(name, companion)
    }
    return {name: stamp for name, stamp in list_files(folder) if name in wanted} if wanted else {}


def _beside(name: str, companion: str | None, files: Container[str]) -> str | None:
    return next((file for file in _spellings(name, companion) if file in files), None)


def _spellings(name: str, companion: str | None) -> list[str]:
    """What a file that is named beside a spectrum may be called, the likeliest first."""
    if companion is None:
        return []
    parent = f"{name.rsplit('/', 1)[0]}/" if "/" in name else ""
    base = companion.rsplit("/", 1)[-1]
    return [parent + file for file in (base, f"{base}.gz", base.removesuffix(".gz"))]


def _with_unique_ids(detections: list[Detection], folder: Workspace) -> list[Detection]:
    """Files of one stem are told apart by their whole name, with the folder."""
    stems = Counter(detection.detection_id for detection in detections)
    root = f"{folder.absolute_uri()}/"
    for detection in detections:
        if stems[detection.detection_id] > 1:
            detection.detection_id = f"file:{detection.pha_uri.removeprefix(root)}"
    return detections
