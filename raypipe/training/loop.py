"""Run the training worker of Ray Train: read data, train, checkpoint, publish the bundle."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.util.queue import Queue
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from raypipe.catalog.split import TRAIN, VALIDATION
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.model.bundle import Model, save_model
from raypipe.model.latent_population import Population
from raypipe.model.presets import Folded, Paper, build
from raypipe.model.training_record import TRAINED_ON
from raypipe.spectra.grid import EnergyGrid
from raypipe.store.layout import model_folder
from raypipe.store.run_record import made_by
from raypipe.store.workspace import Workspace
from raypipe.training.batch_streams import BatchStream
from raypipe.training.checkpoints import read_checkpoint, report_checkpoint
from raypipe.training.data import read_roster
from raypipe.training.data_placement import open_stream
from raypipe.training.finite_check import NotFiniteError
from raypipe.training.learner import Learner
from raypipe.training.malloc import keep_freed_memory
from raypipe.training.precision import adapt, choose_arithmetic
from raypipe.training.reading import PartReader, Rows
from raypipe.training.steps import StepPlan
from raypipe.training.trained_on import describe_training_spectra

_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
"""DDP's option to synchronize buffers with the first worker in each step; ours are constant."""
_DDP = {"gradient_as_bucket_view": True, _SYNC_BUFFERS: False}


def train_worker(task: dict[str, Any]) -> None:
    """Train on this worker's share of the spectra; the first worker publishes the model.

    `task` holds workspace, release, model_id, the configuration as a mapping, the queue for news to
    the driver (`raypipe.training.progress`), whether it is a `trial`, which publishes nothing, and
    the `tuning` that chose the settings, if any. Every worker takes the same number of steps. After
    a crash training resumes from the last registered checkpoint. An error that a restart would meet
    again is sent to the driver as news, and ends the training.
    """
    keep_freed_memory()
    trainer = _Trainer(task)
    learner = trainer.learner
    try:
        if task["trial"]:
            trainer.report_standing()
        for epoch in range(len(learner.history), learner.config.epochs):
            if learner.should_stop():
                break
            trainer.report(learner.run_epoch(epoch))
    except NotFiniteError as error:
        trainer.tell({"news": "error", "text": str(error)})
        return
    if not task["trial"]:
        trainer.publish()
    trainer.tell({"news": "outcome", **trainer.standing()})


