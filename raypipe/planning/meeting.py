"""Tasks that wait for each other, so that what is timed is timed with all of them at work."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

import ray

_PATIENCE_S = 60.0
"""How long a task waits for others that Ray has not started."""


class _Meeting:
    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._complete = asyncio.Event()

    async def join(self) -> None:
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._complete.wait(), _PATIENCE_S)

    async def pid(self) -> int:
        return os.getpid()


class Meeting:
    """Where a number of tasks meet; kept by an actor, which needs no CPU."""

    def __init__(self, expected: int) -> None:
        self._actor: Any = ray.remote(num_cpus=0)(_Meeting).remote(expected)

    def join(self) -> None:
        """Wait until all have joined, or too long."""
        ray.get(self._actor.join.remote())

    @property
    def pid(self) -> int:
        """Pid of the actor's process."""
        return int(ray.get(self._actor.pid.remote()))
