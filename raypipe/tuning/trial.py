"""Run one trial: the function that Ray Tune calls, which trains with Ray Train."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from raypipe.store.workspace import Workspace
from raypipe.training.train import Training, fit
from raypipe.tuning.records import CASH, DONE, FAILED, STOPPED, Records
from raypipe.tuning.space import Space


@dataclass(frozen=True)
class Task:
    """Hold the data that all trials of a tuning share."""

    workspace: Workspace
    release: str
    tune_id: str
    spectra: int
    space: Space
    records: Records


def trial_function(task: Task) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the function that trains one trial; Ray Tune calls it with a proposal.

    A proposal has `values` and a `model_id`. The function returns the trial's last report. It needs
    almost no CPU itself: Ray Train's workers do the work. They resume from the model's last
    checkpoint, and Ray Tune receives each of their reports. An error ends the trial but not the
    tuning.
    """

    def tune_trial(drawn: dict[str, Any]) -> dict[str, Any]:
        model_id = drawn["model_id"]
        record = task.records.read(model_id)
        if record is not None and record.status in (DONE, STOPPED):
            return {**record.course[-1], "finished": record.status == DONE}
        if record is not None and record.status == FAILED:
            return _failure(record.reason)
        training = Training(
            task.workspace, task.release, model_id, task.spectra, task.tune_id, trial=True
        )
        settings = task.space.settings(drawn["values"])
        try:
            outcome = fit(
                training, settings, task.records.folder_of(model_id), [TuneReportCallback()]
            )
        except Exception as error:
            return _failure(str(error).strip() or repr(error))
        return {**outcome, "finished": True}

    return tune_trial


def _failure(reason: str) -> dict[str, Any]:
    return {"failure": reason, "epochs": 0, CASH: math.inf}
