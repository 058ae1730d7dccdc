"""The verb export: where it writes, what it refuses, and that nothing half stays behind."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import lsdb
import numpy as np
import pyarrow as pa
import pytest
from astropy.table import Table
from hats.io.validation import is_valid_catalog

import raypipe
from raypipe.cli import main
from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation.evaluate import evaluate
from raypipe.exporting.export_target import refuse_own_folders
from raypipe.exporting.formats import FORMATS
from raypipe.exporting.formats.content import Content
from raypipe.model.bundle import load_model
from raypipe.reporting.report import report
from raypipe.store.layout import OWN_FOLDERS, model_folder
from raypipe.store.publication import read_detections, require_publication
from raypipe.store.workspace import Workspace
from tests.conftest import remount
from tests.unit.synthetic_workspace import NASTY_NAME, RELEASE, make_workspace, publish_table


@pytest.fixture
def small(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "w", 16).workspace


def test_the_command_line_writes_where_it_is_told(
    small: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "elsewhere"
    line = ["export", "--workspace", small.uri, "--format", "fits", "--sources", "--json"]
    assert main([*line, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"export": f"{out}/sources.fits"}
    assert len(Table.read(out / "sources.fits")) == 9
    assert sorted(p.name for p in out.iterdir()) == [
        "CITATION.cff",
        "README.md",
        "exports.json",
        "index.html",
        "sources-moc.fits",
        "sources.fits",
    ]


def test_bad_input_is_explained(small: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of fits, votable, hats, parquet"):
        raypipe.export(small, format="csv")
    with pytest.raises(UsageError, match="has no catalog by nobody"):
        raypipe.export(small, format="fits", model="nobody")
    with pytest.raises(UsageError):
        raypipe.export(tmp_path / "empty", format="fits")
    with pytest.raises(SystemExit):
        main(["export", "--workspace", small.uri, "--format", "csv"])
    assert not small.exists("exports")


@pytest.mark.parametrize("inside", ["", "catalog", "catalog/sim/folded-test/new", "models/new"])
def test_the_workspaces_own_folders_are_refused(small: Workspace, inside: str) -> None:
    """Also through another spelling of the path; nothing is written."""
    before = sorted(Path(small.root).rglob("*"))
    crooked = f"{small.root}/exports/../{inside}"
    for out in (f"{small.root}/{inside}", crooked):
        with pytest.raises(UsageError, match=r"keeps its own files there; omit --out"):
            raypipe.export(small, format="fits", out=out)
    assert sorted(Path(small.root).rglob("*")) == before


def test_own_folders_of_a_workspace_in_a_bucket_are_refused() -> None:
    home = Workspace("s3://archive/w")
    for other in ("s3://archive/w2/catalog", "s3://archive/w/exports/x", "s3://other/w/catalog"):
        refuse_own_folders(home, Workspace(other))
    for own in ("s3://archive/w", "s3://archive/w/catalog", "s3://archive/w/models/x"):
        with pytest.raises(UsageError, match="keeps its own files there"):
            refuse_own_folders(home, Workspace(own))


def test_other_folders_within_a_workspace_are_not_refused(small: Workspace) -> None:
    for out in ("exports/mine", "mine"):
        uri = raypipe.export(small, format="fits", out=f"{small.root}/{out}")
        assert len(Table.read(uri)) == 16


def test_every_folder_of_a_workspace_is_known_as_its_own(small: Workspace) -> None:
    evaluate(small)
    report(small)
    raypipe.export(small, format="fits")
    made = {path.name for path in Path(small.root).iterdir() if path.is_dir()}
    assert made <= set(OWN_FOLDERS)
    documented = (Path(__file__).parents[2] / "docs" / "layout.md").read_text()
    assert all(f"W/{name}/" in documented for name in OWN_FOLDERS)


def test_hats_that_is_not_there_is_named(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hats", None)
    with pytest.raises(UsageError, match=r"pip install 'raypipe\[hats\]'"):
        raypipe.export(small, format="hats")


def test_a_catalog_without_positions_has_no_hats(small: Workspace) -> None:
    table = read_detections(small, RELEASE, "folded-test")
    nowhere = table.set_column(
        table.column_names.index("ra"), "ra", pa.nulls(table.num_rows, pa.float64())
    )
    model = load_model(small.absolute_uri(model_folder("folded-test")))
    publish_table(small, model, nowhere)
    with pytest.raises(UsageError, match="no row of the detections has ra and dec"):
        raypipe.export(small, format="hats")
    assert not small.exists("exports/sim/folded-test/detections-hats")


def test_an_export_is_replaced_whole(small: Workspace) -> None:
    """A smaller catalog leaves nothing of the larger one behind."""
    model = load_model(small.absolute_uri(model_folder("folded-test")))
    table = read_detections(small, RELEASE, "folded-test")
    for rows, ra in ((table, 10.0), (table.slice(0, 5), 200.0)):
        place = pa.array(np.full(rows.num_rows, ra))
        publish_table(small, model, rows.set_column(rows.column_names.index("ra"), "ra", place))
        for format in ("hats", "fits"):
            raypipe.export(small, format=format)
    folder = Path(small.path("exports/sim/folded-test"))
    assert is_valid_catalog(folder / "detections-hats", strict=True)
    assert len(lsdb.open_catalog(folder / "detections-hats").compute()) == 5
    assert len(Table.read(folder / "detections.fits")) == 5
    assert not list(folder.glob(".*"))
    facts = {one["name"]: one["facts"] for one in json.loads((folder / "exports.json").read_text())}
    assert {one["publication"] for one in facts.values()} == {3}


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_the_earlier_export(
    format: str, small_disk: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path / "w", 400).workspace
    remount(small_disk, "size=4m")
    uri = raypipe.export(workspace, format=format, out=small_disk)
    before = {path: path.read_bytes() for path in Path(small_disk).rglob("*") if path.is_file()}
    used = sum(path.stat().st_blocks * 512 for path in small_disk.rglob("*"))
    remount(small_disk, f"size={(used >> 10) + 100}k")
    with pytest.raises(RaypipeError, match="cannot be written"):
        raypipe.export(workspace, format=format, out=small_disk)
    after = {path: path.read_bytes() for path in Path(small_disk).rglob("*") if path.is_file()}
    assert after == before
    assert Path(uri).exists()


def test_parts_of_other_columns_and_types_are_one_table(small: Workspace) -> None:
    """Parts whose text is null throughout, or that lack a column, fit the others."""
    own = require_publication(small, RELEASE, "folded-test")
    table = read_detections(small, RELEASE, "folded-test")
    i = table.column_names.index("class")
    small.write_table(own.parts[0], table.slice(0, 6).set_column(i, "class", pa.nulls(6)))
    small.write_table("other.parquet", table.slice(6).drop_columns(["z_cov"]))
    two = Content.of(small, replace(own, parts=(own.parts[0], "other.parquet")), "detections")
    rows = pa.concat_tables(two.tables())
    assert rows.schema == two.schema
    assert rows["class"].null_count == 6
    assert rows["z_cov"].null_count == table.num_rows - 6
    assert rows.drop_columns(["class", "z_cov"]).equals(
        table.drop_columns(["class", "z_cov"]).cast(rows.drop_columns(["class", "z_cov"]).schema)
    )
    assert NASTY_NAME in rows["name"].to_pylist()


def test_a_part_that_lost_rows_is_no_catalog(small: Workspace) -> None:
    own = require_publication(small, RELEASE, "folded-test")
    table = read_detections(small, RELEASE, "folded-test")
    small.write_table(own.parts[0], table.slice(0, 6))
    with pytest.raises(RaypipeError, match="says 16 detections, but its files hold 6"):
        raypipe.export(small, format="fits")
    assert not small.exists("exports/sim/folded-test/detections.fits")


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["README.md", "index.html", "detections.fits", "thesis.tex"])
def test_a_folder_with_files_of_others_is_left_alone(
    small: Workspace, tmp_path: Path, name: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("important")
    with pytest.raises(UsageError, match=rf"mine: has {name} and no exports"):
        raypipe.export(small, format="fits", out=mine)
    assert _contents(mine) == {name: b"important"}


def test_files_put_beside_exports_stay(small: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    raypipe.export(small, format="fits", out=out)
    (out / "notes.txt").write_text("mine")
    (out / "sources.fits").write_text("mine, too")
    raypipe.export(small, format="fits", out=out)
    raypipe.export(small, format="votable", out=out)
    with pytest.raises(UsageError, match=r"sources\.fits: no export wrote this file"):
        raypipe.export(small, format="fits", sources=True, out=out)
    left = _contents(out)
    assert (left["notes.txt"], left["sources.fits"]) == (b"mine", b"mine, too")
    assert [one["name"] for one in json.loads(left["exports.json"])] == [
        "detections.fits",
        "detections.vot",
    ]


@pytest.mark.parametrize("record", ['{"exports": "mine"}', '["mine"]', "[", '[{"name": "x"}]'])
def test_a_record_of_something_else_is_left_alone(
    small: Workspace, tmp_path: Path, record: str
) -> None:
    (tmp_path / "exports.json").write_text(record)
    (tmp_path / "README.md").write_text("important")
    with pytest.raises(UsageError, match=r"exports\.json: not a record of exports"):
        raypipe.export(small, format="fits", out=tmp_path)
    assert (tmp_path / "README.md").read_text() == "important"


@pytest.mark.parametrize("format", ["fits", "hats"])
def test_an_export_killed_half_way_is_repeated(
    small: Workspace, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of its files are there by then."""
    for last in ("publish_file", "publish_folder", "describe_export"):
        out = tmp_path / last

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(f"raypipe.exporting.export.{last}", die)
            raypipe.export(small, format=format, out=out)
        uri = raypipe.export(small, format=format, out=out)
        assert Path(uri).exists()
        assert (out / "README.md").exists()


def test_a_reader_exports_elsewhere(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remount(small_disk, "size=20m")
    workspace = make_workspace(small_disk, 16).workspace
    before = sorted(small_disk.rglob("*"))
    remount(small_disk, "ro")
    try:
        uri = raypipe.export(workspace, format="fits", out=tmp_path / "out")
        assert len(Table.read(uri)) == 16
        assert "keeps no record of this run" in caplog.text
        assert "Read-only file system" in caplog.text
        with pytest.raises(RaypipeError, match="cannot be written"):
            raypipe.export(workspace, format="fits")
    finally:
        remount(small_disk, "rw")
    assert sorted(small_disk.rglob("*")) == before
