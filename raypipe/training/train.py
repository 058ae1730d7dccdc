"""Turn spectra into a model bundle, with Ray Train."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from raypipe._version import __version__
from raypipe.catalog.split import TRAIN
from raypipe.config import Config, TrainConfig
from raypipe.config_toml import load_config
from raypipe.ray_session import own_errors, ray_session, require_resources, tell_device
from raypipe.store.layout import model_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.run_record import record_run
from raypipe.store.workspace import Workspace
from raypipe.telemetry import stage
from raypipe.training.data import Roster, read_roster
from raypipe.training.events import event_log
from raypipe.training.loop import train_worker
from raypipe.training.progress import news_of
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_TELL_EVERY_S = 30.0
EXECUTION = {
    "num_workers",
    "cpus_per_worker",
    "use_gpu",
    "gpus_per_worker",
    "max_failures",
    "compile",
    "data",
    "stream_rows",
    "validation_cash",
}
"""Settings of where training runs and what it reports, which do not change the model."""


@verb
def train(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    preset: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Train a model on a release's spectra and return its id.

    The id is derived from preset, settings and data: on the same spectra, the same command finds
    the trained model, or resumes an interrupted training. Raises BusyError if another run is
    training it.
    """
    release = choose_release(call.workspace, release)
    return make_model(call.workspace, release, with_preset(call.config, preset))


def with_preset(settings: Config, preset: str | None) -> Config:
    """Return the settings with another preset, if one is given."""
    if preset is None:
        return settings
    values = settings.model_dump()
    values["model"]["preset"] = preset
    return load_config(settings=values)


def make_model(
    workspace: Workspace, release: str, settings: Config, tuning: str | None = None
) -> str:
    """Train and publish the model of these settings unless it exists; returns its id.

    `tuning` is the id of the tuning that chose the settings; it is recorded with the model.
    """
    roster = read_roster(workspace, release, settings.train)
    model_id = model_id_of(settings, roster)
    if workspace.exists(f"{model_folder(model_id)}/model.safetensors"):
        log.info("train: %s is already trained", model_id)
        return model_id
    folders = model_folder(model_id), f"checkpoints/{model_id}"
    with (
        record_run(workspace, "train", settings) as figures,
        exclusive(workspace, f"train-{model_id}", folders),
        ray_session(settings.ray),
    ):
        sizes = ", ".join(f"{number} {part}" for part, number in roster.sizes().items())
        log.info("train: %s on the spectra of %s: %s", model_id, release, sizes)
        training = Training(workspace, release, model_id, roster.sizes()[TRAIN], tuning)
        fit(training, settings, figures.folder)
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
    """Name the model that these settings make of these spectra."""
    return name_model(settings, roster.fingerprint)


def name_model(settings: Config, fingerprint: str) -> str:
    """Name the model that these settings make of the data with this fingerprint."""
    recipe = {
        "model": settings.model.model_dump(),
        "train": settings.train.model_dump(exclude=EXECUTION),
        "data": fingerprint,
        "version": __version__,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return f"{settings.model.preset}-{digest[:8]}"


@dataclass(frozen=True)
class Training:
    """Describe a training: the model, by id, and the release with the number of its spectra.

    A `trial` of the tuning `tuning` publishes no model; otherwise `tuning` chose the settings.
    """

    workspace: Workspace
    release: str
    model_id: str
    spectra: int
    tuning: str | None = None
    trial: bool = False


def fit(
    training: Training, settings: Config, events_folder: str, callbacks: Sequence[UserCallback] = ()
) -> dict[str, Any]:
    """Train with Ray Train's workers; returns the metrics of `_Trainer.standing`.

    Resumes from the model's last checkpoint, if any. `events_folder` of the workspace receives
    TensorBoard events; `callbacks` are Ray Train's.
    """
    workspace, model_id = training.workspace, training.model_id
    fewest, most = settings.train.workers
    most = min(most, training.spectra)
    use_gpu = uses_gpu(settings.train)
    require_resources("training", *resources_of(settings.train, fewest), settings.ray)
    cpus, gpus = resources_of(settings.train, 1)
    tell_device("train", use_gpu, settings.train.use_gpu)
    number = f"{most}" if fewest >= most else f"{fewest} to {most}"
    log.info("train: starting %s worker%s (about 20 s)", number, "" if most == 1 else "s")
    with (
        stage("train", model_id) as tally,
        event_log(workspace, events_folder) as events,
        news_of(tally, settings.train.epochs, events) as news,
        _interruptible(),
        own_errors(),
    ):
        TorchTrainer(
            train_worker,
            train_loop_config={
                "workspace": workspace.absolute_uri(),
                "release": training.release,
                "model_id": model_id,
                "tuning": training.tuning,
                "trial": training.trial,
                "config": settings.model_dump(),
                "reports": news.reports,
                "tell_every_s": _TELL_EVERY_S,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=fewest if fewest == most else (fewest, most),
                use_gpu=use_gpu,
                resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=model_id,
                storage_path=workspace.path("checkpoints"),
                storage_filesystem=workspace.fs,
                failure_config=ray.train.FailureConfig(max_failures=settings.train.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                callbacks=list(callbacks),
            ),
        ).fit()
    return news.outcome


def uses_gpu(config: TrainConfig) -> bool:
    """Tell whether workers train on GPUs: as configured, else if the cluster has enough."""
    if config.use_gpu is not None:
        return config.use_gpu
    wanted = config.workers[0] * config.gpus_per_worker
    return bool(ray.cluster_resources().get("GPU", 0) >= wanted)


def resources_of(config: TrainConfig, workers: int) -> tuple[float, float]:
    """Return the CPUs and GPUs that `workers` workers request from Ray."""
    gpus = config.gpus_per_worker if uses_gpu(config) else 0.0
    return workers * config.cpus_per_worker, workers * gpus


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into KeyboardInterrupt again: Ray Train would exit with code 0.

    Restores the signal handler that Ray Train replaces with its own, which stops the workers first.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