class _Trainer:
    """Hold a learner, the workspace it reads from and publishes to, and its rank."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.config: Config = load_config(settings=task["config"])
        self.workspace = Workspace(task["workspace"])
        self.release, self.model_id = task["release"], task["model_id"]
        self.tuning: str | None = task["tuning"]
        self.reports: Queue = task["reports"]
        self.device = ray.train.torch.get_device()
        context = ray.train.get_context()
        self.rank, world = context.get_world_rank(), context.get_world_size()
        train = self.config.train
        torch.manual_seed(train.seed)
        self.roster = read_roster(self.workspace, self.release, train)
        rows, validation = self.roster.rows(TRAIN), self.roster.rows(VALIDATION)
        self.plan = StepPlan(len(rows), train.batch_size, self.rank, world)
        self.arithmetic = choose_arithmetic(train, self.device)
        mine, mine_to_validate = (
            rows[self.plan.held],
            validation[self.plan.held_of(len(validation))],
        )
        reader = PartReader(self.workspace, self.roster, self.device)
        self.residence, (to_train, to_validate) = open_stream(
            reader, [mine, mine_to_validate], train, context.get_local_world_size()
        )
        network = self._build()
        self.parameters = sum(p.numel() for p in network.parameters())
        adapt(network, self.arithmetic, self.device)
        self.learner = Learner(
            ray.train.torch.prepare_model(network, parallel_strategy_kwargs=_DDP),
            to_train,
            to_validate,
            train,
            most_shown=network.most_shown,
            device=self.device,
            plan=self.plan,
            names=self._names(mine),
            validation_names=self._names(mine_to_validate),
            tell=self._tell_standing if self.rank == 0 else None,
            tell_every_s=task["tell_every_s"],
        )
        self._tell_start()
        if state := read_checkpoint(ray.train.get_checkpoint(), self.device):
            self.learner.resume(state)
            text = f"resuming after epoch {self.learner.resumed_after[-1]}"
            self.tell({"news": "line", "text": text})

    def tell(self, news: dict[str, Any]) -> None:
        """Send news to the driver if this is the first worker."""
        if self.rank == 0:
            self.reports.put(news)

    def report(self, metrics: dict[str, float]) -> None:
        """Register metrics with Ray Train; the first worker adds a checkpoint."""
        self.tell({"news": "epoch", **metrics})
        name = f"epoch-{int(metrics['epoch']):05d}"
        state = self.learner.state() if self.rank == 0 else None
        folder = f"checkpoints/{self.model_id}/{name}"
        report_checkpoint({**metrics, **self.standing()}, state, self.workspace, folder)

    def report_standing(self) -> None:
        """Report the metrics of a restored checkpoint again, for a tuning that was interrupted."""
        if self.learner.history:
            report_checkpoint(self.standing(), None, self.workspace, "")

    def standing(self) -> dict[str, float]:
        """Return the metrics that trials are compared by; all workers call this together."""
        learner = self.learner
        standing = {
            "epochs": len(learner.history),
            "seconds_of_epochs": sum(entry["seconds"] for entry in learner.history),
            "best_validation_loss": learner.best_loss,
        }
        if self.config.train.validation_cash:
            standing["best_validation_cash"] = learner.best_cash()
        return standing

    def publish(self) -> None:
        """Whiten the best model's latents, describe their population and publish the bundle.

        Every worker encodes its share with the weights of the best epoch, in a fresh network that
        is neither wrapped nor compiled.
        """
        network = self._build()
        network.load_state_dict(self.learner.best_state)
        network.eval()
        encoded = _encode(network, self.learner.train)
        latents, counts = self._gather(encoded.latents), self._gather(encoded.counts)
        standing = self.standing()
        if self.rank != 0:
            return
        z = network.autoencoder.whiten(latents).cpu().double().numpy()
        rows, train = self.roster.rows(TRAIN), self.config.train
        keys, labels = self.roster.keys[rows], self.roster.labels[rows]
        model = Model(
            model_id=self.model_id,
            config=self.config,
            grid=network.grid,
            network=network,
            population=Population.fit(
                z, labels, keys, train.references, train.seed, self.roster.names.take(rows)
            ),
            train_sources=np.unique(keys),
            validation_sources=np.unique(self.roster.keys[self.roster.rows(VALIDATION)]),
            metrics=self._metrics(network, standing, counts.cpu().double().numpy()),
        )
        save_model(model, self.workspace, model_folder(self.model_id))

    def _build(self) -> Folded | Paper:
        return build(self.config.model, EnergyGrid()).to(self.device)

    def _names(self, rows: Rows) -> Callable[[Tensor], list[str]]:
        return lambda places: list(self.roster.detection_ids[rows[places.cpu().numpy()]])

    def _gather(self, mine: Tensor) -> Tensor:
        """Collect all workers' rows, ordered by worker, which is the order of the training rows."""
        if self.plan.world == 1:
            return mine
        pieces: list[Tensor] = [mine] * self.plan.world
        dist.all_gather_object(pieces, mine.cpu())
        return torch.cat(pieces).to(self.device)

    def _tell_start(self) -> None:
        compiled = ", compiled" if self.arithmetic.compiled else ""
        text = (
            f"{self.plan.world} workers on {self.device.type}, {self.arithmetic.name}{compiled}, "
            f"{self.plan.steps} steps of {self.plan.batch} spectra per epoch; "
            f"{self.residence.text}"
        )
        self.tell({"news": "line", "text": text})

    def _tell_standing(self, standing: dict[str, float]) -> None:
        self.tell({"news": "standing", **standing})

    def _metrics(
        self,
        network: Folded | Paper,
        standing: dict[str, float],
        counts: npt.NDArray[np.float64],
    ) -> dict[str, Any]:
        from raypipe.training.quality import measure_quality

        learner = self.learner
        trained_on = describe_training_spectra(self.workspace, self.release, self.roster, counts)
        return {
            "tuning": self.tuning,
            "model_id": self.model_id,
            "preset": self.config.model.preset,
            "release": self.release,
            "made_by": made_by(),
            "data_fingerprint": self.roster.fingerprint,
            "device": str(self.device),
            "precision": self.arithmetic.name,
            "compiled": self.arithmetic.compiled,
            "data": self.residence.name,
            "workers": self.plan.world,
            "seed": self.config.train.seed,
            "parameters": self.parameters,
            "spectra": self.roster.sizes(),
            "epochs": len(learner.history),
            "batch_size": self.plan.batch,
            "steps_per_epoch": self.plan.steps,
            "optimizer_steps": learner.optimizer_steps,
            "best_epoch": learner.best_epoch,
            "best_optimizer_steps": learner.best_steps,
            "resumed_after_epochs": learner.resumed_after,
            "validation_loss": learner.best_loss,
            "validation_cash": standing.get("best_validation_cash"),
            "history": learner.history,
            "classes": trained_on.classes,
            TRAINED_ON: trained_on.model_dump(mode="json"),
            "quality": measure_quality(network, learner.validation, self.config.embed.refine_steps),
        }


class _Encoded(NamedTuple):
    """Hold the latents (n, latents) of spectra, and their counts in all channel bins (n,)."""

    latents: Tensor
    counts: Tensor


@torch.no_grad()
def _encode(network: Folded | Paper, stream: BatchStream) -> _Encoded:
    """Encode all spectra of a stream, in order."""
    pieces = [(network.encode(batch), batch.counts.sum(-1)) for _, batch in stream.sweep()]
    latents, counts = zip(*pieces, strict=True)
    return _Encoded(torch.cat(latents), torch.cat(counts))
