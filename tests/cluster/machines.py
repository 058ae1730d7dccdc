"""Machines of a Ray cluster, on this one, that can die; and drivers that join them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

QUICKLY_MISSED = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
"""A machine that died is found to be within some seconds, not half a minute."""
COMMAND = "import sys; from raypipe.cli import main; sys.exit(main())"


class Machines:
    """A head without CPUs, and machines of one CPU each."""

    def __init__(
        self, count: int = 3, system: Mapping[str, Any] | None = None, **machine: Any
    ) -> None:
        self._machine = {"num_cpus": 1, **machine}
        config = {**QUICKLY_MISSED, **(system or {})}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": config}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self._cluster.add_node(**self._machine) for _ in range(count)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def raylet(self, node: Any) -> psutil.Process:
        return psutil.Process(node.all_processes["raylet"][0].process.pid)

    def workers(self, node: Any, name: str = "ray::") -> list[psutil.Process]:
        """A machine's processes that do work, those with `name` in their title."""
        found = self.raylet(node).children(recursive=True)
        return [each for each in found if name in _title(each)]

    def working(self, name: str) -> list[Any]:
        """Machines that have processes with `name` in their title."""
        return [node for node in self.nodes if self.workers(node, name)]

    def kill(self, node: Any) -> None:
        """End a machine as a power cut does: all its processes at once, none is asked."""
        raylet = self.raylet(node)
        processes = [raylet, *raylet.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def add(self) -> None:
        """A new machine, as an autoscaler brings one for one that was lost."""
        self.nodes.append(self._cluster.add_node(**self._machine))

    def start(self, verb: str, workspace: Path, *options: str) -> subprocess.Popen[bytes]:
        """A driver of `raypipe VERB` that joins these machines."""
        command = [sys.executable, "-c", COMMAND, verb, "--workspace", str(workspace), *options]
        environment = os.environ | {"RAY_ADDRESS": self.address}
        return subprocess.Popen(command, env=environment, start_new_session=True)

    def ended_workers(self) -> bool:
        """Whether a machine has said that it ended workers to have memory again."""
        logs = Path(self._cluster.head_node.get_logs_dir_path()).glob("raylet*")
        return any("Ray killed" in log.read_text(errors="replace") for log in logs)

    def shutdown(self) -> None:
        self._cluster.shutdown()


def drafts(workspace: Path) -> list[Path]:
    """What was left half written."""
    return sorted(workspace.rglob(".*.tmp"))


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
