"""A training worker of Ray Train: data from the workspace, checkpoints, the bundle at the end."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.torch
import torch
from torch import Tensor

from raypipe.config import Config, load_config
from raypipe.model.bundle import Model, save_model
from raypipe.model.features import Batch, prepare
from raypipe.model.grid import Grid
from raypipe.model.population import Population
from raypipe.model.presets import Folded, Paper, build
from raypipe.model.split import TRAIN, VALIDATION
from raypipe.runs import made_by
from raypipe.training.data import Roster, read_roster, read_spectra
from raypipe.training.learner import Learner
from raypipe.workspace import Workspace, model_folder

_CHECKPOINT = "checkpoint.pt"
_ROWS_AT_ONCE = 4096


def train_worker(task: dict[str, Any]) -> None:
    """Train on this worker's share of the spectra; the first worker publishes the model.

    `task` holds workspace, release, model_id and the configuration as a mapping. Every worker
    takes the same number of steps. After a death training goes on from the last checkpoint that
    was reported.
    """
    config = load_config(settings=task["config"])
    workspace = Workspace(task["workspace"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.manual_seed(config.train.seed)
    roster = read_roster(workspace, task["release"], config.train)
    trainer = _Trainer(config, workspace, task["release"], roster, rank, world)
    learner = trainer.learner
    trainer.resume(ray.train.get_checkpoint())
    for epoch in range(len(learner.history), config.train.epochs):
        if learner.should_stop():
            break
        trainer.report(learner.run_epoch(epoch))
    trainer.publish(task["model_id"])


class _Trainer:
    """A learner with the workspace it learns from and publishes to."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        release: str,
        roster: Roster,
        rank: int,
        world: int,
    ) -> None:
        self.config = config
        self.workspace = workspace
        self.release = release
        self.roster = roster
        self.device = ray.train.torch.get_device()
        train, _ = self._load(roster.rows(TRAIN)[rank::world])
        validation, _ = self._load(roster.rows(VALIDATION)[rank::world])
        network = build(config.model, Grid())
        self.parameters = sum(p.numel() for p in network.parameters())
        self.learner = Learner(
            ray.train.torch.prepare_model(network),
            train,
            validation,
            config.train,
            total=len(roster.rows(TRAIN)),
            rank=rank,
            world=world,
        )

    @property
    def network(self) -> Folded | Paper:
        """The model without its DDP wrapper."""
        return cast(Folded | Paper, self.learner.network)

    def resume(self, checkpoint: ray.train.Checkpoint | None) -> None:
        """Go on from a checkpoint, where there is one."""
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            state = torch.load(
                Path(folder) / _CHECKPOINT, map_location=self.device, weights_only=True
            )
        self.learner.resume(state)

    def report(self, metrics: dict[str, float]) -> None:
        """Register metrics, and from the first worker a checkpoint, with Ray Train."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.learner.rank == 0:
                torch.save(self.learner.state(), Path(folder) / _CHECKPOINT)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint)

    def publish(self, model_id: str) -> None:
        """Whiten the best model's latents, describe their population and publish the bundle."""
        if self.learner.rank != 0:
            return
        self.learner.keep_best()
        rows = self.roster.rows(TRAIN)
        pieces = [
            self._encode_rows(rows[start : start + _ROWS_AT_ONCE])
            for start in range(0, len(rows), _ROWS_AT_ONCE)
        ]
        latents = torch.cat([z for z, _ in pieces])
        labels = np.concatenate([label for _, label in pieces])
        z = self.network.autoencoder.whiten(latents).cpu().double().numpy()
        keys = self.roster.keys[rows]
        train = self.config.train
        model = Model(
            model_id=model_id,
            config=self.config,
            grid=self.network.grid,
            network=self.network,
            population=Population.fit(z, labels, keys, train.references, train.seed),
            train_sources=np.unique(keys),
            validation_sources=np.unique(self.roster.keys[self.roster.rows(VALIDATION)]),
            metrics=self._metrics(model_id),
        )
        save_model(model, self.workspace, model_folder(model_id))

    def _metrics(self, model_id: str) -> dict[str, Any]:
        learner = self.learner
        return {
            "model_id": model_id,
            "preset": self.network.name,
            "release": self.release,
            "made_by": made_by(),
            "data_fingerprint": self.roster.fingerprint,
            "device": str(self.device),
            "workers": learner.world,
            "seed": self.config.train.seed,
            "parameters": self.parameters,
            "spectra": self.roster.sizes(),
            "epochs": len(learner.history),
            "steps_per_epoch": learner.steps,
            "best_epoch": learner.best_epoch,
            "validation_loss": learner.best_loss,
            "history": learner.history,
        }

    def _load(self, rows: npt.NDArray[np.int64]) -> tuple[Batch, npt.NDArray[Any]]:
        spectra, labels = read_spectra(
            self.workspace, self.release, self.roster.detection_ids[rows]
        )
        return prepare(spectra, self.device), labels

    @torch.no_grad()
    def _encode_rows(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, npt.NDArray[Any]]:
        """Latents and labels of some rows of the roster."""
        batch, labels = self._load(rows)
        chunks = torch.arange(len(batch), device=self.device).split(256)
        return torch.cat([self.network.encode(batch.take(chunk)) for chunk in chunks]), labels
