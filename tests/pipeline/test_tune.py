"""A search for better settings that is interrupted, killed, and comes to its end.

It runs through the command line, on a Ray of its own: the suite's has no dashboard.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import raypipe
from raypipe.cli import main
from raypipe.config_toml import load_config
from raypipe.embedding.embed import embed
from raypipe.errors import UsageError
from raypipe.store.workspace import Workspace
from raypipe.training.data import read_roster
from raypipe.training.train import model_id_of
from raypipe.tuning.records import DONE, FAILED, STOPPED, Record, Records
from raypipe.tuning.tune import tune
from tests.killing import kill_with_its_ray
from tests.pipeline.training import load, settings
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

TRIALS, EPOCHS = 3, 8
HOPELESS, IDLE = 1e30, 1e-12
CONFIG: dict[str, Any] = {
    **settings(epochs=EPOCHS, batch_size=4, num_workers=1, cpus_per_worker=0.9),
    "tune": {
        "trials": TRIALS,
        "grace_epochs": 2,
        "reduction_factor": 2.0,
        "concurrent_trials": 1,
        "space": {"train.learning_rate": [2e-3, HOPELESS, IDLE]},
    },
    "embed": {"actors": 1},
    "ray": {"num_cpus": 1},
}
"""All three are tried; a trial that is stopped must leave its CPU to the next."""


class Story(NamedTuple):
    """The workspace in the end, exit codes, and trial 0 as it was when the driver was killed."""

    workspace: Workspace
    interrupted: int
    completed: int
    again: int
    answer: dict[str, Any]
    log: str
    before: Record
    files_before: list[str]


def _records(workspace: Workspace) -> Records:
    (tune_id,) = workspace.folders("tuning")
    return Records(workspace, f"tuning/{tune_id}/trials")


def _command(workspace: Workspace) -> list[str]:
    file = Path(workspace.path("tune.toml"))
    file.write_text(load_config(settings=CONFIG).to_toml())
    return ["tune", "--workspace", workspace.root, "--config", str(file), "--json", "-v"]


def _start(workspace: Workspace) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "raypipe.cli", *_command(workspace)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(
    workspace: Workspace, driver: subprocess.Popen[str], there: Callable[[list[Record]], bool]
) -> None:
    def is_there() -> bool:
        assert driver.poll() is None, "it was over before anything could happen to it"
        return bool(workspace.folders("tuning")) and there(_records(workspace).all())

    wait_until(is_there, 300)


def _files(workspace: Workspace, record: Record) -> list[str]:
    return workspace.files(_records(workspace).folder_of(record.model_id))


@pytest.fixture(scope="module")
def story(ingested_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    workspace = Workspace(shutil.copytree(ingested_survey, tmp_path_factory.mktemp("t") / "w"))
    driver = _start(workspace)
    _wait_for(workspace, driver, lambda found: bool(found and found[0].epochs))
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    interrupted = driver.returncode

    driver = _start(workspace)
    _wait_for(workspace, driver, lambda found: len(found) > 1)
    kill_with_its_ray(driver)
    before = _records(workspace).all()[0]
    files_before = _files(workspace, before)

    driver = _start(workspace)
    answer, log = driver.communicate(timeout=600)
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as log_again:
        again = main(_command(workspace))
    assert said.getvalue() == answer
    return Story(
        workspace,
        interrupted,
        driver.returncode,
        again,
        json.loads(answer),
        log + log_again.getvalue(),
        before,
        files_before,
    )


def test_interrupted_and_killed_the_same_command_completes(story: Story) -> None:
    assert (story.interrupted, story.completed, story.again) == (130, 0, 0)
    assert "is already done" in story.log


def test_trials_that_were_done_are_not_done_again(story: Story) -> None:
    assert story.before.is_over
    after = _records(story.workspace).all()[0]
    assert after == story.before
    assert _files(story.workspace, after) == story.files_before, "no events of another training"


def test_each_trial_has_a_row_and_the_hopeless_failed_by_name(story: Story) -> None:
    (tune_id,) = story.workspace.folders("tuning")
    rows = story.workspace.read_table(f"tuning/{tune_id}/trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == list(range(TRIALS))
    assert len({row["model_id"] for row in rows}) == TRIALS
    assert rows[0]["train.learning_rate"] == 2e-3
    status = {row["train.learning_rate"]: row["status"] for row in rows}
    assert status == {2e-3: DONE, HOPELESS: FAILED, IDLE: STOPPED}
    by_rate = {row["train.learning_rate"]: row for row in rows}
    assert "not finite" in by_rate[HOPELESS]["reason"]
    assert 2 <= by_rate[IDLE]["epochs"] < EPOCHS
    assert 0 < by_rate[2e-3]["validation_cash"] < by_rate[IDLE]["validation_cash"]
    summary = story.workspace.read_json(f"tuning/{tune_id}/tuning.json")
    assert sum(summary["trials"].values()) == TRIALS
    assert summary["best"]["model_id"] == story.answer["model_id"]
    assert story.workspace.read_bytes(f"tuning/{tune_id}/trials.png").startswith(b"\x89PNG")


def test_the_best_trial_became_a_model_that_embeds(story: Story) -> None:
    workspace, model_id = story.workspace, story.answer["model_id"]
    assert workspace.folders("models") == [model_id]
    model = load(workspace, model_id)
    (tune_id,) = workspace.folders("tuning")
    assert model.metrics["tuning"] == tune_id
    record = _records(workspace).read(model_id)
    assert record is not None
    assert model.metrics["validation_cash"] == pytest.approx(record.cash)
    assert model.metrics["epochs"] == EPOCHS
    assert model.metrics["optimizer_steps"] == EPOCHS * model.metrics["steps_per_epoch"]
    best = load_config(workspace.path(f"tuning/{tune_id}/best.toml"))
    assert model_id_of(best, read_roster(workspace, "sim", best.train)) == model_id
    embed(workspace, model=model_id, config=CONFIG)
    catalog = raypipe.open_catalog(workspace.root)
    assert len(catalog) == 160
    assert np.isfinite(catalog["z0"]).all()


def test_nothing_is_left_of_the_trials_that_lost(story: Story) -> None:
    (tune_id,) = story.workspace.folders("tuning")
    assert story.workspace.folders("checkpoints") == [story.answer["model_id"]]
    assert story.workspace.folders(f"tuning/{tune_id}") == ["trials"]


def test_a_ray_without_dashboard_is_refused_not_waited_for(
    ingested_survey: Path, tmp_path: Path
) -> None:
    workspace = shutil.copytree(ingested_survey, tmp_path / "w")
    with pytest.raises(UsageError, match="without its dashboard"):
        tune(workspace, config=CONFIG)
