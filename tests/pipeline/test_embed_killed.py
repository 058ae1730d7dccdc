"""The driver of `raypipe embed` killed: no half catalog is seen, and the next run goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raypipe
from raypipe.cli import main
from raypipe.errors import UsageError
from raypipe.store.publication import find_publication
from raypipe.store.workspace import Workspace
from tests.alone import ingest_alone
from tests.killing import kill_with_its_ray
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"
PART_ROWS = 10
OPTIONS = [
    "--set=ray.num_cpus=2",
    "--set=embed.actors=1",
    "--set=embed.refine_steps=60",
    f"--set=discover.part_rows={PART_ROWS}",
]


def _command(workspace: Path) -> list[str]:
    return ["embed", "--workspace", str(workspace), "--model", str(MODEL), *OPTIONS]


def _start(workspace: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the command in a process with its own Ray; its standard error goes to a file."""
    command = [sys.executable, "-m", "raypipe.cli", *_command(workspace)]
    with log.open("wb") as stderr:
        return subprocess.Popen(command, start_new_session=True, stderr=stderr)


def _parts(workspace: Workspace) -> set[str]:
    return {
        name for folder in workspace.folders("catalog/sim") for name in _files(workspace, folder)
    }


def _files(workspace: Workspace, folder: str) -> list[str]:
    return workspace.files(f"catalog/sim/{folder}", ".parquet")


def _figures(workspace: Workspace) -> dict[str, Any]:
    last = max(name for name in workspace.folders("runs") if name.endswith("-embed"))
    found: dict[str, Any] = workspace.read_json(f"runs/{last}/run.json")["figures"]
    return found


@pytest.mark.usefixtures("local_ray")
def test_a_killed_driver_leaves_no_half_catalog(survey: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    config = {"discover": {"part_rows": PART_ROWS}}
    raypipe.discover(workspace, source=str(survey), config=config)
    ingest_alone(workspace, "sim")
    log = tmp_path / "log"
    driver = _start(tmp_path / "w", log)
    wait_until(lambda: len(_parts(workspace)) >= 2 or driver.poll() is not None)
    assert driver.poll() is None, "it was over before it could be killed"
    kill_with_its_ray(driver)
    assert "embed: starting 1 encoder (about 10 s)" in log.read_text()
    assert "core_worker" not in log.read_text(), "Ray's warning about restarts is no error here"
    done = {name: workspace.modified(name) for name in _parts(workspace)}
    assert 2 <= len(done) < 16
    with pytest.raises(UsageError, match="run raypipe embed first"):
        raypipe.open_catalog(workspace)

    assert main(_command(tmp_path / "w")) == 0
    assert _figures(workspace)["work"]["kept"] == 0
    assert {name: workspace.modified(name) for name in done} == done
    publication = find_publication(workspace, "sim", workspace.folders("models")[0])
    assert publication is not None
    assert (publication.number, publication.rows) == (1, 160)
    assert _parts(workspace) == set(publication.parts)

    spectra = workspace.read_folder("spectra/sim")["detection_id"].to_pylist()
    assert sorted(raypipe.open_catalog(workspace)["detection_id"]) == sorted(spectra)
