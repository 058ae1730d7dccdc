from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.errors import RaypipeError, UsageError
from raypipe.http.errors import FetchError
from raypipe.ingestion.fetch import read_stored
from raypipe.store.layout import part_name
from raypipe.store.workspace import Workspace


def test_a_table_comes_back_with_its_metadata(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    workspace.write_table("t/part-00000.parquet", table, {"made_of": "nothing"})
    assert workspace.read_table("t/part-00000.parquet").equals(table)
    assert workspace.read_table("t/part-00000.parquet", ["b", "absent"]).column_names == ["b"]
    assert workspace.read_metadata("t/part-00000.parquet") == {"made_of": "nothing"}
    assert workspace.count_rows("t/part-00000.parquet") == 2


def test_drafts_are_neither_listed_nor_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_bytes("a/b.txt", b"1")
    (tmp_path / "a" / ".b.txt.1234.tmp").write_bytes(b"half")
    assert workspace.files("a") == ["a/b.txt"]
    workspace.write_bytes("a/b.txt", b"2")
    assert workspace.read_bytes("a/b.txt") == b"2"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".b.txt.1234.tmp", "b.txt"]


def test_a_folder_that_appears_while_it_is_listed_is_no_error(tmp_path: Path) -> None:
    come_and_go = "import os, sys\nwhile True: os.mkdir(sys.argv[1]), os.rmdir(sys.argv[1])"
    command = [sys.executable, "-c", come_and_go, str(tmp_path / "locks")]
    with subprocess.Popen(command) as process:
        try:
            while not (tmp_path / "locks").exists():
                assert process.poll() is None
            # Without a second look, about 2% of these fail.
            for _ in range(5_000):
                assert Workspace(tmp_path).files("locks") == []
        finally:
            process.kill()


def test_folders_of_different_columns_unite(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_table(part_name("t", 0), pa.table({"a": [1]}))
    workspace.write_table(part_name("t", 1), pa.table({"a": [2], "b": ["x"]}))
    assert workspace.read_folder("t").to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


def test_errors_name_the_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    for name, said in (
        ("absent.json", "no such file"),
        ("cut.parquet", "not a complete Parquet file"),
    ):
        with pytest.raises(RaypipeError, match=f"{name}.*{said}"):
            workspace.read_table(name) if name.endswith("parquet") else workspace.read_json(name)
    with pytest.raises(RaypipeError, match="no Parquet files"):
        workspace.read_folder("nothing")
    with pytest.raises(UsageError, match="ftp"):
        Workspace("ftp://host/folder")


def test_a_disk_that_fills_leaves_nothing_half_written(small_disk: Path) -> None:
    workspace = Workspace(small_disk)
    with pytest.raises(RaypipeError, match="cannot be written"):
        workspace.write_bytes("t/a.bin", bytes(1 << 20))
    assert list((small_disk / "t").iterdir()) == []
    workspace.write_bytes("t/a.bin", bytes(1 << 18))


def test_a_file_in_the_way_says_so(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file")
    with pytest.raises(RaypipeError, match="cannot be written"):
        Workspace(tmp_path / "w").write_bytes("a.txt", b"")


def test_travels_to_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = pickle.loads(pickle.dumps(Workspace("w")))
    assert workspace.root == str(tmp_path / "w")


def test_gzip_files_are_left_as_they_are(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    data = gzip.compress(b"spectrum")
    workspace.write_bytes("a.fits.gz", data)
    assert (tmp_path / "a.fits.gz").read_bytes() == data
    assert workspace.read_bytes("a.fits.gz") == data
    assert read_stored(workspace.absolute_uri("a.fits.gz"), 1000) == data


def test_files_larger_than_allowed_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "big.fits").write_bytes(bytes(2000))
    with pytest.raises(FetchError, match="more than ingest"):
        read_stored(str(tmp_path / "big.fits"), 1000)


def test_row_groups_are_found(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    pieces = [pa.table({"a": [1, 2, 3]}), pa.table({"a": [4, 5]})]
    workspace.write_tables("x.parquet", pieces)
    group, row = workspace.locate_row("x.parquet", 4)
    assert workspace.read_row_group("x.parquet", group, ["a", "b"])["a"][row].as_py() == 5
    with pytest.raises(IndexError):
        workspace.locate_row("x.parquet", 5)
