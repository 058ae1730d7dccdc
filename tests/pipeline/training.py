"""Small trainings: their settings, and what of them must not differ."""

from __future__ import annotations

import copy
from typing import Any

import psutil

import raypipe
from raypipe.model.bundle import Model
from raypipe.store.workspace import Workspace

SETTINGS: dict[str, Any] = {
    "discover": {"part_rows": 40},
    "model": {"width": 16, "depth": 1, "heads": 2, "decoder_width": 32},
    "train": {"epochs": 4, "batch_size": 16, "num_workers": 2, "cpus_per_worker": 0.5},
    "embed": {"cpus_per_actor": 0.5, "actors": 2},
}


def settings(**train: Any) -> dict[str, Any]:
    """The small settings with others for training."""
    changed = copy.deepcopy(SETTINGS)
    changed["train"].update(train)
    return changed


def load(workspace: Workspace, model_id: str) -> Model:
    """A model of a workspace."""
    return raypipe.load_model(workspace.absolute_uri(f"models/{model_id}"))


def course(metrics: dict[str, Any]) -> list[tuple[float, ...]]:
    """The history of a training without its timings."""
    names = "epoch", "train_loss", "validation_loss", "learning_rate"
    return [tuple(entry[name] for name in names) for entry in metrics["history"]]


def training_workers(root: psutil.Process) -> list[psutil.Process]:
    """The processes of Ray Train's workers below a process, the oldest first."""
    found = [each for each in root.children(recursive=True) if _is_worker(each)]
    return sorted(found, key=lambda each: (each.create_time(), each.pid))


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False
