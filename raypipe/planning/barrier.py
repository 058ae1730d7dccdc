"""Let tasks wait for each other, so that each is timed while all of them are running."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

import ray

_PATIENCE_S = 60.0
"""Longest wait, s, for tasks that Ray has not started."""


class _BarrierActor:
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


class Barrier:
    """Let a number of tasks wait for each other, by an actor that uses no CPU."""

    def __init__(self, expected: int) -> None:
        self._actor: Any = ray.remote(num_cpus=0)(_BarrierActor).remote(expected)

    def join(self) -> None:
        """Wait until all tasks have joined, or until the time limit."""
        ray.get(self._actor.join.remote())

    @property
    def pid(self) -> int:
        """Return the process id of the actor."""
        return int(ray.get(self._actor.pid.remote()))
