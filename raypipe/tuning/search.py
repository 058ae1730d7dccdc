"""Propose trials with Optuna, stop them with ASHA, and record what Ray Tune reports of them."""

from __future__ import annotations

import logging
import math
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from raypipe.errors import UsageError
from raypipe.training.train import name_model
from raypipe.tuning.records import CASH, DONE, FAILED, STOPPED, Record, Records, Values
from raypipe.tuning.space import Space

log = logging.getLogger(__name__)

_MOST_DRAWS = 200


class Draws(OptunaSearch):
    """Propose settings with Optuna, but never invalid settings or the same settings twice.

    The first proposal is the configured values. A proposal has a `number`, its `values`, and the
    `model_id` that these values give for the data with this `fingerprint`. The search ends if
    Optuna finds no new proposal.
    """

    def __init__(self, space: Space, fingerprint: str, seed: int) -> None:
        super().__init__(
            space.distributions,
            metric=CASH,
            mode="min",
            points_to_evaluate=[space.default],
            seed=seed,
        )
        self._base, self._fingerprint = space, fingerprint
        self._draws: dict[str, str] = {}
        self._models: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Propose values for a trial, and give the id of their model."""
        for attempt in range(_MOST_DRAWS):
            draw = f"{trial_id}/{attempt}"
            values = super().suggest(draw)
            model_id = self._model_of(values)
            if model_id is not None and model_id not in self._models:
                self._draws[trial_id] = draw
                self._models.add(model_id)
                number = len(self._models) - 1
                return {"number": number, "values": values, "model_id": model_id}
            super().on_trial_complete(draw, error=True)
        log.info(
            "tune: Optuna proposed no new settings %d times; the search space is exhausted",
            _MOST_DRAWS,
        )
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ignore reports: Optuna gets the result of a trial once, at its end."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the result of a trial to Optuna."""
        super().on_trial_complete(self._draws[trial_id], result, error)

    def _model_of(self, values: Values) -> str | None:
        try:
            return name_model(self._base.settings(values), self._fingerprint)
        except UsageError:
            return None


class Halving(ASHAScheduler):
    """Stop trials by ASHA, and after a restart read their earlier reports from the records.

    Ray Tune restores the trials and the search, but not the scheduler. The scheduler does not stop
    a trial that has completed all epochs, because that trial ends by itself.
    """

    def __init__(self, records: Records, epochs: int, grace_epochs: int, factor: float) -> None:
        super().__init__(
            time_attr="epochs",
            metric=CASH,
            mode="min",
            max_t=epochs,
            grace_period=min(grace_epochs, epochs),
            reduction_factor=factor,
        )
        self._records, self._epochs = records, epochs

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Add a trial, and replay the reports in its record."""
        super().on_trial_add(tune_controller, trial)
        record = self._records.read(trial.config["model_id"])
        for report in record.course if record else []:
            self.on_trial_result(tune_controller, trial, report)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return whether a trial continues."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        is_last = result["epochs"] >= self._epochs or not math.isfinite(result[CASH])
        return str(TrialScheduler.CONTINUE) if is_last else decision


class Recorder(Callback):
    """Keep the records of trials and log one line per report."""

    def __init__(self, records: Records, epochs: int) -> None:
        self._records, self._epochs = records, epochs

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Create a record, unless one exists from before a restart."""
        if self._records.read(trial.config["model_id"]) is None:
            began = not self._records.workspace.exists(f"checkpoints/{trial.config['model_id']}")
            record = Record(trial_id=trial.trial_id, began_here=began, **trial.config)
            self._records.write(record)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        """Add a report to the record."""
        record = self._read(trial)
        if record.is_over:
            return
        if result.get("failure"):
            self._end(record, FAILED, result["failure"])
            return
        if record.add(result):
            self._records.write(record)
            _log(record, f"epoch {record.epochs}/{self._epochs}, Cash per bin {record.cash:.4f}")
        if result.get("finished"):
            self._end(record, DONE)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """Close the record of a trial that the scheduler stopped."""
        record = self._read(trial)
        if not record.is_over:
            self._end(record, STOPPED)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Close the record of a trial whose process died."""
        error = trial.get_error()
        self._end(self._read(trial), FAILED, str(error).strip().splitlines()[-1])

    def _read(self, trial: Trial) -> Record:
        record = self._records.read(trial.config["model_id"])
        assert record is not None
        return record

    def _end(self, record: Record, status: str, reason: str = "") -> None:
        record.status, record.reason = status, reason
        self._records.write(record)
        _log(record, f"{status}{f': {reason}' if reason else ''}")


def _log(record: Record, what: str) -> None:
    log.info("tune: trial %d, %s: %s", record.number, record.model_id, what)
