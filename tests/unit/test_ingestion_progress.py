"""Which parts are done, by what the footers of their files say."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.config import IngestConfig
from raypipe.discovery.columns import manifest_rows
from raypipe.discovery.manifest import write_manifest
from raypipe.errors import RaypipeError
from raypipe.ingestion.chip_rmfs import ChipRmfs
from raypipe.ingestion.progress import is_done, parts_to_ingest
from raypipe.spectra.responses import chip_rmfs_name
from raypipe.spectra.schema import CHIP_RMFS, DUPLICATE, FORMAT, RMF, SPECTRUM_COLUMNS
from raypipe.store.fingerprints import FINGERPRINT
from raypipe.store.layout import part_name
from raypipe.store.parts import count_rows, require_ingested
from raypipe.store.workspace import Workspace

ROWS = 60
CONFIG = IngestConfig()


def manifest_part(part: int) -> str:
    return part_name("manifest/r", part)


def publish(workspace: Workspace, part: int, rejected: int = 0, stage: str = "read") -> None:
    """A part's spectra and rejects, with the metadata that ingestion gives them."""
    rows = workspace.read_table(manifest_part(part))
    fingerprint = workspace.read_metadata(manifest_part(part))[FINGERPRINT]
    made_of = {
        FINGERPRINT: fingerprint,
        RMF: CONFIG.rmf,
        CHIP_RMFS: ChipRmfs({}).to_json(),
    } | FORMAT
    retryable = stage == "fetch"
    rejects = pa.table({"retryable": [retryable] * rejected, "stage": [stage] * rejected})
    workspace.write_table(part_name("rejects/r", part), rejects, made_of)
    workspace.write_table(part_name("spectra/r", part), rows.slice(rejected), made_of)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A release of 8 parts, all of them ingested."""
    workspace = Workspace(tmp_path)
    names = [f"r:{number}.0.1" for number in range(ROWS)]
    table = manifest_rows(pa.table({"detection_id": names, "pha_uri": names}))
    assert write_manifest(workspace, "r", [table], 10, "here")["parts"] == 8
    for part in range(8):
        publish(workspace, part)
    return workspace


def test_a_part_is_done_where_its_files_are_of_the_manifest_and_add_up(
    workspace: Workspace,
) -> None:
    assert parts_to_ingest(workspace, "r", CONFIG) == []
    assert parts_to_ingest(workspace, "r", IngestConfig(rmf="exact")) == list(range(8))
    assert require_ingested(workspace, "r") == 8
    workspace.delete(part_name("spectra/r", 1))
    workspace.delete(part_name("rejects/r", 2))
    spectra = workspace.read_table(part_name("spectra/r", 4))
    workspace.write_table(part_name("spectra/r", 4), spectra.slice(1))
    workspace.write_table(part_name("spectra/r", 6), spectra, {FINGERPRINT: "other rows"})
    assert parts_to_ingest(workspace, "r", CONFIG) == [1, 2, 4, 6]
    with pytest.raises(RaypipeError, match="4 of 8 parts are not ingested"):
        require_ingested(workspace, "r")
    workspace.delete(manifest_part(3))
    with pytest.raises(RaypipeError, match=r"part-00003.*no such file; run raypipe discover"):
        count_rows(workspace, "r")


def test_a_part_on_another_energy_grid_is_to_do(workspace: Workspace) -> None:
    name = part_name("spectra/r", 3)
    metadata = workspace.read_metadata(name) | {"energy_edges_kev": "[0.3, 9.3]"}
    workspace.write_table(name, workspace.read_table(name), metadata)
    assert parts_to_ingest(workspace, "r", CONFIG) == [3]


def test_a_part_without_the_present_columns_is_to_do(workspace: Workspace) -> None:
    name = part_name("spectra/r", 5)
    metadata = workspace.read_metadata(name) | {SPECTRUM_COLUMNS: '["counts"]'}
    workspace.write_table(name, workspace.read_table(name), metadata)
    assert parts_to_ingest(workspace, "r", CONFIG) == [5]


def test_rejects_worth_another_try_are_to_do(workspace: Workspace) -> None:
    for part, stage in enumerate(["fetch", "read", DUPLICATE]):
        publish(workspace, part, rejected=1, stage=stage)
    assert count_rows(workspace, "r") == {"manifest": ROWS, "spectra": ROWS - 3, "rejects": 3}
    assert parts_to_ingest(workspace, "r", CONFIG) == [0]
    every = IngestConfig(retry_rejects="all")
    assert parts_to_ingest(workspace, "r", every) == [0, 1]


def test_another_manifest_is_to_do_where_its_rows_are_others(workspace: Workspace) -> None:
    names = [f"r:{number}.0.1" for number in range(ROWS)]
    uris = ["moved", *names[1:]]
    table = manifest_rows(pa.table({"detection_id": names, "pha_uri": uris}))
    write_manifest(workspace, "r", [table], 10, "here")
    (moved,) = parts_to_ingest(workspace, "r", CONFIG)
    held = workspace.read_table(manifest_part(moved))
    assert names[0] in held["detection_id"].to_pylist()


def test_a_part_without_a_fingerprint_of_its_own_is_read(workspace: Workspace) -> None:
    part = workspace.read_table(manifest_part(0)).replace_schema_metadata(None)
    workspace.write_table(manifest_part(0), part)
    assert is_done(workspace, "r", 0, CONFIG)
    uris = pa.array(["moved"] * part.num_rows, pa.large_string())
    at = part.schema.get_field_index("pha_uri")
    workspace.write_table(manifest_part(0), part.set_column(at, "pha_uri", uris))
    assert not is_done(workspace, "r", 0, CONFIG)


def test_parts_made_with_another_choice_of_rmfs_are_to_do(workspace: Workspace) -> None:
    choice = {"zones": {"7": {"rmf_id": "clean", "detection_id": "r:1.0.1"}}}
    workspace.write_json(chip_rmfs_name("r"), choice)
    assert parts_to_ingest(workspace, "r", CONFIG) == list(range(8))


@pytest.mark.parametrize(
    ("rmf_id", "now", "kept"),
    [
        ("a", {"7": "a", "3.1": "b"}, True),
        ("a", {"7": "c", "3.1": "b"}, False),
        ("b", {"7": "c", "3.1": "b"}, True),
        ("a", {"3.1": "b"}, False),
        ("own", {"7": "c", "3.1": "b"}, True),
        ("own", {"7": "a", "3.1": "b", "5": "d"}, False),
    ],
)
def test_rows_are_kept_where_the_choice_gives_them_the_same_rmf(
    rmf_id: str, now: dict[str, str], kept: bool
) -> None:
    assert ChipRmfs(now).keeps(rmf_id, {"7": "a", "3.1": "b"}) is kept
