"""What a process and all those below it take: processor time, and memory at its peak."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

LOOK_S = 0.25


@dataclass
class Peak:
    """The most memory seen, bytes, of so many processes at that moment."""

    memory_bytes: int = 0
    processes: int = 0


def cpu_s(pid: int) -> float:
    """Processor time so far of a process and of those below it that still run, s."""
    total = 0.0
    for process in _tree(pid):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


@contextmanager
def watch_memory(pid: int) -> Iterator[Peak]:
    """Look at the memory of a process tree every `LOOK_S` until the block ends.

    Memory that processes share counts in shares (PSS).
    """
    peak, done = Peak(), threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            shares = [share for process in _tree(pid) if (share := _memory(process))]
            if sum(shares) > peak.memory_bytes:
                peak.memory_bytes, peak.processes = sum(shares), len(shares)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
