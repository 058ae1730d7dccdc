"""Three machines, and a survey's spectra to train on and embed there."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raypipe
from raypipe.store.workspace import Workspace
from tests.alone import ingest_alone
from tests.cluster.machines import Machines

PART_ROWS = 10


@pytest.fixture(scope="module")
def machines(isolated_home: Path) -> Iterator[Machines]:
    """Three machines of one CPU each beside a head without any."""
    machines = Machines()
    yield machines
    machines.shutdown()


@pytest.fixture(scope="session")
def ingested(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the survey's spectra in parts of 10; to be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("ingested")
    config = {"discover": {"part_rows": PART_ROWS}}
    raypipe.discover(folder, source=str(survey), catalog=survey / "truth.parquet", config=config)
    ingest_alone(Workspace(folder), "sim")
    return folder


class Moments:
    """Decides which machine is harmed, and when: with a seed at random, else the first, at once."""

    def __init__(self, seed: str | None) -> None:
        self._random = random.Random(seed) if seed else None

    def choose(self, machines: list[Any]) -> Any:
        """One of the machines."""
        return self._random.choice(machines) if self._random else machines[0]

    def wait(self) -> None:
        """Let up to a second pass."""
        if self._random:
            time.sleep(self._random.uniform(0.0, 1.0))


@pytest.fixture
def moments() -> Moments:
    """RAYPIPE_TEST_SEED=n draws other moments than those of every run of the suite."""
    return Moments(os.environ.get("RAYPIPE_TEST_SEED"))
