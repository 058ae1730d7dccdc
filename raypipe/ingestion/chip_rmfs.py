"""Choose one RMF per chip zone among a release's detections, to be used for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from raypipe.config import IngestConfig
from raypipe.http.errors import FetchError
from raypipe.identity import hash_names, is_own_file, without_release
from raypipe.ingestion.chips import chip_of
from raypipe.ingestion.fetch import Fetcher
from raypipe.ogip import read_pha, read_rmf
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import (
    GriddedResponse,
    efficiency_on_grid,
    in_broad_band,
    put_rmf_on_grid,
)
from raypipe.spectra.responses import ResponseLibrary, chip_rmfs_name
from raypipe.store.layout import manifest_folder, part_name
from raypipe.store.manifest import read_manifest_summary
from raypipe.store.workspace import Workspace

T = TypeVar("T")

MOST_LOSS = 0.1
"""Largest deviation from 1 of row sums of an RMF for a zone; those of the CSC are within 0.01."""

MOST_ASTRAY = 0.1
"""Largest difference between the redistribution of an RMF and the zone's median, as a share of the
median: detections of one zone differ by 0.00-0.03, those of other chips by 0.1-0.3."""

_BATCH_ROWS = 64
_BATCH_RMFS = 16
_MOST_TRIES = 4
"""RMFs of a zone that are fetched at most, as a multiple of the candidates wanted."""


@dataclass(frozen=True)
class ChipRmfs:
    """Map each chip zone to the `rmf_id` of the RMF that its detections share."""

    rmf_ids: Mapping[str, str]

    def rmf_id(self, header: Mapping[str, Any]) -> str | None:
        """Return the `rmf_id` for the zone of a detection; None if zone or RMF is unknown."""
        chip = chip_of(header)
        return None if chip is None else self.rmf_ids.get(chip.zone)

    def to_json(self) -> str:
        """Return the choice as text, which is the same for equal choices."""
        return json.dumps(self.rmf_ids, sort_keys=True)

    def keeps(self, rmf_id: str, earlier: Mapping[str, str]) -> bool:
        """Tell whether a spectrum made with `rmf_id` under an earlier choice is still valid.

        It is not if the RMF was chosen for a zone and no longer is, nor if it is the detection's
        own and there are now RMFs for zones that had none.
        """
        if rmf_id in earlier.values():
            zones = [zone for zone, chosen in earlier.items() if chosen == rmf_id]
            return all(self.rmf_ids.get(zone) == rmf_id for zone in zones)
        return self.rmf_ids.keys() <= earlier.keys()


@dataclass(frozen=True)
class _Candidate:
    """Hold an RMF that may be chosen for a zone, and the detection that it belongs to."""

    detection_id: str
    rmf: GriddedResponse


def load_chip_rmfs(workspace: Workspace, release: str) -> ChipRmfs:
    """Load the RMFs chosen for a release; return an empty choice if none was made."""
    if not workspace.exists(chip_rmfs_name(release)):
        return ChipRmfs({})
    name = chip_rmfs_name(release)
    zones = workspace.read_object(name, {"zones": dict})["zones"]
    try:
        return ChipRmfs({zone: chosen["rmf_id"] for zone, chosen in zones.items()})
    except (KeyError, TypeError) as error:
        raise workspace.unexpected(name, "a zone is without its RMF") from error


def chip_rmfs_for(workspace: Workspace, release: str, config: IngestConfig) -> ChipRmfs:
    """Return the RMFs of the zones if `ingest.rmf` is "chip", else an empty choice."""
    return load_chip_rmfs(workspace, release) if config.rmf == "chip" else ChipRmfs({})


def choose_chip_rmfs(
    workspace: Workspace, release: str, config: IngestConfig, fetcher: Fetcher | None = None
) -> int:
    """Choose, store and publish an RMF for each zone; return the number of zones.

    Look at the PHAs of `config.chip_sample` detections in order of a hash of their ids, which is a
    random sample and the same one every time. The candidates of a zone are the first
    `config.chip_candidates` RMFs of its detections that can be read, hold probabilities, sum to 1
    within `MOST_LOSS` all over the band, and include no effective area. The first candidate within
    `MOST_ASTRAY` of their median is chosen. A zone without candidates, or whose candidates
    disagree, has no RMF: its detections use their own. If not a single PHA can be fetched, nothing
    is published, and an earlier choice stays. `fetcher`, if given, counts the traffic.
    """
    fetcher, library = fetcher or Fetcher(config), ResponseLibrary(workspace)
    sample = _sample(workspace, release, config.chip_sample)
    by_zone, fetched = _by_zone(sample, fetcher)
    if sample and not fetched:
        return 0
    zones: dict[str, dict[str, Any]] = {}
    for zone, rivals in _candidates(by_zone, config.chip_candidates, fetcher).items():
        if (chosen := _first_typical(rivals)) is not None:
            rmf_id = library.add(chosen.rmf)
            zones[zone] = {
                "rmf_id": rmf_id,
                "detection_id": chosen.detection_id,
                "candidates": len(rivals),
            }
    choice = {"release": release, "looked_at": len(sample), "zones": dict(sorted(zones.items()))}
    workspace.write_json(chip_rmfs_name(release), choice)
    return len(zones)


def _sample(workspace: Workspace, release: str, size: int) -> list[dict[str, Any]]:
    """Return the rows of the catalog's detections with PHA and RMF, in order of their hash."""
    parts = int(read_manifest_summary(workspace, release)["parts"])
    columns = ["detection_id", "pha_uri", "rmf_uri"]
    rows: list[dict[str, Any]] = []
    for part in range(parts):
        table = workspace.read_table(part_name(manifest_folder(release), part), columns)
        rows += [
            row
            for row in table.to_pylist()
            if row["pha_uri"] and row["rmf_uri"] and not is_own_file(row["detection_id"])
        ]
        if len(rows) >= size:
            break
    hashes = hash_names(without_release(row["detection_id"]) for row in rows)
    return [rows[i] for i in np.argsort(hashes, kind="stable")[:size]]


