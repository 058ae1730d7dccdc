"""RMFs that spoil what is folded through them stand for no zone, and a choice can be made again."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.ingestion.chip_rmfs import choose_chip_rmfs, load_chip_rmfs
from raypipe.ingestion.ingest import ingest
from raypipe.ingestion.part import ingest_part
from raypipe.simulation.simulate import simulate
from raypipe.spectra.redistribution import GriddedResponse
from raypipe.spectra.responses import ResponseLibrary, chip_rmfs_name
from raypipe.store.workspace import Workspace

DETECTIONS = 24
CONFIG = IngestConfig()
Rows = list[np.ndarray]
Zones = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    simulate(folder, detections=DETECTIONS, seed=11)
    return folder


@pytest.fixture
def files(clean: Path, tmp_path: Path) -> Path:
    shutil.copytree(clean, tmp_path / "files")
    return tmp_path / "files"


def choose(files: Path) -> tuple[Workspace, Zones]:
    workspace = Workspace(files.parent / "w")
    discover(workspace, source=str(files), config={"discover": {"part_rows": 1000}})
    choose_chip_rmfs(workspace, "sim", CONFIG)
    zones: Zones = workspace.read_json(chip_rmfs_name("sim"))["zones"]
    return workspace, zones


def compared(zones: Zones) -> Zones:
    """The zones whose candidates can outvote one of them."""
    found = {zone: chosen for zone, chosen in zones.items() if chosen["candidates"] >= 3}
    assert len(found) > 1
    return found


def rmf_of(files: Path, detection_id: str) -> Path:
    obsid = int(detection_id.split(":")[1].split(".")[0])
    (path,) = files.glob(f"acisf{obsid:05d}_*_rmf3.fits.gz")
    return path


def spoil(path: Path, change: Callable[[Rows], Rows]) -> None:
    spoilt = path.with_name("spoilt.gz")
    with fits.open(path) as hdus:
        (table,) = (hdu for hdu in hdus[1:] if "MATRIX" in hdu.columns.names)
        column = table.data["MATRIX"]
        for row, values in enumerate(change([np.array(each) for each in column])):
            column[row] = values.astype(np.float32)
        hdus.writeto(spoilt)
    spoilt.replace(path)


def negative(rows: Rows) -> Rows:
    return [-row for row in rows]


def one_negative_value(rows: Rows) -> Rows:
    return [np.where(np.arange(len(row)) == 0, -0.1, row) for row in rows]


def zero(rows: Rows) -> Rows:
    return [0 * row for row in rows]


def not_finite(rows: Rows) -> Rows:
    return [np.nan * row for row in rows]


def half(rows: Rows) -> Rows:
    return [0.5 * row for row in rows]


def areas(rows: Rows) -> Rows:
    return [400 * row for row in rows]


def nothing_below_2_kev(rows: Rows) -> Rows:
    first = len(rows) * 17 // 90
    return [0 * row if number < first else row for number, row in enumerate(rows)]


def turned_round(rows: Rows) -> Rows:
    """Each row's values in the reverse order: probabilities still, but in other channels."""
    return [np.roll(row, len(row) // 2) for row in rows]


SPOILT = [
    negative,
    one_negative_value,
    zero,
    not_finite,
    half,
    areas,
    nothing_below_2_kev,
    turned_round,
]


@pytest.mark.parametrize("change", SPOILT)
def test_a_spoilt_rmf_does_not_stand_for_its_zone(
    files: Path, change: Callable[[Rows], Rows]
) -> None:
    _, zones = choose(files)
    before = compared(zones)
    for chosen in before.values():
        spoil(rmf_of(files, chosen["detection_id"]), change)
    shutil.rmtree(files.parent / "w")
    _, after = choose(files)
    for zone in before:
        assert after[zone]["rmf_id"] == before[zone]["rmf_id"]
        assert after[zone]["detection_id"] != before[zone]["detection_id"]


def test_a_zone_whose_candidates_are_all_spoilt_has_none(files: Path) -> None:
    for path in files.glob("*_rmf3.fits.gz"):
        spoil(path, negative)
    workspace, zones = choose(files)
    assert zones == {}
    assert ingest_part(workspace, "sim", 0, CONFIG).rejects == DETECTIONS
    rejects = workspace.read_folder("rejects/sim").to_pandas()
    assert rejects.uri.str.endswith("_rmf3.fits.gz").all()
    assert rejects.reason.str.contains("negative probabilities: make it again").all()


def test_candidates_that_disagree_leave_the_zone_without(files: Path) -> None:
    """Of two matrices, nobody can tell which one is right."""
    workspace, before = choose(files)
    zone = min(compared(before))
    spoil(rmf_of(files, before[zone]["detection_id"]), turned_round)
    shutil.rmtree(workspace.uri)
    discover(workspace, source=str(files), config={"discover": {"part_rows": 1000}})
    choose_chip_rmfs(workspace, "sim", CONFIG.model_copy(update={"chip_candidates": 2}))
    after = load_chip_rmfs(workspace, "sim").rmf_ids
    assert zone not in after
    assert len(after) == len(before) - 1


@pytest.mark.parametrize("error", [MemoryError(), ValueError("4300 digits"), RecursionError()])
@pytest.mark.parametrize(
    "reader", ["chip_rmfs.read_pha", "chip_rmfs.read_rmf", "fetch.read_stored"]
)
def test_a_file_that_raises_anything_does_not_end_the_choice(
    files: Path, monkeypatch: pytest.MonkeyPatch, reader: str, error: Exception
) -> None:
    """The first file of each kind raises."""
    module, _, name = reader.partition(".")
    whole = getattr(importlib.import_module(f"raypipe.ingestion.{module}"), name)
    failures = [error]

    def fail_once(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return whole(*args, **options)

    monkeypatch.setattr(f"raypipe.ingestion.{reader}", fail_once)
    _, zones = choose(files)
    assert not failures
    assert len(zones) > 1


@pytest.mark.usefixtures("local_ray")
def test_a_spoilt_choice_is_made_again_and_what_used_it_is_ingested_again(files: Path) -> None:
    workspace, zones = choose(files)
    config = {"discover": {"part_rows": 1000}}
    ingest(workspace, config=config)
    right = workspace.read_folder("spectra/sim")
    library = ResponseLibrary(workspace)
    zone = max(zones, key=lambda each: right["rmf_id"].to_pylist().count(zones[each]["rmf_id"]))
    sound = library.load(zones[zone]["rmf_id"])
    negative = np.where(sound.redistribution > 0, -sound.redistribution, 0)
    spoilt = library.add(GriddedResponse(negative, sound.bins))
    wrong = {"zones": zones | {zone: zones[zone] | {"rmf_id": spoilt}}}
    workspace.write_json(chip_rmfs_name("sim"), wrong)
    ingest(workspace, config=config)
    table = workspace.read_folder("spectra/sim").to_pandas()
    used = table.rmf_id == spoilt
    assert 0 < used.sum() < DETECTIONS

    ingest(workspace, config=config)
    assert workspace.read_folder("spectra/sim").to_pandas().rmf_id.equals(table.rmf_id)

    ingest(workspace, config=config | {"ingest": {"choose_rmfs_again": True}})
    assert workspace.read_folder("spectra/sim").equals(right)
    mended = right.to_pandas()
    assert (mended.content_sha256 != table.content_sha256).equals(used)
    stamp = workspace.modified(workspace.files("spectra/sim")[0])
    ingest(workspace, config=config)
    assert workspace.modified(workspace.files("spectra/sim")[0]) == stamp


def test_without_the_response_of_a_zone_its_detections_are_rejects_that_say_so(
    files: Path,
) -> None:
    workspace, zones = choose(files)
    config = {"discover": {"part_rows": 1000}}
    gone = next(iter(zones.values()))["rmf_id"]
    workspace.delete(f"responses/{gone}.parquet")
    totals = ingest(workspace, config=config)
    assert 0 < totals["rejects"] < DETECTIONS
    rejects = workspace.read_folder("rejects/sim").to_pandas()
    assert rejects["retryable"].all()
    assert rejects["reason"].str.contains(f"{gone}.parquet: this redistribution is missing").all()
    assert rejects["reason"].str.endswith("choose_rmfs_again=true with it").all()
    again = ingest(workspace, config=config | {"ingest": {"choose_rmfs_again": True}})
    assert again["rejects"] == 0
