"""The driver of `raypipe ingest` killed again and again: the same rows, nothing fetched twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raypipe.discovery.listing import parse_csc_name
from raypipe.workspace import Workspace
from tests.cluster.machines import ingest_alone
from tests.pipeline.file_server import FileServer, serve, write_remote_manifest
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

RELEASE = "csc2.1"
KILLS = int(os.environ.get("RAYPIPE_TEST_KILLS", "3"))
PART_ROWS = 10


def _start(workspace: Path) -> subprocess.Popen[bytes]:
    command = "import sys; from raypipe.cli import main; sys.exit(main())"
    options = ["ingest", "--workspace", str(workspace), "--set", "ray.num_cpus=2"]
    return subprocess.Popen([sys.executable, "-c", command, *options], start_new_session=True)


def _wait_until_quiet(server: FileServer) -> None:
    """Until workers that outlived their driver have stopped asking."""
    seen = -1
    deadline = time.monotonic() + 60
    while seen != len(server.log):
        assert time.monotonic() < deadline
        seen = len(server.log)
        time.sleep(2)


def _published(workspace: Workspace) -> set[int]:
    names = workspace.files(f"spectra/{RELEASE}", ".parquet")
    return {obsid for name in names for obsid in workspace.read_table(name)["obsid"].to_pylist()}


def _asked(paths: list[str]) -> set[int]:
    return {name.obsid for path in paths if (name := parse_csc_name(path))}


def test_killed_drivers(survey: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("RAYPIPE_TEST_SEED", random.randrange(10**6)))
    print(f"RAYPIPE_TEST_SEED={seed}")
    moments = random.Random(seed)
    with serve(survey, latency_s=0.1) as server:
        unbroken, workspace = Workspace(tmp_path / "unbroken"), Workspace(tmp_path / "w")
        for each in unbroken, workspace:
            rows = write_remote_manifest(each, survey, server, part_rows=PART_ROWS)
        ingest_alone(unbroken, RELEASE)
        killed_while_working = 0
        for _ in range(KILLS):
            server.log.clear()
            before = _published(workspace)
            driver = _start(tmp_path / "w")
            wait_until(lambda: server.log or driver.poll() is not None, 60)  # noqa: B023
            time.sleep(moments.uniform(0.0, 2.0))
            killed_while_working += driver.poll() is None
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            _wait_until_quiet(server)
            assert not _asked(server.log) & before
        server.log.clear()
        before = _published(workspace)
        print(f"{len(before)} of {len(rows)} published by {KILLS} killed runs")
        assert _start(tmp_path / "w").wait(120) == 0
        assert not _asked(server.log) & before
        assert _asked(server.log) == set(rows["obsid"]) - before
    assert killed_while_working
    assert workspace.read_folder(f"spectra/{RELEASE}").equals(
        unbroken.read_folder(f"spectra/{RELEASE}")
    )
    assert workspace.read_folder(f"rejects/{RELEASE}").num_rows == 0
