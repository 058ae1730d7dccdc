"""One RMF a zone of each chip: chosen among a release's detections, then used for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.config import IngestConfig
from raypipe.discovery.manifest import read_manifest_summary
from raypipe.errors import OgipError
from raypipe.identity import hash_names, without_release
from raypipe.ingestion.chips import chip_of
from raypipe.ingestion.fetch import Fetcher
from raypipe.ingestion.fetch_error import FetchError
from raypipe.ingestion.responses import FOLDER, ResponseLibrary, redistribution_on_grid
from raypipe.model.grid import Grid
from raypipe.ogip import read_pha, read_rmf
from raypipe.workspace import Workspace, check_name, manifest_folder, part_name

_BATCH_ROWS = 64


@dataclass(frozen=True)
class ChipRmfs:
    """The `rmf_id` that stands for each zone of a chip."""

    rmf_ids: Mapping[str, str]

    def rmf_id(self, header: Mapping[str, Any]) -> str | None:
        """The RMF of the zone a detection fell on; None where there is none, or no telling."""
        chip = chip_of(header)
        return None if chip is None else self.rmf_ids.get(chip.zone)


def chip_rmfs_name(release: str) -> str:
    """Name of the file that says which RMF stands for each zone."""
    return f"{FOLDER}/chips/{check_name(release, 'release')}.json"


def load_chip_rmfs(workspace: Workspace, release: str) -> ChipRmfs:
    """The RMFs chosen for a release; none where they are not."""
    if not workspace.exists(chip_rmfs_name(release)):
        return ChipRmfs({})
    zones = workspace.read_json(chip_rmfs_name(release))["zones"]
    return ChipRmfs({zone: chosen["rmf_id"] for zone, chosen in zones.items()})


def choose_chip_rmfs(
    workspace: Workspace, release: str, config: IngestConfig, fetcher: Fetcher | None = None
) -> int:
    """Choose, store and publish an RMF for each zone; returns the number of zones.

    Looks at the PHAs of `config.chip_sample` detections in order of a hash of their ids, which is a
    random sample and the same one every time, and takes for each zone the RMF of the first
    detection there that has one to be read. What no detection of the sample fell on has none: such
    detections bring their own. Once published the choice stays, also for a larger manifest; where
    not one PHA can be fetched nothing is published. `fetcher`, where given, counts what that took.
    """
    fetcher, library = fetcher or Fetcher(config), ResponseLibrary(workspace)
    zones: dict[str, dict[str, str]] = {}
    fetched = 0
    sample = _sample(workspace, release, config.chip_sample)
    for rows in _batches(sample):
        phas = fetcher.fetch_many(row["pha_uri"] for row in rows)
        fetched += sum(not isinstance(pha, FetchError) for pha in phas.values())
        found = [(zone, row) for row in rows if (zone := _zone(phas[row["pha_uri"]]))]
        new = [(zone, row) for zone, row in found if zone not in zones]
        first = dict(reversed(new))
        rmfs = fetcher.fetch_many(row["rmf_uri"] for row in first.values())
        sizes = [len(rmf) for rmf in rmfs.values() if not isinstance(rmf, FetchError)]
        fetcher.traffic.add(rmfs=len(sizes), rmf_bytes=sum(sizes))
        for zone, row in first.items():
            rmf_id = _store(rmfs[row["rmf_uri"]], library, row["rmf_uri"])
            if rmf_id is not None:
                zones[zone] = {"rmf_id": rmf_id, "detection_id": row["detection_id"]}
    if sample and not fetched:
        return 0
    choice = {"release": release, "looked_at": len(sample), "zones": dict(sorted(zones.items()))}
    workspace.write_json(chip_rmfs_name(release), choice)
    return len(zones)


def _sample(workspace: Workspace, release: str, size: int) -> list[dict[str, Any]]:
    """Detections of the catalog that name a PHA and an RMF, in order of their hash."""
    parts = int(read_manifest_summary(workspace, release)["parts"])
    columns = ["detection_id", "obsid", "pha_uri", "rmf_uri"]
    rows: list[dict[str, Any]] = []
    for part in range(parts):
        table = workspace.read_table(part_name(manifest_folder(release), part), columns)
        rows += [
            row
            for row in table.to_pylist()
            if row["pha_uri"] and row["rmf_uri"] and row["obsid"] is not None
        ]
        if len(rows) >= size:
            break
    hashes = hash_names(without_release(row["detection_id"]) for row in rows)
    return [rows[i] for i in np.argsort(hashes, kind="stable")[:size]]


def _batches(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), _BATCH_ROWS):
        yield rows[start : start + _BATCH_ROWS]


def _zone(content: bytes | FetchError) -> str | None:
    if isinstance(content, FetchError):
        return None
    try:
        chip = chip_of(read_pha(content).header)
    except OgipError:
        return None
    return None if chip is None else chip.zone


def _store(content: bytes | FetchError, library: ResponseLibrary, uri: str) -> str | None:
    if isinstance(content, FetchError):
        return None
    try:
        return library.add(redistribution_on_grid(read_rmf(content), Grid(), uri))
    except OgipError:
        return None
