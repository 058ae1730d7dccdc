"""Training whose workers and driver are killed: the same course, the same number of steps.

That the same seed takes the same course on the same CPUs is shown by all of them.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from raypipe.training import train as train_verb
from raypipe.training.train import train
from raypipe.workspace import Workspace
from tests.pipeline.training import course, load, settings, training_workers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

EPOCHS = 12
LONG = settings(epochs=EPOCHS, batch_size=2, patience=EPOCHS)
"""Epochs of a second or so, that something can happen within."""


class _Killer(logging.Handler):
    """Kills a worker, the first one and then the last one, in the middle of the epochs named."""

    def __init__(self, *epochs: int) -> None:
        super().__init__(logging.INFO)
        self.waiting = list(epochs)
        self.killed: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if not self.waiting or f"epoch {self.waiting[0]}/{EPOCHS}, 5" not in line:
            return
        workers = training_workers(psutil.Process())
        workers[0 if len(self.killed) == 0 else -1].send_signal(signal.SIGKILL)
        self.waiting.pop(0)
        self.killed.append(line)


@pytest.fixture(scope="module")
def unbroken(ingested_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(shutil.copytree(ingested_survey, tmp_path_factory.mktemp("u") / "w"))
    train(workspace, config=LONG)
    return workspace


def _copy(ingested_survey: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(ingested_survey, tmp_path / "w"))


def _only_metrics(workspace: Workspace) -> dict[str, object]:
    (model_id,) = workspace.folders("models")
    return load(workspace, model_id).metrics


def test_killed_workers_cost_an_epoch_each(
    unbroken: Workspace, ingested_survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = _copy(ingested_survey, tmp_path)
    monkeypatch.setattr(train_verb, "_TELL_EVERY_S", 0.0)
    killer = _Killer(3, 5)
    logger = logging.getLogger("raypipe.training.progress")
    logger.addHandler(killer)
    try:
        train(workspace, config=LONG)
    finally:
        logger.removeHandler(killer)
    metrics, whole = _only_metrics(workspace), _only_metrics(unbroken)
    assert len(killer.killed) == 2
    for resumed_after, finished in zip(metrics["resumed_after_epochs"], (2, 4), strict=True):
        assert finished - 1 <= resumed_after <= finished, "a checkpoint may be on its way, not two"
    assert course(metrics) == course(whole)
    assert whole["optimizer_steps"] == EPOCHS * whole["steps_per_epoch"]
    assert metrics["optimizer_steps"] == whole["optimizer_steps"]
    assert metrics["best_optimizer_steps"] == whole["best_optimizer_steps"]


def _start(workspace: Workspace, *more: str) -> subprocess.Popen[bytes]:
    command = "import sys; from raypipe.cli import main; sys.exit(main())"
    options = [
        f"{section}.{key}={value}" for section in LONG for key, value in LONG[section].items()
    ]
    options += ["ray.num_cpus=2", *more]
    chosen = [text for option in options for text in ("--set", option)]
    return subprocess.Popen(
        [sys.executable, "-c", command, "train", "--workspace", workspace.root, *chosen],
        start_new_session=True,
    )


def test_a_killed_driver_goes_on_with_as_many_workers_or_others(
    unbroken: Workspace, ingested_survey: Path, tmp_path: Path
) -> None:
    workspace = _copy(ingested_survey, tmp_path)
    driver = _start(workspace)
    _wait_for_an_epoch(workspace, driver)
    workers = training_workers(psutil.Process(driver.pid))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert workspace.folders("models") == []
    other = Workspace(shutil.copytree(workspace.root, tmp_path / "other"))
    assert _start(workspace).wait(300) == 0
    assert _start(other, "train.num_workers=[1, 2]").wait(300) == 0
    whole = _only_metrics(unbroken)
    for each in workspace, other:
        metrics = _only_metrics(each)
        (resumed_after,) = metrics["resumed_after_epochs"]
        assert 1 <= resumed_after < EPOCHS
        assert metrics["optimizer_steps"] == whole["optimizer_steps"]
        assert course(metrics)[:resumed_after] == course(whole)[:resumed_after]
    assert course(_only_metrics(workspace)) == course(whole)
    assert _only_metrics(other)["workers"] in (1, 2)


def test_an_interrupted_driver_says_so_and_goes_on(
    unbroken: Workspace, ingested_survey: Path, tmp_path: Path
) -> None:
    workspace = _copy(ingested_survey, tmp_path)
    driver = _start(workspace)
    _wait_for_an_epoch(workspace, driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert workspace.folders("models") == []
    assert _start(workspace).wait(300) == 0
    metrics, whole = _only_metrics(workspace), _only_metrics(unbroken)
    assert metrics["resumed_after_epochs"]
    assert course(metrics) == course(whole)


def _wait_for_an_epoch(workspace: Workspace, driver: subprocess.Popen[bytes]) -> None:
    """Until Ray Train has registered a checkpoint and training goes on."""
    deadline = time.monotonic() + 120
    while not list(Path(workspace.root).glob("checkpoints/*/epoch-00001/*.pt")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
