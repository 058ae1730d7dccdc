from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from astropy.table import Table

import raypipe
from raypipe.catalog.added_columns import (
    AddedColumns,
    find_added,
    read_added_table,
    read_whole,
    with_added,
    write_added,
)
from raypipe.errors import RaypipeError
from raypipe.store.manifest import summary_name
from raypipe.store.publication import (
    Publication,
    PublishedMeanwhileError,
    find_publication,
    publish,
)
from raypipe.store.workspace import Workspace

SIZES = (3, 2)
ABOUT = {"seed": 1}


def described(name: str, values: list[object], ucd: str = "meta.code") -> pa.Table:
    array = pa.array(values)
    field = pa.field(name, array.type, metadata={"ucd": ucd, "unit": "", "description": name})
    return pa.table([array], schema=pa.schema([field]))


def catalog(folder: Path, version: int = 1, **columns: pa.Table) -> tuple[Workspace, Publication]:
    """Two parts of three and two detections of two sources, with further `columns`."""
    workspace = Workspace(folder)
    rows = pa.table({"detection_id": [f"r:{i}" for i in range(sum(SIZES))], "z0": [0.5] * 5})
    for name, column in columns.items():
        rows = rows.append_column(column.schema.field(name), column[name])
    names = [f"catalog/r/m/part-{part:05d}-{version}.parquet" for part in range(len(SIZES))]
    workspace.write_table(names[0], rows.slice(0, SIZES[0]))
    workspace.write_table(names[1], rows.slice(SIZES[0]))
    sources = f"sources/r/m/sources-{version}.parquet"
    workspace.write_table(sources, pa.table({"best_detection_id": ["r:0", "r:4"]}))
    summary = {"rows": sum(SIZES), "parts": len(SIZES), "source": "here"}
    workspace.write_json(summary_name("r"), summary)
    base = find_publication(workspace, "r", "m")
    new = Publication("r", "m", 0, sum(SIZES), 2, tuple(names), sources, str(version))
    return workspace, publish(workspace, new, base)


def rows_of(ids: list[str], column: pa.Table, key: str = "detection_id") -> pa.Table:
    return column.add_column(0, key, pa.array(ids))


def test_added_columns_join_by_detection_and_are_null_elsewhere(tmp_path: Path) -> None:
    workspace, published = catalog(tmp_path)
    new = rows_of(["r:4", "r:0", "r:3"], described("cluster", [7, 5, 6]))
    sources = rows_of(["r:4"], described("cluster", [7]), "best_detection_id")
    added = write_added(
        workspace,
        published,
        "cluster",
        new,
        ABOUT,
        sources=sources,
        others={"clusters": pa.table({"cluster": [5, 6, 7]})},
    )
    assert raypipe.open_catalog(workspace)["cluster"].fillna(-1).tolist() == [5, -1, -1, 6, 7]
    assert raypipe.open_sources(workspace)["cluster"].fillna(-1).tolist() == [-1, 7]
    assert read_whole(workspace, "r", "m", columns=["cluster"]).column_names == ["cluster"]
    second = workspace.read_table(published.parts[1])
    assert with_added(workspace, published, second, part=1)["cluster"].to_pylist() == [6, 7]
    assert read_added_table(workspace, added, "clusters").num_rows == 3
    field = read_whole(workspace, "r", "m").schema.field("cluster")
    assert field.metadata[b"description"] == b"cluster"
    assert [workspace.count_rows(name) for name in added.parts] == list(SIZES)


def test_the_same_settings_on_the_same_catalog_need_no_work(tmp_path: Path) -> None:
    workspace, published = catalog(tmp_path)
    new = rows_of(["r:0"], described("cluster", [1]))
    first = write_added(workspace, published, "cluster", new, ABOUT)
    assert find_added(workspace, published, "cluster", ABOUT) == first
    assert find_added(workspace, published, "cluster", {"seed": 2}) is None
    assert find_added(workspace, published, "classify", ABOUT) is None
    second = write_added(workspace, published, "cluster", new, {"seed": 2})
    assert second.number == 2
    left = workspace.files("columns/r/m/cluster", ".parquet")
    assert set(left) == second.files, "the files of the first are removed"
    workspace.delete(second.parts[0])
    assert find_added(workspace, published, "cluster", {"seed": 2}) is None