def _by_zone(
    sample: Sequence[dict[str, Any]], fetcher: Fetcher
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Group the sample's rows by chip zone, in order, and count the PHAs that were fetched."""
    by_zone: dict[str, list[dict[str, Any]]] = {}
    fetched = 0
    for rows in _batches(sample, _BATCH_ROWS):
        phas = fetcher.fetch_many(row["pha_uri"] for row in rows)
        fetched += sum(not isinstance(pha, FetchError) for pha in phas.values())
        for row in rows:
            if (zone := _zone(phas[row["pha_uri"]])) is not None:
                by_zone.setdefault(zone, []).append(row)
    return by_zone, fetched


def _candidates(
    by_zone: Mapping[str, list[dict[str, Any]]], wanted: int, fetcher: Fetcher
) -> dict[str, list[_Candidate]]:
    """Fetch RMFs of each zone until `wanted` of them pass the checks, or its rows are used up."""
    found: dict[str, list[_Candidate]] = {zone: [] for zone in by_zone}
    left = {zone: iter(rows[: _MOST_TRIES * wanted]) for zone, rows in by_zone.items()}
    while batch := [
        (zone, row) for zone, rows in left.items() for row in _next(rows, wanted - len(found[zone]))
    ]:
        for some in _batches(batch, _BATCH_RMFS):
            rmfs = fetcher.fetch_many(row["rmf_uri"] for _, row in some)
            sizes = [len(rmf) for rmf in rmfs.values() if not isinstance(rmf, FetchError)]
            fetcher.traffic.add(rmfs=len(sizes), rmf_bytes=sum(sizes))
            for zone, row in some:
                if (rmf := _clean_rmf(rmfs[row["rmf_uri"]])) is not None:
                    found[zone].append(_Candidate(row["detection_id"], rmf))
    return found


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _next(rows: Iterator[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    return [row for _, row in zip(range(number), rows, strict=False)]


def _zone(content: bytes | FetchError) -> str | None:
    """Return the zone that a PHA's header implies; None if there is none or reading fails."""
    if isinstance(content, FetchError):
        return None
    try:
        chip = chip_of(read_pha(content).header)
    except Exception:
        return None
    return None if chip is None else chip.zone


def _clean_rmf(content: bytes | FetchError) -> GriddedResponse | None:
    """Read an RMF and put it on the grid; return None if it fails a check or cannot be read.

    If a detection has to use this RMF itself, its reject says what is wrong with it.
    """
    if isinstance(content, FetchError):
        return None
    grid = EnergyGrid()
    try:
        native = read_rmf(content)
        rmf = put_rmf_on_grid(native, grid, "")
        loss = np.abs(in_broad_band(efficiency_on_grid(native, grid), grid) - 1.0)
    except Exception:
        return None
    is_fit = rmf.bins.is_acis and not native.includes_area and loss.max() <= MOST_LOSS
    return rmf if is_fit else None


def _first_typical(rivals: Sequence[_Candidate]) -> _Candidate | None:
    """Return the first candidate that is close to the median of all, None if there is none."""
    if not rivals:
        return None
    median = np.median([each.rmf.redistribution for each in rivals], axis=0)
    for each in rivals:
        astray = np.abs(each.rmf.redistribution - median).sum() / median.sum()
        if astray <= MOST_ASTRAY:
            return each
    return None
