"""The driver of `raypipe ingest` killed again and again: the same rows, nothing fetched twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raypipe.cli import main
from raypipe.identity import parse_csc_name
from raypipe.store.workspace import Workspace
from tests.alone import ingest_alone
from tests.killing import kill_with_its_ray
from tests.pipeline.file_server import FileServer, serve, write_remote_manifest
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

RELEASE = "csc2.1"
PART_ROWS = 10
SEED = os.environ.get("RAYPIPE_TEST_SEED")
"""With it drivers are killed RAYPIPE_TEST_KILLS times, at moments drawn at random."""


def _command(workspace: Path) -> list[str]:
    return ["ingest", "--workspace", str(workspace), "--set", "ray.num_cpus=2"]


def _start(workspace: Path) -> subprocess.Popen[bytes]:
    """The command in a process, with a Ray of its own."""
    command = [sys.executable, "-m", "raypipe.cli", *_command(workspace)]
    return subprocess.Popen(command, start_new_session=True)


def _published(workspace: Workspace) -> set[int]:
    names = workspace.files(f"spectra/{RELEASE}", ".parquet")
    return {obsid for name in names for obsid in workspace.read_table(name)["obsid"].to_pylist()}


def _asked(paths: list[str]) -> set[int]:
    return {name.obsid for path in paths if (name := parse_csc_name(path))}


def _moments(
    server: FileServer, workspace: Workspace
) -> Iterator[tuple[Callable[[], object], float]]:
    """When to kill: while RMFs are chosen, and when a part is there; or at random.

    A condition, and the seconds to wait after it.
    """
    if SEED is None:
        yield lambda: server.log, 0.0
        yield lambda: _published(workspace), 0.0
        return
    moments = random.Random(SEED)
    for _ in range(int(os.environ.get("RAYPIPE_TEST_KILLS", "3"))):
        yield lambda: server.log, moments.uniform(0.0, 2.0)


def test_killed_drivers(survey: Path, tmp_path: Path) -> None:
    with serve(survey, latency_s=0.1) as server:
        unbroken, workspace = Workspace(tmp_path / "unbroken"), Workspace(tmp_path / "w")
        for each in unbroken, workspace:
            rows = write_remote_manifest(each, survey, server, part_rows=PART_ROWS)
        server.latency_s = 0.0
        ingest_alone(unbroken, RELEASE)
        server.latency_s = 0.1
        for moment, seconds in _moments(server, workspace):
            server.log.clear()
            before = _published(workspace)
            driver = _start(tmp_path / "w")
            wait_until(lambda: moment() or driver.poll() is not None)  # noqa: B023
            time.sleep(seconds)
            assert driver.poll() is None, "it was over before it could be killed"
            kill_with_its_ray(driver)
            assert not _asked(server.log) & before
        server.log.clear()
        before = _published(workspace)
        assert len(before) < len(rows)
        assert main(_command(tmp_path / "w")) == 0
        assert not _asked(server.log) & before
        assert _asked(server.log) == set(rows["obsid"]) - before
    assert workspace.read_folder(f"spectra/{RELEASE}").equals(
        unbroken.read_folder(f"spectra/{RELEASE}")
    )
    assert workspace.read_folder(f"rejects/{RELEASE}").num_rows == 0
