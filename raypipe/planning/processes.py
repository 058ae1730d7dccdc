"""What a process and those below it take of a machine: CPU time and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Use:
    """CPU time since its start, s, and memory, bytes, of a process.

    Memory shared with other processes counts in shares (PSS); where the system knows no shares,
    memory of its own (USS).
    """

    cpu_s: float
    memory_bytes: int


def tree_use(root: psutil.Process) -> dict[int, Use]:
    """Use of a process and all its descendants, by pid; those that end meanwhile are left out."""
    found = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            found[process.pid] = _use(process)
        except psutil.Error:
            continue
    return found


def own_peak_bytes() -> int:
    """The most memory this process has had: what it has now, and by how much it has shrunk."""
    process = psutil.Process()
    shrunk = max(0, _peak_rss() - process.memory_info().rss)
    return _use(process).memory_bytes + shrunk


def _use(process: psutil.Process) -> Use:
    with process.oneshot():
        times = process.cpu_times()
        memory = process.memory_full_info()
    return Use(times.user + times.system, int(getattr(memory, "pss", memory.uss)))


def _peak_rss() -> int:
    """Peak resident memory of this process, bytes; Linux counts it in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
