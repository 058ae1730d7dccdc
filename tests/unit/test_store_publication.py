from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.errors import RaypipeError
from raypipe.store.publication import (
    Publication,
    PublishedMeanwhileError,
    find_publication,
    publish,
    read_detections,
    require_publication,
)
from raypipe.store.workspace import Workspace

PARTS = 4
ROWS = 50


def written(workspace: Workspace, version: int) -> Publication:
    """A catalog's files, all of a version, not published yet."""
    names = [f"catalog/r/m/part-{part:05d}-{version}.parquet" for part in range(PARTS)]
    for name in names:
        workspace.write_table(name, pa.table({"version": [version] * ROWS}))
    sources = f"sources/r/m/sources-{version}.parquet"
    workspace.write_table(sources, pa.table({"version": [version]}))
    return Publication("r", "m", 0, PARTS * ROWS, 1, tuple(names), sources, str(version))


def test_the_last_publication_counts_and_the_replaced_files_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(RaypipeError, match="run raypipe embed again"):
        require_publication(workspace, "r", "m")
    first = publish(workspace, written(workspace, 1), None)
    written(workspace, 3)
    leftovers = workspace.files("catalog/r/m", ".parquet") + workspace.files("sources/r/m")
    second = publish(workspace, written(workspace, 2), first, leftovers)
    assert (first.number, second.number) == (1, 2)
    assert find_publication(workspace, "r", "m") == second
    assert set(workspace.files("catalog/r/m", ".parquet")) == set(second.parts)
    assert workspace.files("sources/r/m") == [second.sources]
    assert publish(workspace, second, second) == second


def test_of_two_writers_one_wins_and_the_other_says_so(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    base = publish(workspace, written(workspace, 0), None)
    new = [written(workspace, version) for version in range(1, 9)]
    gate = threading.Barrier(len(new))

    def write(publication: Publication) -> Publication | PublishedMeanwhileError:
        gate.wait()
        try:
            return publish(workspace, publication, base)
        except PublishedMeanwhileError as error:
            return error

    with ThreadPoolExecutor(len(new)) as pool:
        answers = list(pool.map(write, new))
    (winner,) = [answer for answer in answers if isinstance(answer, Publication)]
    assert find_publication(workspace, "r", "m") == winner
    assert read_detections(workspace, "r", "m").num_rows == winner.rows
    for answer in answers:
        if isinstance(answer, PublishedMeanwhileError):
            assert "another run has published" in str(answer)


def test_the_same_catalog_by_two_writers_is_no_conflict(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = publish(workspace, written(workspace, 1), None)
    assert publish(workspace, written(workspace, 1), None) == first


def test_readers_see_one_catalog_or_the_other(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    published = publish(workspace, written(workspace, 0), None)
    done = threading.Event()
    seen: list[set[int]] = []

    def read() -> None:
        while not done.is_set():
            table = read_detections(workspace, "r", "m")
            assert table.num_rows == PARTS * ROWS
            seen.append(set(table["version"].to_pylist()))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for version in range(1, 25):
            published = publish(workspace, written(workspace, version), published)
            _wait_for(seen, len(seen) + 2)
        done.set()
        for reader in readers:
            reader.result()
    assert {len(versions) for versions in seen} == {1}
    assert len(set().union(*seen)) > 1


def _wait_for(seen: list[set[int]], number: int) -> None:
    """Give readers, who follow a few publications at most, time for one."""
    for _ in range(500):
        if len(seen) >= number:
            return
        time.sleep(0.01)
    raise AssertionError("the readers have stopped")


def test_files_that_are_gone_are_not_published(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    new = written(workspace, 1)
    workspace.delete(new.parts[2])
    with pytest.raises(RaypipeError, match=r"part-00002-1\.parquet: another run has removed"):
        publish(workspace, new, None)
    assert find_publication(workspace, "r", "m") is None


def test_a_list_that_is_none_names_itself(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_json("catalog/r/m/published-00001.json", {"parts": []})
    with pytest.raises(RaypipeError, match=r"published-00001\.json: its field release is missing"):
        find_publication(workspace, "r", "m")
