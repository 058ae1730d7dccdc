"""Killing a command that has started a Ray of its own."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress

import psutil


def kill_with_its_ray(driver: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kill a command, and assert that the workers of its Ray end within a minute.

    Ray's agents, which do no work of raypipe's, may live on; they are ended here.
    """
    processes = psutil.Process(driver.pid).children(recursive=True)
    agents = [each for each in processes if "agent" in _title(each).lower()]
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    _, alive = psutil.wait_procs([each for each in processes if each not in agents], timeout=60)
    for agent in agents:
        with suppress(psutil.NoSuchProcess):
            agent.kill()
    assert not alive, "they work without their driver"


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
