"""train: from spectra to a model bundle, with Ray Train."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from raypipe._version import __version__
from raypipe.cluster import own_errors, ray_session, require_resources, tell_device
from raypipe.config import Config, as_config, load_config
from raypipe.discovery.manifest import choose_release
from raypipe.lock import only_one
from raypipe.model.split import TRAIN
from raypipe.runs import record_run
from raypipe.telemetry import stage
from raypipe.training.data import Roster, read_roster
from raypipe.training.events import event_log
from raypipe.training.loop import train_worker
from raypipe.training.progress import news_of
from raypipe.workspace import Workspace, model_folder

log = logging.getLogger(__name__)

_TELL_EVERY_S = 30.0
_EXECUTION = {
    "num_workers",
    "cpus_per_worker",
    "use_gpu",
    "max_failures",
    "compile",
    "data",
    "stream_rows",
}
"""Settings of where training runs, not of what it makes."""


def train(
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    preset: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Train a model on a release's spectra and return its id.

    The id is made of preset, settings and data: the same command on the same spectra finds the
    model it has trained already, or goes on where an earlier run died. BusyError where another run
    trains it.
    """
    settings = as_config(config)
    if preset is not None:
        values = settings.model_dump()
        values["model"]["preset"] = preset
        settings = load_config(settings=values)
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(workspace, release)
    roster = read_roster(workspace, release, settings.train)
    model_id = model_id_of(settings, roster)
    if workspace.exists(f"{model_folder(model_id)}/model.safetensors"):
        log.info("train: %s is trained already", model_id)
        return model_id
    folders = model_folder(model_id), f"checkpoints/{model_id}"
    with (
        record_run(workspace, "train", settings) as figures,
        only_one(workspace, f"train-{model_id}", folders),
        ray_session(settings.ray),
    ):
        log.info("train: %s on %s, %s", model_id, release, roster.sizes())
        _fit(workspace, release, model_id, settings, roster.sizes()[TRAIN], figures.folder)
        metrics = workspace.read_json(f"{model_folder(model_id)}/metrics.json")
        figures.update({"model_id": model_id, "validation_loss": metrics["validation_loss"]})
    log.info(
        "train: %s done after %d epochs, validation loss %.4f in epoch %d",
        model_id,
        metrics["epochs"],
        metrics["validation_loss"],
        metrics["best_epoch"],
    )
    return model_id


def model_id_of(settings: Config, roster: Roster) -> str:
    """Name of the model that these settings make of these spectra."""
    recipe = {
        "model": settings.model.model_dump(),
        "train": settings.train.model_dump(exclude=_EXECUTION),
        "data": roster.fingerprint,
        "version": __version__,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return f"{settings.model.preset}-{digest[:8]}"


def _fit(
    workspace: Workspace, release: str, model_id: str, settings: Config, spectra: int, runs: str
) -> None:
    """Have Ray Train's workers train and publish the model; `runs` is the folder for events."""
    fewest, most = settings.train.workers
    most = min(most, spectra)
    use_gpu = settings.train.use_gpu
    if use_gpu is None:
        use_gpu = ray.cluster_resources().get("GPU", 0) >= fewest
    require_resources("training", fewest * settings.train.cpus_per_worker, fewest if use_gpu else 0)
    tell_device("train", use_gpu, settings.train.use_gpu)
    with (
        stage("train", model_id) as told,
        event_log(workspace, runs) as events,
        news_of(told, settings.train.epochs, events) as reports,
        _interruptible(),
        own_errors(),
    ):
        TorchTrainer(
            train_worker,
            train_loop_config={
                "workspace": workspace.absolute_uri(),
                "release": release,
                "model_id": model_id,
                "config": settings.model_dump(),
                "reports": reports,
                "tell_every_s": _TELL_EVERY_S,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=fewest if fewest == most else (fewest, most),
                use_gpu=use_gpu,
                resources_per_worker={"CPU": settings.train.cpus_per_worker},
            ),
            run_config=ray.train.RunConfig(
                name=model_id,
                storage_path=workspace.path("checkpoints"),
                storage_filesystem=workspace.fs,
                failure_config=ray.train.FailureConfig(max_failures=settings.train.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            ),
        ).fit()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make Ctrl-C a KeyboardInterrupt again: Ray Train leaves with exit code 0 on it.

    Its signal handler, which stops the workers first, is taken out at the end.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
