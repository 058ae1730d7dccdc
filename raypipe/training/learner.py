"""Train a network on spectra, epoch by epoch, without Ray and without files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypipe.config import TrainConfig
from raypipe.identity import hash_names, without_release
from raypipe.model.count_splitting import thin
from raypipe.model.features import Batch
from raypipe.model.holdout_cash import unseen_cash
from raypipe.model.presets import Preset
from raypipe.training.batch_streams import BatchStream
from raypipe.training.finite_check import STEPS_BETWEEN_LOOKS, FiniteCheck
from raypipe.training.steps import StepPlan

_WARM_UP = 0.1
_FUSED = {"cpu", "cuda"}
"""Devices on which AdamW updates all weights in one kernel."""
_VALIDATING = 1_000_000
"""Replaces the number of the epoch in the random seed of validation."""

Names = Callable[[Tensor], Sequence[str]]
"""Maps positions among a worker's rows to detection_ids."""


class Learner:
    """Train a network on this worker's spectra.

    `model` takes a batch and a thinned copy of it for the encoder, and returns the loss and the
    mean square of the latents per row, (n,) each; it may be wrapped for DDP. The copy has at most a
    fraction `most_shown` of the counts. `plan` is this worker's contribution to each step, by
    default all of it. `names` returns the detection_ids of this worker's training rows by position,
    for error messages; `validation_names` does so for validation rows. `tell` receives the
    progress of a long epoch every `tell_every_s` seconds.
    """

    def __init__(
        self,
        model: nn.Module,
        train: BatchStream,
        validation: BatchStream,
        config: TrainConfig,
        *,
        most_shown: float = 1.0,
        device: torch.device | None = None,
        plan: StepPlan | None = None,
        names: Names | None = None,
        validation_names: Names | None = None,
        tell: Callable[[dict[str, float]], None] | None = None,
        tell_every_s: float = 30.0,
    ) -> None:
        self.model = model
        self.train, self.validation = train, validation
        self.config = config
        self.most_shown = most_shown
        self.device = device or torch.device("cpu")
        self.plan = plan or StepPlan(len(train), config.batch_size)
        self.tell, self.tell_every_s = tell, tell_every_s
        self.validation_names = validation_names or _places
        self._guard = FiniteCheck(names or _places, self.device, self.plan.world)
        self._validation_guard = FiniteCheck(self.validation_names, self.device, self.plan.world)
        self.optimizer = _optimizer(model, config, self.device)
        self.schedule = _one_cycle(
            self.optimizer, config.learning_rate, config.epochs * self.plan.steps
        )
        self.history: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best_loss = math.inf
        self.best_steps = 0
        self.best_state: dict[str, Tensor] = {}
        self.resumed_after: list[int] = []

    @property
    def network(self) -> nn.Module:
        """Return the model without its DDP wrapper."""
        return cast(nn.Module, getattr(self.model, "module", self.model))

    @property
    def optimizer_steps(self) -> int:
        """Return the number of steps that produced the current weights, as the optimizer counts."""
        states = self.optimizer.state.values()
        return int(next((state["step"] for state in states), 0))

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one pass over the training spectra and measure the validation loss."""
        started = reported = time.monotonic()
        plan, when = self.plan, f"epoch {epoch}"
        seed = self._seed_of(epoch)
        torch.manual_seed(seed)
        self.model.train()
        total = torch.zeros((), device=self.device)
        for step, (places, batch) in enumerate(self.train.steps(plan.steps, plan.share, seed)):
            loss, norm = self._step(batch)
            total += loss.sum()
            self._guard.keep(step, places, loss, norm)
            if (step + 1) % STEPS_BETWEEN_LOOKS == 0:
                self._guard.look(when)
            if self.tell and (now := time.monotonic()) - reported >= self.tell_every_s:
                reported = now
                self.tell(self._progress(epoch, step + 1, total, now - started))
        self._guard.look(when)
        train_loss = self._mean_over_workers(total, plan.steps * plan.share)
        validation_loss = self._validate(when)
        seconds = time.monotonic() - started
        metrics = {
            "epoch": float(epoch),
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "seconds": seconds,
            "spectra_per_s": plan.steps * plan.batch / seconds,
        }
        if self.config.validation_cash:
            metrics["validation_cash"] = self.measure_cash(when)
        self.history.append(metrics)
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, epoch
            self.best_steps = self.optimizer_steps
            self.best_state = {
                name: value.detach().clone() for name, value in self.network.state_dict().items()
            }
        return metrics

    def should_stop(self) -> bool:
        """Return whether the validation loss has not improved for `patience` epochs."""
        if not self.history:
            return False
        return len(self.history) - 1 - self.best_epoch >= self.config.patience

    @torch.no_grad()
    def measure_cash(self, when: str) -> float:
        """Measure the mean Cash per bin of the held-out halves of all workers' validation counts.

        It depends on the weights, not on the settings of training. `when` names the epoch in the
        NotFiniteError that is raised if the Cash is not finite.
        """
        self.model.eval()
        total = torch.zeros((), device=self.device)
        for step, (places, batch) in enumerate(self.validation.sweep()):
            seeds = hash_names(map(without_release, self.validation_names(places)))
            cash = unseen_cash(cast(Preset, self.network), batch, seeds)
            total += cash.sum()
            self._validation_guard.keep(step, places, cash)
        self._validation_guard.look(f"Cash of validation after {when}")
        return self._mean_over_workers(total, len(self.validation))

    def best_cash(self) -> float:
        """Return the Cash of `measure_cash` for the weights of the best epoch.

        All workers must call this together. It is measured now unless it was measured after that
        epoch.
        """
        best = self.history[self.best_epoch]
        if "validation_cash" not in best:
            current = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.network.load_state_dict(self.best_state)
            best["validation_cash"] = self.measure_cash(f"epoch {self.best_epoch}")
            self.network.load_state_dict(current)
        return best["validation_cash"]

    def keep_best(self) -> None:
        """Load the weights of the best epoch and switch the network to evaluation."""
        self.network.load_state_dict(self.best_state)
        self.network.eval()

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "best_steps": self.best_steps,
            "best_state": self.best_state,
            "resumed_after": self.resumed_after,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Resume from the state in a checkpoint; the number of workers may have changed since."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]
        self.best_steps, self.best_state = state["best_steps"], state["best_state"]
        self.resumed_after = [*state["resumed_after"], len(self.history)]

    def _seed_of(self, epoch: int) -> int:
        """Return the seed of this worker's order and thinning in an epoch.

        A resumed training with the same number of workers uses the same seeds again.
        """
        entropy = [self.config.seed, epoch, self.plan.world, self.plan.rank]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Update the weights with a batch; returns its losses (n,) and the gradient norm."""
        loss, square = self.model(batch, self._shown(batch))
        # The penalty on mean(z^2) acts as a normal prior: it fixes scale and origin of the latents.
        objective = (loss + self.config.latent_penalty * square).sum() * self.plan.weight
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach(), norm

    def _shown(self, batch: Batch) -> Batch:
        return thin(batch, self.config.thinning_min, self.most_shown)

    def _progress(self, epoch: int, steps: int, total: Tensor, seconds: float) -> dict[str, float]:
        """Return this worker's loss so far, the speed of all workers, and the time left, s."""
        plan = self.plan
        step_s = seconds / steps
        left = (plan.steps - steps) * step_s
        return {
            "epoch": float(epoch),
            "share_of_epoch": steps / plan.steps,
            "train_loss": float(total) / (steps * plan.share),
            "spectra_per_s": plan.batch / step_s,
            "epoch_left_s": left,
            "left_s": left + (self.config.epochs - 1 - epoch) * plan.steps * step_s,
        }

    @torch.no_grad()
    def _validate(self, when: str) -> float:
        """Measure the loss of the validation spectra, thinned in the same way after each epoch."""
        self.model.eval()
        torch.manual_seed(self._seed_of(_VALIDATING))
        total = torch.zeros((), device=self.device)
        for step, (places, batch) in enumerate(self.validation.sweep()):
            loss, _ = self.network(batch, self._shown(batch))
            total += loss.sum()
            self._validation_guard.keep(step, places, loss)
        self._validation_guard.look(f"validation after {when}")
        return self._mean_over_workers(total, len(self.validation))

    def _mean_over_workers(self, total: Tensor, count: int) -> float:
        # Sums and counts are added separately: workers may hold different numbers of spectra.
        both = torch.stack([total, torch.tensor(float(count), device=self.device)])
        if self.plan.world > 1:
            dist.all_reduce(both)
        return float(both[0] / both[1].clamp_min(1.0))


def _places(places: Tensor) -> list[str]:
    return [f"row {place}" for place in places.tolist()]


def _optimizer(
    model: nn.Module, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Create AdamW without weight decay on vectors (biases, norms, the summary token)."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=device.type in _FUSED,
    )


def _one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Raise the learning rate to its peak in a tenth of the steps, then lower it to zero.

    This is the one-cycle policy (Smith & Topin 2017, arXiv:1708.07120) with phases of half a
    cosine; AdamW's first beta moves from 0.95 to 0.85 and back. A training of 10 steps or fewer
    has no rise.
    """
    # OneCycleLR counts steps from 0, has the peak at step `pct_start * total_steps - 1`, and
    # divides by that number: it is 0 for 10 steps.
    rise = _WARM_UP if _WARM_UP * steps > 1 else 0.0
    # The rate of the last step is almost zero: a single step has the schedule of two, so that it
    # changes the weights.
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=max(steps, 2), pct_start=rise
    )
