"""Search for settings that explain the spectra better, with Ray Tune."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune as ray_tune

from raypipe._version import __version__
from raypipe.catalog.split import TRAIN
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.errors import RaypipeError
from raypipe.ray_session import ray_session, require_dashboard, require_resources
from raypipe.store.layout import model_folder, tuning_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.run_record import made_by
from raypipe.store.workspace import Workspace
from raypipe.training.data import Roster, read_roster
from raypipe.training.train import EXECUTION, make_model, resources_of, with_preset
from raypipe.tuning.figure import parallel_coordinates
from raypipe.tuning.records import CASH, Record, Records, best_of, records_of
from raypipe.tuning.search import Draws, Halving, Recorder
from raypipe.tuning.space import Space, read_space
from raypipe.tuning.table import table_lines, table_of
from raypipe.tuning.trial import Task, trial_function
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_DRIVER_CPUS = 0.01
_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@verb
def tune(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    preset: str | None = None,
    trials: int | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Search for better settings of model and training; returns the id of the best trial's model.

    Trials are compared by the Cash statistic of validation spectra (`raypipe.model.holdout_cash`).
    The first trial is the configured settings. The same command resumes an interrupted search, and
    finds a finished one. Results are in `W/tuning/<tune_id>/`. Raises BusyError if another run
    performs the same search.
    """
    workspace, settings = call.workspace, with_preset(call.config, preset)
    if trials is not None:
        changed = settings.model_dump()
        changed["tune"]["trials"] = trials
        settings = load_config(settings=changed)
    release = choose_release(workspace, release)
    space = read_space(settings)
    roster = read_roster(workspace, release, settings.train)
    tune_id = tune_id_of(settings, roster.fingerprint)
    folder = tuning_folder(tune_id)
    records = records_of(workspace, tune_id)
    if workspace.exists(f"{folder}/tuning.json"):
        log.info("tune: %s is already done", tune_id)
        values = workspace.read_json(f"{folder}/tuning.json")["best"]["values"]
        return make_model(workspace, release, space.settings(values), tune_id)
    with (
        call.recorded(settings) as figures,
        exclusive(workspace, f"tune-{tune_id}", [folder]),
        ray_session(settings.ray, dashboard=True),
    ):
        require_dashboard()
        wanted = resources_of(settings.train, settings.train.workers[0])
        require_resources("a trial", *wanted, settings.ray)
        _search(Task(workspace, release, tune_id, roster.sizes()[TRAIN], space, records), roster)
        found = [record for record in records.all() if record.is_over]
        best = best_of(found)
        if best is None:
            reasons = "; ".join(sorted({record.reason for record in found}))
            raise RaypipeError(f"tuning {tune_id}: all {len(found)} trials failed ({reasons})")
        model_id = make_model(workspace, release, space.settings(best.values), tune_id)
        _publish(workspace, folder, space, found, best)
        _clear(workspace, folder, records)
        summary = _summary(tune_id, release, roster, settings, found, best)
        workspace.write_json(f"{folder}/tuning.json", summary)
        figures.update({name: summary[name] for name in ("tune_id", "trials", "best", "default")})
        for line in table_lines(found, best):
            log.info("tune: %s", line)
        log.info("tune: best model %s; results in %s", model_id, workspace.absolute_uri(folder))
    return model_id


