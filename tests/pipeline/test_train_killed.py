"""Training whose workers and driver are killed: the same course, the same number of steps.

What they are compared with is trained by processes without Ray Train, which takes the same course.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raypipe.store.workspace import Workspace
from raypipe.training import train as train_verb
from raypipe.training.train import train
from tests.killing import kill_with_its_ray
from tests.pipeline.processes import training_in_processes
from tests.pipeline.training import course, load, settings, training_workers
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

EPOCHS = 20
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
    with training_in_processes():
        train(workspace, config=LONG)
    return workspace


@pytest.fixture
def workspace(ingested_survey: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(ingested_survey, tmp_path / "w"))


def _only_metrics(workspace: Workspace) -> dict[str, object]:
    (model_id,) = workspace.folders("models")
    return load(workspace, model_id).metrics


def test_killed_workers_cost_an_epoch_each(
    unbroken: Workspace, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def _start(workspace: Workspace) -> subprocess.Popen[bytes]:
    command = "import sys; from raypipe.cli import main; sys.exit(main())"
    options = [
        f"{section}.{key}={value}" for section in LONG for key, value in LONG[section].items()
    ]
    chosen = [text for option in [*options, "ray.num_cpus=2"] for text in ("--set", option)]
    return subprocess.Popen(
        [sys.executable, "-c", command, "train", "--workspace", workspace.root, *chosen],
        start_new_session=True,
    )


def test_an_interrupted_and_a_killed_driver_go_on(
    unbroken: Workspace,
    workspace: Workspace,
    session_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first two have a Ray of their own, which ends with them; the last joins one that runs."""
    driver = _start(workspace)
    _wait_for_two_epochs(workspace, driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert workspace.folders("models") == []

    driver = _start(workspace)
    _wait_for_two_epochs(workspace, driver)
    assert len(training_workers(psutil.Process(driver.pid))) == 2
    kill_with_its_ray(driver)
    assert workspace.folders("models") == []

    monkeypatch.setenv("RAY_ADDRESS", session_address)
    assert _start(workspace).wait(300) == 0
    metrics, whole = _only_metrics(workspace), _only_metrics(unbroken)
    interrupted, killed = metrics["resumed_after_epochs"]
    assert 1 <= interrupted < killed < EPOCHS
    assert metrics["optimizer_steps"] == whole["optimizer_steps"]
    assert course(metrics) == course(whole)


def _wait_for_two_epochs(workspace: Workspace, driver: subprocess.Popen[bytes]) -> None:
    """Until a second checkpoint is written, and the first one registered with Ray Train."""

    def newest() -> int:
        try:
            written = list(Path(workspace.root).glob("checkpoints/*/epoch-*/*.pt"))
        except FileNotFoundError:  # An older checkpoint was deleted during the search.
            return -1
        return max((int(path.parent.name.removeprefix("epoch-")) for path in written), default=-1)

    before = newest()
    wait_until(lambda: newest() >= before + 2 or driver.poll() is not None, 300)
    assert driver.poll() is None, "it was over before anything could happen to it"
