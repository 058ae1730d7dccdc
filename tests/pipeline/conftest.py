"""One Ray, one small survey for all pipeline tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from raypipe.cluster import ray_session
from raypipe.config import RayConfig
from raypipe.simulation.simulate import simulate


@pytest.fixture(scope="session")
def local_ray(isolated_home: Path) -> Iterator[None]:
    """A Ray of this process, started once."""
    with ray_session(RayConfig(address="local", num_cpus=2)):
        assert ray.is_initialized()
        yield


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated survey of 160 detections as FITS files; not to be changed."""
    folder = tmp_path_factory.mktemp("survey")
    simulate(folder, detections=160, seed=3)
    return folder
