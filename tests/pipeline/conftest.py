"""One Ray, one small survey for all pipeline tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from raypipe.config import IngestConfig, RayConfig
from raypipe.discovery.discover import discover
from raypipe.ingestion.ingest import ingest
from raypipe.ingestion.part import ingest_part
from raypipe.ray_session import ray_session
from raypipe.simulation.simulate import simulate
from raypipe.store.workspace import Workspace
from tests.pipeline.fetching import DETECTIONS, RELEASE
from tests.pipeline.file_server import FileServer, serve, write_remote_manifest
from tests.pipeline.training import SETTINGS


@pytest.fixture(scope="session")
def local_ray(isolated_home: Path) -> Iterator[None]:
    """A Ray of this process, started once."""
    with ray_session(RayConfig(address="local", num_cpus=2)):
        assert ray.is_initialized()
        yield


@pytest.fixture(scope="session")
def session_address(local_ray: None) -> str:
    """What RAY_ADDRESS must be for a command to join that Ray; the token is in their HOME."""
    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def ingested_survey(
    local_ray: None, survey: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace with the survey's spectra in parts of 40; to be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("ingested")
    discover(folder, source=str(survey), catalog=survey / "truth.parquet", config=SETTINGS)
    ingest(folder, config=SETTINGS)
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    simulate(folder, detections=DETECTIONS, seed=5)
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[FileServer]:
    with serve(served) as server:
        yield server


@pytest.fixture(scope="session")
def unbroken(served: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The spectra of a run in which nothing goes wrong."""
    workspace = Workspace(tmp_path_factory.mktemp("unbroken"))
    with serve(served) as server:
        write_remote_manifest(workspace, served, server)
        outcome = ingest_part(workspace, RELEASE, 0, IngestConfig(rmf="exact"))
    assert (outcome.spectra, outcome.retries) == (DETECTIONS, 0)
    return workspace.read_folder(f"spectra/{RELEASE}").drop_columns("source_uri")
