"""Disks that fill or refuse, and workers that die, in the middle of ingest."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from raypipe.discovery.discover import discover
from raypipe.errors import RaypipeError
from raypipe.ingestion.ingest import ingest
from raypipe.store.workspace import Workspace
from tests.conftest import remount
from tests.pipeline.file_server import serve, write_remote_manifest

pytestmark = pytest.mark.usefixtures("local_ray")

SETTINGS = {"discover": {"part_rows": 5}}


def _expect_whole(workspace: Workspace, survey: Path, tmp_path: Path) -> None:
    unbroken = Workspace(tmp_path / "unbroken")
    for each in unbroken, workspace:
        discover(each, source=str(survey), config=SETTINGS)
        assert ingest(each, config=SETTINGS) == {"manifest": 160, "spectra": 160, "rejects": 0}
    assert workspace.read_folder("spectra/sim").equals(unbroken.read_folder("spectra/sim"))
    for folder in "manifest", "responses", "spectra", "rejects":
        files = [path for path in Path(workspace.uri, folder).rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".parquet", ".json"}


def test_a_full_disk_is_told_and_a_larger_one_goes_on(
    survey: Path, small_disk: Path, tmp_path: Path
) -> None:
    workspace = Workspace(small_disk)
    discover(workspace, source=str(survey), config=SETTINGS)
    with pytest.raises(RaypipeError, match=r"cannot be written.*No space left"):
        ingest(workspace, config=SETTINGS)
    remount(small_disk, "size=64m")
    _expect_whole(workspace, survey, tmp_path)


def test_a_disk_that_turns_read_only_is_told(
    survey: Path, small_disk: Path, tmp_path: Path
) -> None:
    workspace = Workspace(small_disk)
    remount(small_disk, "size=64m")
    discover(workspace, source=str(survey), config=SETTINGS)
    remount(small_disk, "ro")
    try:
        with pytest.raises(RaypipeError, match=r"cannot be written.*[Rr]ead-only"):
            ingest(workspace, config=SETTINGS)
    finally:
        remount(small_disk, "rw,size=64m")
    _expect_whole(workspace, survey, tmp_path)


def _ingesting_workers() -> list[psutil.Process]:
    """Processes of Ray that are in a task of ingest."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if "MapBatches(ingest)" in " ".join(_words(process))]


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


def test_killed_workers(survey: Path, tmp_path: Path) -> None:
    unbroken, workspace = Workspace(tmp_path / "unbroken"), Workspace(tmp_path / "w")
    with serve(survey, latency_s=0.1) as server:
        for each in unbroken, workspace:
            write_remote_manifest(each, survey, server, part_rows=20)
        ingest(unbroken)
        done: list[dict[str, int]] = []
        run = threading.Thread(target=lambda: done.append(ingest(workspace)))
        run.start()
        killed = 0
        deadline = time.monotonic() + 60
        while killed < 3 and run.is_alive() and time.monotonic() < deadline:
            time.sleep(0.3)
            for worker in _ingesting_workers()[:1]:
                worker.kill()
                killed += 1
        run.join(300)
    assert killed
    assert done == [{"manifest": 160, "spectra": 160, "rejects": 0}]
    assert workspace.read_folder("spectra/csc2.1").equals(unbroken.read_folder("spectra/csc2.1"))
