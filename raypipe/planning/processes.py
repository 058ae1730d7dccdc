"""Measure the CPU time and memory of a process and its descendants."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Use:
    """Hold a process's CPU time since the start, s, and its memory, bytes.

    Memory shared with other processes is divided among them (PSS); on systems that do not report
    PSS only private memory counts (USS).
    """

    cpu_s: float
    memory_bytes: int


def tree_use(root: psutil.Process) -> dict[int, Use]:
    """Measure a process and its descendants, by pid; processes that end meanwhile are left out."""
    found = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            found[process.pid] = _use(process)
        except psutil.Error:
            continue
    return found


def own_peak_bytes() -> int:
    """Return this process's peak memory, bytes: its memory now plus RSS lost since the peak."""
    process = psutil.Process()
    shrunk = max(0, _peak_rss() - process.memory_info().rss)
    return _use(process).memory_bytes + shrunk


def _use(process: psutil.Process) -> Use:
    with process.oneshot():
        times = process.cpu_times()
        memory = process.memory_full_info()
    return Use(times.user + times.system, int(getattr(memory, "pss", memory.uss)))


def _peak_rss() -> int:
    """Return the peak resident memory of this process, bytes (Linux reports KiB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
