"""One RMF a zone of a chip: fetched once, the right one, and the same one every time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.discovery.manifest import write_manifest
from raypipe.ingestion.chip_rmfs import choose_chip_rmfs, load_chip_rmfs
from raypipe.ingestion.ingest import ingest
from raypipe.ingestion.part import ingest_part
from raypipe.ingestion.progress import is_done
from raypipe.spectra.responses import chip_rmfs_name
from raypipe.spectra.schema import CHIP_RMFS
from raypipe.store.layout import part_name, spectra_folder
from raypipe.store.workspace import Workspace
from tests.pipeline import file_server
from tests.pipeline.fetching import DETECTIONS, RELEASE, config_of, ingest_all, spectra_of
from tests.pipeline.file_server import FileServer, write_remote_manifest

CHIPS = {"discover": {"part_rows": 40}, "ingest": {"rmf": "chip"}}
EXACT = {"discover": {"part_rows": 40}, "ingest": {"rmf": "exact"}}


@pytest.mark.usefixtures("local_ray")
def test_the_library_gives_what_each_detection_brings(survey: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    discover(workspace, source=str(survey), config=CHIPS)
    ingest(workspace, config=CHIPS)
    by_chip = workspace.read_folder("spectra/sim")
    zones = workspace.read_json(chip_rmfs_name("sim"))["zones"]
    assert {zone["rmf_id"] for zone in zones.values()} == set(by_chip["rmf_id"].to_pylist())
    assert ingest(workspace, config=EXACT)["spectra"] == by_chip.num_rows
    assert workspace.read_folder("spectra/sim").equals(by_chip)


@pytest.mark.parametrize("packages", [False, True])
def test_a_few_rmfs_of_each_zone_are_fetched(
    packages: bool, server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server, packages=packages)
    config = config_of(server, rmf="chip")
    zones = choose_chip_rmfs(workspace, RELEASE, config)
    assert 1 < zones < DETECTIONS
    looked_at = server.count("rmf")
    ingest_all(workspace, config)
    assert server.count("rmf") == looked_at
    if not packages:
        assert zones < looked_at <= min(config.chip_candidates * zones, DETECTIONS)


def test_one_candidate_of_each_zone_is_fetched_where_one_is_asked_for(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    zones = choose_chip_rmfs(workspace, RELEASE, config_of(server, rmf="chip", chip_candidates=1))
    assert server.count("rmf") == zones


def test_the_choice_is_the_same_every_time_and_stays(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    config = config_of(server, rmf="chip")
    choices = []
    for name in "ab":
        workspace = Workspace(tmp_path / name)
        write_remote_manifest(workspace, served, server)
        choose_chip_rmfs(workspace, RELEASE, config)
        choices.append(workspace.read_json(chip_rmfs_name(RELEASE)))
    assert choices[0] == choices[1]


def test_spectra_outside_the_catalog_use_their_own_rmf(shared_data: Path, tmp_path: Path) -> None:
    """3C 186 (9774) and M31's binary (1575) are both on chip S3, and both headers name an obsid."""
    files = tmp_path / "files"
    files.mkdir()
    for pattern in "csc/acisf01575*", "ciao/9774*":
        for path in shared_data.glob(pattern):
            shutil.copy(path, files)
    workspace, config = Workspace(tmp_path / "w"), IngestConfig(rmf="chip")
    discover(workspace, source=str(files), release="mine")
    assert choose_chip_rmfs(workspace, "mine", config) == 1
    assert load_chip_rmfs(workspace, "mine").rmf_ids.keys() == {"7"}
    ingest_part(workspace, "mine", 0, config)
    spectra = workspace.read_folder("spectra/mine").to_pandas().set_index("detection_id")
    assert spectra["obsid"].to_dict() == {"file:9774": 9774, "mine:1575.1.85": 1575}
    assert spectra["rmf_id"].nunique() == 2


def test_zones_without_a_choice_bring_their_own(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    config = config_of(server, rmf="chip", chip_sample=1)
    assert choose_chip_rmfs(workspace, RELEASE, config) == 1
    assert ingest_all(workspace, config).spectra == DETECTIONS
    assert len(set(spectra_of(workspace)["rmf_id"].to_pylist())) > 1


def test_an_unreachable_archive_leaves_no_choice(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    config = config_of(server, rmf="chip")
    server.fail(file_server.status(503))
    assert choose_chip_rmfs(workspace, RELEASE, config) == 0
    assert not workspace.exists(chip_rmfs_name(RELEASE))
    assert load_chip_rmfs(workspace, RELEASE).rmf_ids == {}


def test_broken_rmfs_are_not_chosen(server: FileServer, served: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    config = config_of(server, rmf="chip")
    choose_chip_rmfs(workspace, RELEASE, config)
    first = workspace.read_json(chip_rmfs_name(RELEASE))["zones"]
    key, chosen = next(iter(first.items()))
    obsid = int(chosen["detection_id"].split(":")[1].split(".")[0])
    server.fail(file_server.page("not a matrix"), f"{obsid:05d}_000N001_r0001_rmf3")
    choose_chip_rmfs(workspace, RELEASE, config)
    second = workspace.read_json(chip_rmfs_name(RELEASE))["zones"]
    assert second.get(key, {}).get("detection_id") != chosen["detection_id"]
    assert {k: v for k, v in second.items() if k != key} == {
        k: v for k, v in first.items() if k != key
    }


def test_a_detection_without_rmf_takes_its_chips(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server)
    config = config_of(server, rmf="chip")
    choose_chip_rmfs(workspace, RELEASE, config)
    without = rows.assign(rmf_uri=pd.Series([None] * len(rows), dtype="string"))
    table = pa.Table.from_pandas(without, preserve_index=False)
    write_manifest(workspace, RELEASE, [table], 1000, server.url)
    assert ingest_part(workspace, RELEASE, 0, config).rejects == 0
    exact = config_of(server, rmf="exact")
    assert not is_done(workspace, RELEASE, 0, exact)
    assert ingest_part(workspace, RELEASE, 0, exact).rejects == DETECTIONS


def test_parts_that_do_not_say_their_rmfs_are_read_again(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    """Those of versions that did not check numbers."""
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    config = config_of(server)
    ingest_all(workspace, config)
    name = part_name(spectra_folder(RELEASE), 0)
    metadata = workspace.read_metadata(name)
    table = workspace.read_table(name).replace_schema_metadata(None)
    workspace.write_table(name, table, {k: v for k, v in metadata.items() if k != CHIP_RMFS})
    assert not is_done(workspace, RELEASE, 0, config)
    assert ingest_all(workspace, config).kept == 0
    assert ingest_all(workspace, config).kept == DETECTIONS
