"""Measure CPU time and peak memory of a process and its descendants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from raypipe.planning.processes import tree_use

LOOK_S = 0.25


@dataclass
class Taken:
    """Resources that a process tree has used.

    CPU time, s, of all processes seen, including ended ones; peak memory, bytes, and the number of
    processes at the peak.
    """

    cpu_s: float = 0.0
    memory_bytes: int = 0
    processes: int = 0


@contextmanager
def watch(pid: int) -> Iterator[Taken]:
    """Sample a process tree every `LOOK_S` until the block ends."""
    taken, done = Taken(), threading.Event()
    cpu_s: dict[int, float] = {}

    def look() -> None:
        while not done.wait(LOOK_S):
            try:
                use = tree_use(psutil.Process(pid))
            except psutil.Error:
                continue
            cpu_s.update((process, each.cpu_s) for process, each in use.items())
            taken.cpu_s = sum(cpu_s.values())
            memory_bytes = sum(each.memory_bytes for each in use.values())
            if memory_bytes > taken.memory_bytes:
                taken.memory_bytes, taken.processes = memory_bytes, len(use)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield taken
    finally:
        done.set()
        watcher.join()


def cpu_s_of(pid: int) -> float:
    """Return the CPU time so far, s, of a process and its running descendants."""
    return sum(each.cpu_s for each in tree_use(psutil.Process(pid)).values())
