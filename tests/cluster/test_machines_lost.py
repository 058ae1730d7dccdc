"""Machines lost in the middle of ingestion, training and embedding, twice each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import raypipe
from raypipe.store.workspace import Workspace
from tests.alone import choose_rmfs_alone, ingest_alone
from tests.cluster.conftest import Moments
from tests.cluster.machines import Machines, drafts
from tests.pipeline.file_server import serve, write_remote_manifest
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

LOSSES = 2
MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"
RELEASE = "csc2.1"
EPOCHS = 8


def _lose_machines(
    machines: Machines,
    driver: subprocess.Popen[bytes],
    done: Callable[[], int],
    moments: Moments,
    worker: str,
) -> None:
    """Each time more was done, kill a machine that works, and bring another."""
    for _ in range(LOSSES):
        seen = done()
        wait_until(lambda: done() > seen or driver.poll() is not None)  # noqa: B023
        moments.wait()
        wait_until(lambda: machines.working(worker) or driver.poll() is not None)
        assert driver.poll() is None, "it was over before a machine could be lost"
        machines.kill(moments.choose(machines.working(worker)))
        machines.add()


def test_ingest(machines: Machines, survey: Path, tmp_path: Path, moments: Moments) -> None:
    with serve(survey) as server:
        unbroken, workspace = Workspace(tmp_path / "unbroken"), Workspace(tmp_path / "w")
        for each in unbroken, workspace:
            write_remote_manifest(each, survey, server, part_rows=10)
        ingest_alone(unbroken, RELEASE)
        choose_rmfs_alone(workspace, RELEASE)
        server.latency_s = 0.15
        driver = machines.start("ingest", tmp_path / "w", "--set", "ingest.fetch_threads=1")

        def parts() -> int:
            return len(workspace.files(f"spectra/{RELEASE}"))

        _lose_machines(machines, driver, parts, moments, "MapBatches(ingest)")
        assert driver.wait(120) == 0
    for folder in f"spectra/{RELEASE}", f"rejects/{RELEASE}":
        assert workspace.read_folder(folder).equals(unbroken.read_folder(folder))
    assert drafts(tmp_path / "w") == []


def test_train(machines: Machines, ingested: Path, tmp_path: Path, moments: Moments) -> None:
    workspace = Workspace(shutil.copytree(ingested, tmp_path / "w"))
    small = "model.width=16", "model.depth=1", "model.heads=2", "model.decoder_width=32"
    steps = (
        f"train.epochs={EPOCHS}",
        f"train.patience={EPOCHS}",
        "train.batch_size=2",
        "train.max_failures=10",
    )
    options = [text for each in (*small, *steps) for text in ("--set", each)]
    driver = machines.start("train", tmp_path / "w", *options)
    _lose_machines(
        machines,
        driver,
        lambda: _newest_epoch(tmp_path / "w" / "checkpoints"),
        moments,
        "RayTrainWorker",
    )
    assert driver.wait(300) == 0
    (model_id,) = workspace.folders("models")
    metrics = raypipe.load_model(workspace.absolute_uri(f"models/{model_id}")).metrics
    assert 1 <= len(metrics["resumed_after_epochs"]) <= LOSSES
    assert metrics["epochs"] == EPOCHS
    assert metrics["optimizer_steps"] == EPOCHS * metrics["steps_per_epoch"]
    assert drafts(tmp_path / "w") == []


def _newest_epoch(checkpoints: Path) -> int:
    epochs = checkpoints.glob("*/epoch-*/*.pt")
    return max((int(path.parent.name.removeprefix("epoch-")) for path in epochs), default=-1)


def test_embed(machines: Machines, ingested: Path, tmp_path: Path, moments: Moments) -> None:
    workspace = Workspace(shutil.copytree(ingested, tmp_path / "w"))
    slowly = "--set=embed.refine_steps=60", "--set=embed.batch_size=1"
    driver = machines.start("embed", tmp_path / "w", "--model", str(MODEL), *slowly)

    def parts() -> int:
        return sum(
            len(workspace.files(f"catalog/sim/{name}", ".parquet"))
            for name in workspace.folders("catalog/sim")
        )

    _lose_machines(machines, driver, parts, moments, "MapBatches(embed)")
    assert driver.wait(300) == 0
    spectra = workspace.read_folder("spectra/sim")["detection_id"].to_pylist()
    assert sorted(raypipe.open_catalog(workspace)["detection_id"]) == sorted(spectra)
    assert drafts(tmp_path / "w") == []
