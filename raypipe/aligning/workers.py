"""Fit an alignment in this process, or on workers of Ray Train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from raypipe.aligning.fit import Fitted, Team, fit
from raypipe.aligning.pairs import Pairs
from raypipe.alignment.network import Aligner
from raypipe.alignment.views import ViewScale
from raypipe.config import Config
from raypipe.config_align import AlignConfig
from raypipe.store.workspace import Workspace


def fit_pairs(
    train: Pairs,
    validation: Pairs,
    scale: ViewScale,
    settings: Config,
    workspace: Workspace,
    name: str,
) -> Fitted:
    """Fit heads to pairs with `align.num_workers` workers; a single one trains here, without Ray.

    `name` is the name of the run. All workers together see the batches that one would see.
    """
    config = settings.align
    if config.num_workers == 1:
        return fit(train, validation, scale, config)
    return _fit_on_ray(train, validation, scale, settings, workspace, name)


def _fit_on_ray(
    train: Pairs,
    validation: Pairs,
    scale: ViewScale,
    settings: Config,
    workspace: Workspace,
    name: str,
) -> Fitted:
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    from raypipe.ray_session import own_errors, ray_session, require_resources

    config = settings.align
    folder = f"checkpoints/{name}"
    with ray_session(settings.ray), own_errors():
        cpus = config.num_workers * config.cpus_per_worker
        require_resources("align", cpus, 0.0, settings.ray)
        answers = Queue(actor_options={"num_cpus": 0})
        TorchTrainer(
            _work,
            train_loop_config={
                "data": ray.put((train, validation, scale)),
                "config": config.model_dump(),
                "answers": answers,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.num_workers,
                use_gpu=False,
                resources_per_worker={"CPU": config.cpus_per_worker},
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=workspace.path("checkpoints"),
                storage_filesystem=workspace.fs,
            ),
        ).fit()
        answer = answers.get(timeout=60)
        answers.shutdown()
    workspace.delete_folder(folder)
    network = Aligner(train.posteriors.mean.shape[1], scale, config)
    network.load_state_dict({key: torch.from_numpy(v.copy()) for key, v in answer["state"].items()})
    network.eval()
    return Fitted(network, answer["history"], answer["best_epoch"])


def _work(task: Mapping[str, Any]) -> None:
    """Fit on this worker; the first one sends the weights to the driver."""
    import ray
    import ray.train

    context = ray.train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    train, validation, scale = ray.get(task["data"])
    fitted = fit(train, validation, scale, AlignConfig(**task["config"]), team)
    if team.rank == 0:
        state = {key: value.numpy() for key, value in fitted.network.state_dict().items()}
        task["answers"].put(
            {"state": state, "history": fitted.history, "best_epoch": fitted.best_epoch}
        )
