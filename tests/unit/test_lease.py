"""One run at a time, on this machine and among others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raypipe.errors import BusyError, RaypipeError
from raypipe.store import lease
from raypipe.store.lease import exclusive
from raypipe.store.workspace import Workspace

HOLD = """
import sys, time
from raypipe.store.lease import exclusive
from raypipe.store.workspace import Workspace
with exclusive(Workspace(sys.argv[1]), "ingest", ["spectra"]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


@pytest.fixture
def other_process(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    """A process that is at it."""
    command = [sys.executable, "-c", HOLD, workspace.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _holders(workspace: Workspace) -> list[str]:
    return workspace.files("locks/ingest")


def test_a_second_run_is_refused_and_told_whose_turn_it_is(
    workspace: Workspace, other_process: subprocess.Popen[str]
) -> None:
    said = f"ingest is already running as process {other_process.pid} on"
    with pytest.raises(BusyError, match=said), exclusive(workspace, "ingest", []):
        pass
    with exclusive(workspace, "embed", []):
        pass


def test_a_killed_run_is_succeeded_at_once_and_its_drafts_go(
    workspace: Workspace, other_process: subprocess.Popen[str]
) -> None:
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    drafts = [
        Path(workspace.path(f"{folder}/.part.0a1b.tmp")) for folder in ("spectra/csc2.1", "runs")
    ]
    for draft in drafts:
        draft.parent.mkdir(parents=True)
        draft.write_bytes(b"half")
    with exclusive(workspace, "ingest", ["spectra", "rejects"]):
        assert [draft.exists() for draft in drafts] == [False, True]
        drafts[0].write_bytes(b"half, of a worker that died")
    assert [draft.exists() for draft in drafts] == [False, True]
    assert len(_holders(workspace)) == 1


@pytest.fixture(params=["another machine", "another time"])
def unseen(
    request: pytest.FixtureRequest, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The file of a holder on another machine, or whose id is that of a process of another time."""
    holder = lease._self(beat=3)
    if request.param == "another machine":
        holder["machine"] = "elsewhere"
    else:
        holder |= {"pid": os.getppid(), "process_started": holder["process_started"] + 3600.0}
    workspace.create_json("locks/ingest/00007.json", holder)
    monkeypatch.setattr(lease, "_BEAT_S", 0.1)
    monkeypatch.setattr(lease, "_SILENT_S", 0.5)
    return "locks/ingest/00007.json"


def test_a_silent_run_that_is_not_seen_is_succeeded(workspace: Workspace, unseen: str) -> None:
    with exclusive(workspace, "ingest", []):
        assert _holders(workspace) == ["locks/ingest/00008.json"]


def test_one_that_goes_on_is_not(workspace: Workspace, unseen: str) -> None:
    def beat() -> None:
        holder = workspace.read_json(unseen)
        while holder["beat"] < 12:
            holder["beat"] += 1
            workspace.write_json(unseen, holder)
            time.sleep(0.1)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(BusyError), exclusive(workspace, "ingest", []):
        pass
    thread.join()


def test_a_run_that_has_ended_is_succeeded(workspace: Workspace) -> None:
    for _ in range(3):
        with exclusive(workspace, "ingest", []):
            pass
    with pytest.raises(ValueError, match="ours"), exclusive(workspace, "ingest", []):
        raise ValueError("ours")
    assert _holders(workspace) == ["locks/ingest/00004.json"]


def test_a_process_that_could_not_say_its_end_takes_its_turn_again(workspace: Workspace) -> None:
    workspace.create_json("locks/ingest/00001.json", lease._self(beat=0))
    with exclusive(workspace, "ingest", []):
        pass


def test_a_run_says_that_it_goes_on(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_BEAT_S", 0.02)
    with exclusive(workspace, "ingest", []):
        deadline = time.monotonic() + 30
        while workspace.read_json("locks/ingest/00001.json")["beat"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_of_many_at_once_one_is_at_it(workspace: Workspace) -> None:
    inside, most = 0, 0
    counting = threading.Lock()

    def work(_: int) -> str:
        nonlocal inside, most
        try:
            with exclusive(workspace, "ingest", []):
                with counting:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.05)
                with counting:
                    inside -= 1
        except RaypipeError:
            return "refused"
        return "done"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))
    assert most == 1
    assert "done" in answers
    assert "refused" in answers


def test_of_many_processes_at_once_one_is_at_it(workspace: Workspace) -> None:
    command = [sys.executable, "-c", HOLD, workspace.uri]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    deadline = time.monotonic() + 60
    while sum(process.poll() is None for process in processes) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    refused = [process for process in processes if process.poll() is not None]
    assert len(refused) == 3
    for process in refused:
        assert "BusyError" in process.communicate()[1]
    (holder,) = (process for process in processes if process.poll() is None)
    assert json.loads(workspace.read_bytes(_holders(workspace)[-1]))["pid"] == holder.pid
    holder.kill()
    holder.communicate()
