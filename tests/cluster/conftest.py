"""Three machines, and a survey's spectra to train on and embed there."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import raypipe
from raypipe.workspace import Workspace
from tests.cluster.machines import Machines, ingest_alone

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


@pytest.fixture
def moments() -> random.Random:
    """Decides when a machine dies; RAYPIPE_TEST_SEED repeats what failed."""
    seed = int(os.environ.get("RAYPIPE_TEST_SEED", random.randrange(10**6)))
    print(f"RAYPIPE_TEST_SEED={seed}")
    return random.Random(seed)
