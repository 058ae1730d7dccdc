"""Training in memory: a network, its spectra, and what an epoch does to it; no Ray, no files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypipe.config import TrainConfig
from raypipe.errors import RaypipeError
from raypipe.model.features import Batch

_WARM_UP = 0.1


class Learner:
    """A network with its optimizer and this worker's spectra.

    `model` takes (batch, the view of it that the encoder is shown) to the loss and the mean square
    of the latents of each row, (n,) each; it may be wrapped for DDP. `total` is the number of
    training spectra of all `world` workers: each takes the same number of steps.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Batch,
        validation: Batch,
        config: TrainConfig,
        *,
        total: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model = model
        self.train, self.validation = train, validation
        self.config = config
        self.rank, self.world = rank, world
        self.device = train.counts.device
        self.local_batch = max(1, config.batch_size // world)
        self.steps = max(1, (total or len(train)) // (self.local_batch * world))
        self.optimizer = _optimizer(model, config)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=config.learning_rate,
            total_steps=config.epochs * self.steps,
            pct_start=_WARM_UP,
        )
        self.history: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best_loss = math.inf
        self.best_state: dict[str, Tensor] = {}

    @property
    def network(self) -> nn.Module:
        """The model without its DDP wrapper."""
        return cast(nn.Module, getattr(self.model, "module", self.model))

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

    def should_stop(self) -> bool:
        """Whether the validation loss has not improved for too long."""
        if not self.history:
            return False
        return len(self.history) - 1 - self.best_epoch >= self.config.patience

    def keep_best(self) -> None:
        """Give the network the weights of its best epoch, ready to be used."""
        self.network.load_state_dict(self.best_state)
        self.network.eval()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "best_state": self.best_state,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint held."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]
        self.best_state = state["best_state"]

    def _seed_of(self, epoch: int) -> int:
        """The seed of this worker's order and thinning in an epoch, also after a restart."""
        return self.config.seed + 1_000_003 * (epoch * self.world + self.rank)

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self._seed_of(epoch))
        order = torch.randperm(len(self.train), generator=generator)
        while len(order) < self.steps * self.local_batch:
            order = torch.cat([order, order])
        for step in range(self.steps):
            rows = order[step * self.local_batch : (step + 1) * self.local_batch]
            yield rows.to(self.device)

    def _step(self, batch: Batch, epoch: int, step: int) -> Tensor:
        loss, square = self.model(batch, thin(batch, self.config.thinning_min))
        objective = loss.mean() + self.config.latent_penalty * square.mean()
        if not torch.isfinite(objective):
            raise RaypipeError(
                f"the loss is not finite in epoch {epoch}, step {step} of worker {self.rank}; "
                "lower train.learning_rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
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
        background_scale=batch.background_scale * share[:, None],
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