def tune_id_of(settings: Config, fingerprint: str) -> str:
    """Return the id of the search with these settings on the data with this fingerprint."""
    recipe = {
        "model": settings.model.model_dump(),
        "train": settings.train.model_dump(exclude=EXECUTION),
        "tune": settings.tune.model_dump(exclude={"concurrent_trials"}),
        "data": fingerprint,
        "version": __version__,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return f"{settings.model.preset}-{digest[:8]}"


def _search(task: Task, roster: Roster) -> None:
    """Run all trials that are not finished, in Ray Tune."""
    settings = task.space.base
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = tuning_folder(task.tune_id)
    at_once = settings.tune.concurrent_trials or _room(settings)
    log.info(
        "tune: %s on %s, %s, %d trials, %d at once, at most %d epochs each",
        task.tune_id,
        task.release,
        roster.sizes(),
        settings.tune.trials,
        at_once,
        settings.train.epochs,
    )
    trainable = ray_tune.with_resources(trial_function(task), {"cpu": _DRIVER_CPUS})
    _tuner(task, trainable, f"{folder}/ray", at_once, roster.fingerprint).fit()


def _tuner(
    task: Task, trainable: Any, folder: str, at_once: int, fingerprint: str
) -> ray_tune.Tuner:
    """Create Ray Tune's tuner, or restore it if its saved state has a trial."""
    workspace, settings = task.workspace, task.space.base
    if _has_trials(workspace, folder):
        log.info("tune: resuming %s", task.tune_id)
        return ray_tune.Tuner.restore(
            workspace.path(folder),
            trainable,
            resume_unfinished=True,
            restart_errored=False,
            storage_filesystem=workspace.fs,
        )
    workspace.delete_folder(folder)
    parent, _, name = folder.rpartition("/")
    return ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=Draws(task.space, fingerprint, settings.tune.seed),
            scheduler=Halving(
                task.records,
                settings.train.epochs,
                settings.tune.grace_epochs,
                settings.tune.reduction_factor,
            ),
            num_samples=settings.tune.trials,
            max_concurrent_trials=at_once,
        ),
        run_config=ray_tune.RunConfig(
            name=name,
            storage_path=workspace.path(parent),
            storage_filesystem=workspace.fs,
            callbacks=[Recorder(task.records, settings.train.epochs)],
            failure_config=ray_tune.FailureConfig(max_failures=settings.train.max_failures),
            verbose=0,
        ),
    )


def _has_trials(workspace: Workspace, folder: str) -> bool:
    """Return whether Ray Tune's saved state is complete and has a trial, so that it can restore."""
    if not ray_tune.Tuner.can_restore(workspace.path(folder), storage_filesystem=workspace.fs):
        return False
    states = [n for n in workspace.files(folder, ".json") if "/experiment_state-" in n]
    try:
        return bool(states) and bool(workspace.read_json(max(states))["trial_data"])
    except ValueError:
        return False


def _room(settings: Config) -> int:
    """Return the number of trials that the cluster can run at the same time, at least one."""
    have = ray.cluster_resources()
    wanted = resources_of(settings.train, settings.train.workers[1])
    shares = [
        have.get(name, 0.0) / amount
        for name, amount in zip(("CPU", "GPU"), wanted, strict=True)
        if amount
    ]
    # 1e-6: a quotient that is a whole number may come out just below it.
    return max(1, int(min(shares) + 1e-6))


def _publish(
    workspace: Workspace, folder: str, space: Space, found: list[Record], best: Record
) -> None:
    workspace.write_table(f"{folder}/trials.parquet", table_of(found))
    workspace.write_bytes(f"{folder}/trials.png", parallel_coordinates(found, best, space))
    workspace.write_bytes(f"{folder}/best.toml", space.settings(best.values).to_toml().encode())


def _clear(workspace: Workspace, folder: str, records: Records) -> None:
    """Remove Ray Tune's state, and the checkpoints of trials that published no model."""
    for record in records.all():
        if record.began_here and not workspace.exists(model_folder(record.model_id)):
            workspace.delete_folder(f"checkpoints/{record.model_id}")
    workspace.delete_folder(f"{folder}/ray")


def _summary(
    tune_id: str,
    release: str,
    roster: Roster,
    settings: Config,
    found: list[Record],
    best: Record,
) -> dict[str, Any]:
    return {
        "tune_id": tune_id,
        "release": release,
        "made_by": made_by(),
        "data_fingerprint": roster.fingerprint,
        "spectra": roster.sizes(),
        "trials": {
            status: sum(record.status == status for record in found)
            for status in sorted({record.status for record in found})
        },
        "best": _result_of(best),
        "default": _result_of(found[0]),
        "settings": settings.model_dump(),
    }


def _result_of(record: Record) -> dict[str, Any]:
    return {
        "trial": record.number,
        "model_id": record.model_id,
        "values": record.values,
        CASH: record.cash,
        "epochs": record.epochs,
    }