def test_columns_of_another_state_of_the_catalog_are_refused_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace, published = catalog(tmp_path)
    write_added(workspace, published, "cluster", rows_of(["r:0"], described("cluster", [1])), ABOUT)
    workspace, changed = catalog(tmp_path, version=2)
    rows = workspace.read_table(changed.parts[0])
    with pytest.raises(RaypipeError, match="run raypipe cluster again"):
        with_added(workspace, changed, rows)
    with caplog.at_level(logging.WARNING):
        assert "cluster" not in raypipe.open_catalog(workspace)
    assert "run raypipe cluster again; they are left out" in caplog.text
    new = rows_of(["r:0"], described("cluster", [1]))
    with pytest.raises(PublishedMeanwhileError, match="has changed since raypipe cluster read it"):
        write_added(workspace, published, "cluster", new, ABOUT)


def test_an_added_column_replaces_its_like_and_spares_a_column_of_the_user(tmp_path: Path) -> None:
    votes = described("p_AGN", [0.1] * 5, ucd="stat.probability;src.class")
    brought = described("Cluster", list("abcde"), ucd="")
    workspace, published = catalog(tmp_path, p_AGN=votes, Cluster=brought)
    better = described("p_AGN", [0.9], ucd="stat.probability;src.class")
    write_added(workspace, published, "classify", rows_of(["r:0"], better), ABOUT)
    own = rows_of(["r:1"], described("cluster", [1]))
    write_added(workspace, published, "cluster", own, ABOUT)
    frame = raypipe.open_catalog(workspace)
    assert frame["p_AGN"].fillna(-1).tolist() == [0.9, -1, -1, -1, -1]
    assert frame["catalog_Cluster"].tolist() == list("abcde")
    assert frame["cluster"].fillna(-1).tolist() == [-1, 1, -1, -1, -1]
    raypipe.export(workspace, format="fits")
    table = Table.read(workspace.path("exports/r/m/detections.fits"))
    assert table["catalog_Cluster"].tolist() == list("abcde")
    assert table["cluster"].filled(-1).tolist() == [-1, 1, -1, -1, -1]
    assert table["p_AGN"][0] == pytest.approx(0.9)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_ids_may_be_of_any_type_of_string(tmp_path: Path, kind: pa.DataType) -> None:
    workspace, published = catalog(tmp_path)
    new = rows_of(["r:4", "r:0"], described("cluster", [7, 5]))
    sources = rows_of(["r:4"], described("cluster", [7]), "best_detection_id")
    cast = [
        table.set_column(0, table.column_names[0], table[0].cast(kind)) for table in (new, sources)
    ]
    write_added(workspace, published, "cluster", cast[0], ABOUT, sources=cast[1])
    assert raypipe.open_catalog(workspace)["cluster"].fillna(-1).tolist() == [5, -1, -1, -1, 7]
    assert raypipe.open_sources(workspace)["cluster"].fillna(-1).tolist() == [-1, 7]
    twice = pa.concat_tables([cast[0], cast[0]])
    with pytest.raises(RaypipeError, match="is there twice"):
        write_added(workspace, published, "cluster", twice, ABOUT)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (["r:0", "r:0"], "is there twice"),
        (["r:0", "r:9"], "not in the catalog, the first is 'r:9'"),
    ],
)
def test_rows_that_fit_no_catalog_are_refused(tmp_path: Path, ids: list[str], problem: str) -> None:
    workspace, published = catalog(tmp_path)
    new = rows_of(ids, described("cluster", [1, 2]))
    with pytest.raises(RaypipeError, match=problem):
        write_added(workspace, published, "cluster", new, ABOUT)
    assert find_publication(workspace, "r", "m", "cluster") is None


def test_a_killed_run_leaves_the_columns_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, published = catalog(tmp_path)
    write_added(workspace, published, "cluster", rows_of(["r:0"], described("cluster", [1])), ABOUT)

    def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    new = rows_of(["r:0"], described("cluster", [2]))
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "create_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            write_added(workspace, published, "cluster", new, {"seed": 2})
    assert raypipe.open_catalog(workspace)["cluster"][0] == 1
    again = write_added(workspace, published, "cluster", new, {"seed": 2})
    assert raypipe.open_catalog(workspace)["cluster"][0] == 2
    assert set(workspace.files("columns/r/m/cluster", ".parquet")) == again.files


def test_readers_find_columns_that_are_replaced_while_they_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, published = catalog(tmp_path)
    new = rows_of(["r:0"], described("cluster", [1]))
    write_added(workspace, published, "cluster", new, ABOUT)
    join, replaced = AddedColumns.join, []

    def join_late(self: AddedColumns, rows: pa.Table, **options: object) -> pa.Table:
        if not replaced:
            replaced.append(write_added(workspace, published, "cluster", new, {"seed": 2}))
        return join(self, rows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AddedColumns, "join", join_late)
    assert pc.sum(read_whole(workspace, "r", "m")["cluster"]).as_py() == 1
