"""The training loop of one worker."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypipe.config import Config, TrainConfig, load_config
from raypipe.errors import RaypipeError
from raypipe.model.bundle import Model, save_model
from raypipe.model.features import Batch, prepare
from raypipe.model.grid import Grid
from raypipe.model.population import Population
from raypipe.model.presets import Folded, Paper, build
from raypipe.model.split import TRAIN, VALIDATION
from raypipe.runs import made_by
from raypipe.training.data import Roster, read_roster, read_spectra
from raypipe.workspace import Workspace, model_folder

log = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint.pt"
_WARM_UP = 0.1
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
    trainer.resume(ray.train.get_checkpoint())
    for epoch in range(trainer.epoch, config.train.epochs):
        if trainer.should_stop():
            break
        trainer.report(trainer.run_epoch(epoch))
    trainer.publish(task["model_id"])


class _Trainer:
    """Model, optimizer and data of a worker."""

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
        self.rank, self.world = rank, world
        self.device = ray.train.torch.get_device()
        self.local_batch = max(1, config.train.batch_size // world)
        self.train, _ = self._load(roster.rows(TRAIN)[rank::world])
        self.validation, _ = self._load(roster.rows(VALIDATION)[rank::world])
        self.steps = max(1, len(roster.rows(TRAIN)) // (self.local_batch * world))
        network = build(config.model, Grid())
        self.parameters = sum(p.numel() for p in network.parameters())
        self.model: nn.Module = ray.train.torch.prepare_model(network)
        self.optimizer = _optimizer(self.model, config.train)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=config.train.learning_rate,
            total_steps=config.train.epochs * self.steps,
            pct_start=_WARM_UP,
        )
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best_loss = math.inf
        self.best_state: dict[str, Tensor] = {}

    @property
    def network(self) -> Folded | Paper:
        """The model without its DDP wrapper."""
        return cast(Folded | Paper, getattr(self.model, "module", self.model))

    def resume(self, checkpoint: ray.train.Checkpoint | None) -> None:
        """Go on from a checkpoint, where there is one."""
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            state = torch.load(
                Path(folder) / _CHECKPOINT, map_location=self.device, weights_only=True
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]
        self.best_state = state["best_state"]
        self.epoch = len(self.history)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Take one pass over the training spectra and measure the validation loss."""
        started = time.monotonic()
        torch.manual_seed(self._seed_of(epoch))
        self.model.train()
        total = torch.zeros((), device=self.device)
        for step, rows in enumerate(self._batches(epoch)):
            total += self._step(self.train.take(rows), epoch, step)
        train_loss = self._mean_over_workers(total, self.steps)
        validation_loss = self._validate()
        if not math.isfinite(validation_loss):
            raise RaypipeError(
                f"the validation loss is not finite after epoch {epoch}; lower train.learning_rate"
            )
        seconds = time.monotonic() - started
        metrics = {
            "epoch": float(epoch),
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "seconds": seconds,
            "spectra_per_s": self.steps * self.local_batch * self.world / seconds,
        }
        self.history.append(metrics)
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, epoch
            self.best_state = {
                name: value.detach().clone() for name, value in self.network.state_dict().items()
            }
        return metrics

    def report(self, metrics: dict[str, float]) -> None:
        """Register metrics, and from the first worker a checkpoint, with Ray Train."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.rank == 0:
                state = {
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "history": self.history,
                    "best_epoch": self.best_epoch,
                    "best_loss": self.best_loss,
                    "best_state": self.best_state,
                }
                torch.save(state, Path(folder) / _CHECKPOINT)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint)

    def should_stop(self) -> bool:
        """Whether the validation loss has not improved for too long."""
        if not self.history:
            return False
        return len(self.history) - 1 - self.best_epoch >= self.config.train.patience

    def publish(self, model_id: str) -> None:
        """Whiten the best model's latents, describe their population and publish the bundle."""
        if self.rank != 0:
            return
        self.network.load_state_dict(self.best_state)
        self.network.eval()
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
        return {
            "model_id": model_id,
            "preset": self.network.name,
            "release": self.release,
            "made_by": made_by(),
            "data_fingerprint": self.roster.fingerprint,
            "device": str(self.device),
            "workers": self.world,
            "seed": self.config.train.seed,
            "parameters": self.parameters,
            "spectra": self.roster.sizes(),
            "epochs": len(self.history),
            "steps_per_epoch": self.steps,
            "best_epoch": self.best_epoch,
            "validation_loss": self.best_loss,
            "history": self.history,
        }

    def _load(self, rows: npt.NDArray[np.int64]) -> tuple[Batch, npt.NDArray[Any]]:
        spectra, labels = read_spectra(
            self.workspace, self.release, self.roster.detection_ids[rows]
        )
        return prepare(spectra, self.device), labels

    def _seed_of(self, epoch: int) -> int:
        """The seed of this worker's order and thinning in an epoch, also after a restart."""
        return self.config.train.seed + 1_000_003 * (epoch * self.world + self.rank)

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self._seed_of(epoch))
        order = torch.randperm(len(self.train), generator=generator)
        while len(order) < self.steps * self.local_batch:
            order = torch.cat([order, order])
        for step in range(self.steps):
            rows = order[step * self.local_batch : (step + 1) * self.local_batch]
            yield rows.to(self.device)

    def _step(self, batch: Batch, epoch: int, step: int) -> Tensor:
        loss, square = self.model(batch, thin(batch, self.config.train.thinning_min))
        objective = loss.mean() + self.config.train.latent_penalty * square.mean()
        if not torch.isfinite(objective):
            raise RaypipeError(
                f"the loss is not finite in epoch {epoch}, step {step} of worker {self.rank}; "
                "lower train.learning_rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach().mean()

    @torch.no_grad()
    def _validate(self) -> float:
        self.model.eval()
        total = torch.zeros((), device=self.device)
        for rows in torch.arange(len(self.validation), device=self.device).split(256):
            batch = self.validation.take(rows)
            loss, _ = self.network(batch, batch)
            total += loss.sum()
        return self._mean_over_workers(total, len(self.validation))

    @torch.no_grad()
    def _encode_rows(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, npt.NDArray[Any]]:
        """Latents and labels of some rows of the roster."""
        batch, labels = self._load(rows)
        chunks = torch.arange(len(batch), device=self.device).split(256)
        return torch.cat([self.network.encode(batch.take(chunk)) for chunk in chunks]), labels

    def _mean_over_workers(self, total: Tensor, count: int) -> float:
        both = torch.stack([total, torch.tensor(float(count), device=self.device)])
        if self.world > 1:
            dist.all_reduce(both)
        return float(both[0] / both[1].clamp_min(1.0))


def thin(batch: Batch, least: float) -> Batch:
    """A view of the batch with a random share, `least` to 1, of each detection's counts.

    Binomial thinning of Poisson counts is a Poisson draw with that share of the exposure: what a
    shorter observation would have seen.
    """
    if least >= 1.0:
        return batch
    share = least + (1.0 - least) * torch.rand_like(batch.exposure_s)
    counts = torch.binomial(batch.counts, share[:, None].expand_as(batch.counts).contiguous())
    return Batch(
        counts=counts,
        background=batch.background * share[:, None],
        background_variance=batch.background_variance * share[:, None] ** 2,
        exposure_s=batch.exposure_s * share,
        arf_cm2=batch.arf_cm2,
        response_index=batch.response_index,
        responses=batch.responses,
    )


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms, positions of one axis) are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    kept = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
