"""Allow only one run at a time to do a piece of work on a workspace, from any machine.

The holder's file W/locks/<work>/<number>.json is created, never replaced by another process, and
rewritten while the work runs. If a holder stops rewriting it, another run takes over under the next
number.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from raypipe.errors import BusyError, RaypipeError
from raypipe.store.workspace import MissingFileError, Workspace

log = logging.getLogger(__name__)

_BEAT_S = 2.0
_SILENT_S = 60.0
"""Time without a heartbeat after which a holder whose process cannot be seen is presumed dead."""
_ENDED = -1
"""Value of `beat` in the file of a holder that has ended."""

_HOLDER = {"host": str, "machine": str, "pid": int, "process_started": float, "since": str}
"""Fields of the file of a holder that has not ended, and their types."""

_held: set[str] = set()
"""The locks that this process holds."""
_changing = threading.Lock()


@contextmanager
def exclusive(workspace: Workspace, work: str, folders: Sequence[str]) -> Iterator[None]:
    """Do `work` as the only run that does it, with `folders` reserved for it.

    Incomplete files that killed runs have left in these folders are removed before and after the
    work. Raises BusyError if another run is doing the same work. If a run has died on this machine,
    this one takes over at once; if it has died on another machine, or another process has its id by
    now, after a minute without heartbeat.
    """
    with _in_this_process(workspace, work):
        name = _take(workspace, work)
        try:
            with _beating(workspace, name):
                workspace.remove_drafts(folders)
                yield
                workspace.remove_drafts(folders)
        finally:
            _write(workspace, name, _ENDED)


@contextmanager
def _in_this_process(workspace: Workspace, work: str) -> Iterator[None]:
    """Do `work` as the only thread that does it."""
    key = workspace.absolute_uri(_folder(work))
    with _changing:
        if key in _held:
            raise BusyError(f"{workspace.uri}: this process is already running {work}")
        _held.add(key)
    try:
        yield
    finally:
        with _changing:
            _held.remove(key)


def _take(workspace: Workspace, work: str) -> str:
    """Create this run's file and return its name; raises BusyError if another run is working."""
    while True:
        names = workspace.files(_folder(work), ".json")
        if names:
            _wait_for_its_end(workspace, work, names[-1])
        number = int(names[-1].rsplit("/", 1)[1].removesuffix(".json")) + 1 if names else 1
        name = f"{_folder(work)}/{number:05d}.json"
        if workspace.create_json(name, _self(beat=0)):
            for earlier in names:
                workspace.delete(earlier)
            return name


def _wait_for_its_end(workspace: Workspace, work: str, name: str) -> None:
    """Return when the holder has ended or is presumed dead; raises BusyError if it is alive."""
    first = _read(workspace, name)
    if _has_ended(first):
        return
    who = f"process {first['pid']} on {first['host']}"
    busy = BusyError(
        f"{workspace.uri}: {work} is already running as {who}, since {first['since']}; "
        "wait until it ends, or end it and run the same command again"
    )
    if first["machine"] == _machine() and _is_that_process(first):
        raise busy
    log.info("%s: checking for a minute whether %s is alive", work, who)
    deadline = time.monotonic() + _SILENT_S
    while time.monotonic() < deadline:
        time.sleep(_BEAT_S / 2)
        holder = _read(workspace, name)
        if _has_ended(holder):
            return
        if holder["beat"] != first["beat"]:
            raise busy
    log.warning("%s: %s is presumed dead", work, who)


def _has_ended(holder: dict[str, Any]) -> bool:
    """Return whether a holder has ended or no process has its id any more.

    A holder with this process's own id has ended too, but could not record it.
    """
    if holder["beat"] == _ENDED:
        return True
    if holder["machine"] != _machine():
        return False
    return holder["pid"] == os.getpid() or not psutil.pid_exists(holder["pid"])


def _is_that_process(holder: dict[str, Any]) -> bool:
    """Return whether the process of a holder's id on this machine started when the holder did.

    If not, the id may belong to a new process. Or the clock has been set since: the times at which
    processes have started then move with it, so that only the heartbeat tells.
    """
    try:
        started = psutil.Process(holder["pid"]).create_time()
    except psutil.Error:
        return False
    return abs(started - holder["process_started"]) <= 1.0


@contextmanager
def _beating(workspace: Workspace, name: str) -> Iterator[None]:
    """Rewrite the holder's file at regular intervals while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(_BEAT_S):
            number += 1
            _write(workspace, name, number)

    thread = threading.Thread(target=beat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _folder(work: str) -> str:
    return f"locks/{work}"


def _read(workspace: Workspace, name: str) -> dict[str, Any]:
    """Read a holder's file; if a successor has removed it, the holder has ended."""
    try:
        found = workspace.read_object(name, {"beat": int})
        return found if found["beat"] == _ENDED else workspace.read_object(name, _HOLDER)
    except MissingFileError:
        return {"beat": _ENDED}


def _write(workspace: Workspace, name: str, beat: int) -> None:
    """Report that this run is alive, or has ended; a full disk must not stop the run."""
    try:
        workspace.write_json(name, _self(beat))
    except RaypipeError as error:
        log.warning("%s", error)


def _self(beat: int) -> dict[str, Any]:
    process = psutil.Process()
    started = process.create_time()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": process.pid,
        "process_started": started,
        "since": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "beat": beat,
    }


def _machine() -> str:
    """Name the scope in which process ids are unique: this boot of the host, and the container."""
    marks = [socket.gethostname()]
    if (boot := Path("/proc/sys/kernel/random/boot_id")).exists():
        marks.append(boot.read_text().strip())
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(marks)
