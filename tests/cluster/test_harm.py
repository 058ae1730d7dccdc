"""A driver killed, a second one at once, a full object store, a slow machine, no memory left."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

import raypipe
from raypipe.store.workspace import Workspace
from tests.alone import choose_rmfs_alone, ingest_alone
from tests.cluster.conftest import Moments
from tests.cluster.machines import Machines, drafts
from tests.pipeline.file_server import FileServer, serve, write_remote_manifest
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

RELEASE = "csc2.1"
MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"
STORE_BYTES = 80 << 20
ONE_BY_ONE = "--set=ingest.fetch_threads=1"

FILL_STORES = """
import sys, time
import numpy as np
import ray

@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
class Keeper:
    def __init__(self, megabytes):
        self.kept = [ray.put(np.ones(10 << 20, np.uint8)) for _ in range(megabytes // 10)]

    def bytes(self):
        return sum(ray.get(ref).nbytes for ref in self.kept)

ray.init(address=sys.argv[1], log_to_driver=False)
keepers = [Keeper.remote(100) for _ in range(6)]
print(sum(ray.get([keeper.bytes.remote() for keeper in keepers])), flush=True)
time.sleep(600)
"""
EAT = """
import sys, time
eaten = bytearray(b"x") * int(sys.argv[1])
print(flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def machines(isolated_home: Path) -> Iterator[Machines]:
    """Three machines whose object stores are as small as Ray allows."""
    machines = Machines(object_store_memory=STORE_BYTES)
    yield machines
    machines.shutdown()


@pytest.fixture
def server(survey: Path) -> Iterator[FileServer]:
    with serve(survey) as server:
        yield server


@pytest.fixture
def workspace(survey: Path, server: FileServer, tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "w")
    write_remote_manifest(workspace, survey, server, part_rows=10)
    choose_rmfs_alone(workspace, RELEASE)
    server.latency_s = 0.1
    return workspace


@pytest.fixture
def expect_unbroken(
    workspace: Workspace, survey: Path, server: FileServer, tmp_path: Path
) -> Callable[[], None]:
    """Compares the workspace's rows with those of a run in which nothing goes wrong."""

    def compare() -> None:
        unbroken = Workspace(tmp_path / "unbroken")
        server.latency_s = 0.0
        write_remote_manifest(unbroken, survey, server, part_rows=10)
        ingest_alone(unbroken, RELEASE)
        for folder in f"spectra/{RELEASE}", f"rejects/{RELEASE}":
            assert workspace.read_folder(folder).equals(unbroken.read_folder(folder))
        assert drafts(tmp_path) == []

    return compare


@contextmanager
def _beside(code: str, argument: object) -> Iterator[str]:
    """A Python program that runs meanwhile; yields its first line."""
    command = [sys.executable, "-c", code, str(argument)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield program.stdout.readline()
        finally:
            program.kill()


def _parts(workspace: Workspace) -> int:
    return len(workspace.files(f"spectra/{RELEASE}"))


def test_a_second_driver_is_refused_and_the_first_one_killed(
    machines: Machines,
    workspace: Workspace,
    server: FileServer,
    expect_unbroken: Callable[[], None],
) -> None:
    folder = Path(workspace.root)
    first = machines.start("ingest", folder, ONE_BY_ONE)
    wait_until(lambda: _parts(workspace) or first.poll() is not None)
    server.latency_s = 5.0  # The first must not end before the second is refused.
    second = machines.start("ingest", folder, ONE_BY_ONE)
    assert second.wait(200) == 1
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert _parts(workspace) < 16
    server.latency_s = 0.1
    assert machines.start("ingest", folder, ONE_BY_ONE).wait(300) == 0
    expect_unbroken()


def test_full_object_stores(machines: Machines, ingested: Path, tmp_path: Path) -> None:
    """Other jobs have filled them: what is put beyond that Ray spills to disk."""
    workspace = Workspace(shutil.copytree(ingested, tmp_path / "w"))
    with _beside(FILL_STORES, machines.address) as kept:
        assert int(kept) > 2 * STORE_BYTES * len(machines.nodes)
        driver = machines.start("embed", tmp_path / "w", "--model", str(MODEL))
        assert driver.wait(300) == 0
    spectra = workspace.read_folder("spectra/sim")["detection_id"].to_pylist()
    assert sorted(raypipe.open_catalog(workspace)["detection_id"]) == sorted(spectra)
    assert drafts(tmp_path) == []


def test_a_slow_machine(
    machines: Machines,
    workspace: Workspace,
    expect_unbroken: Callable[[], None],
    moments: Moments,
) -> None:
    slow, over = moments.choose(machines.nodes), threading.Event()
    stopped = 0

    def hold_up() -> None:
        nonlocal stopped
        while not over.is_set():
            workers = machines.workers(slow, "MapBatches(ingest)")
            for sign, seconds in (signal.SIGSTOP, 0.8), (signal.SIGCONT, 0.2):
                for worker in workers:
                    with suppress(psutil.Error):
                        worker.send_signal(sign)
                        stopped += sign == signal.SIGSTOP
                time.sleep(seconds)

    holding = threading.Thread(target=hold_up)
    holding.start()
    try:
        assert machines.start("ingest", Path(workspace.root), ONE_BY_ONE).wait(200) == 0
    finally:
        over.set()
        holding.join()
    assert stopped
    expect_unbroken()


def test_a_worker_without_memory(
    survey: Path, workspace: Workspace, expect_unbroken: Callable[[], None]
) -> None:
    """Ray's monitor ends workers on a machine that runs out; they begin anew when there is room."""
    memory = psutil.virtual_memory()
    room = memory.available // 4
    threshold = (memory.total - memory.available + room) / memory.total
    machines = Machines(
        1, system={"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 100}
    )
    try:
        driver = machines.start("ingest", Path(workspace.root), ONE_BY_ONE)
        wait_until(lambda: _parts(workspace) or driver.poll() is not None)
        with _beside(EAT, memory.available // 3):
            wait_until(lambda: machines.ended_workers() or driver.poll() is not None)
            assert driver.poll() is None
        assert driver.wait(120) == 0
    finally:
        machines.shutdown()
    expect_unbroken()
