"""The driver of `raypipe embed` killed: no half catalog is seen, and the next run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import raypipe
from raypipe.catalog.publication import find_publication
from raypipe.errors import UsageError
from raypipe.workspace import Workspace
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-1"
PART_ROWS = 10
OPTIONS = [
    "--set=ray.num_cpus=2",
    "--set=embed.actors=1",
    "--set=embed.refine_steps=60",
    f"--set=discover.part_rows={PART_ROWS}",
]


def _start(workspace: Path) -> subprocess.Popen[bytes]:
    command = "import sys; from raypipe.cli import main; sys.exit(main())"
    options = ["embed", "--workspace", str(workspace), "--model", str(MODEL), *OPTIONS]
    return subprocess.Popen([sys.executable, "-c", command, *options], start_new_session=True)


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


def test_a_killed_driver_leaves_no_half_catalog(survey: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    config = {"discover": {"part_rows": PART_ROWS}, "ray": {"num_cpus": 2}}
    raypipe.discover(workspace, source=str(survey), config=config)
    raypipe.ingest(workspace, config=config)
    driver = _start(tmp_path / "w")
    wait_until(lambda: len(_parts(workspace)) >= 2 or driver.poll() is not None)
    assert driver.poll() is None, "it was over before it could be killed"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    seen = -1
    while seen != len(_parts(workspace)):
        seen = len(_parts(workspace))
        time.sleep(2)
    done = {name: workspace.modified(name) for name in _parts(workspace)}
    assert 2 <= len(done) < 16
    with pytest.raises(UsageError, match="run raypipe embed first"):
        raypipe.open_catalog(workspace)

    assert _start(tmp_path / "w").wait(300) == 0
    assert _figures(workspace)["work"]["kept"] == 0
    assert {name: workspace.modified(name) for name in done} == done
    publication = find_publication(workspace, "sim", workspace.folders("models")[0])
    assert publication is not None
    assert (publication.number, publication.rows) == (1, 160)
    assert _parts(workspace) == set(publication.parts)

    spectra = workspace.read_folder("spectra/sim")["detection_id"].to_pylist()
    assert sorted(raypipe.open_catalog(workspace)["detection_id"]) == sorted(spectra)
