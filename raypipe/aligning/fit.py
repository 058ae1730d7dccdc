"""Fit the heads, with batches of pairs, draws from posteriors and early stopping, without Ray."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypipe.aligning.pairs import Pairs, Rows
from raypipe.alignment.bundle import view_tensors
from raypipe.alignment.losses import LOSSES
from raypipe.alignment.network import Aligner
from raypipe.alignment.views import ViewScale
from raypipe.config_align import AlignConfig
from raypipe.errors import RaypipeError

log = logging.getLogger(__name__)

_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""
_CLIP = 1.0


@dataclass(frozen=True)
class Team:
    """Hold this worker's rank among the workers that share the batches of one fit."""

    rank: int = 0
    world: int = 1

    def gather(self, mine: Tensor) -> Tensor:
        """Return the rows of all workers, in order of rank; gradients flow back to each."""
        if self.world == 1:
            return mine
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(mine))

    def average_gradients(self, network: nn.Module) -> None:
        """Replace gradients by their mean over all workers."""
        if self.world > 1:
            for parameter in network.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world


@dataclass
class Fitted:
    """Hold the fitted network and its history: one entry with the losses per epoch."""

    network: Aligner
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0


def fit(
    train: Pairs,
    validation: Pairs,
    scale: ViewScale,
    config: AlignConfig,
    team: Team | None = None,
    tell: Callable[[dict[str, float]], None] | None = None,
) -> Fitted:
    """Fit heads and decoders to training pairs; keep the weights with the lowest validation loss.

    The result depends on the settings and the data alone, not on the load of the machine. The
    workers of a `team` call this together, with the same arguments. `tell` is called with each
    entry of the history.
    """
    team = team or Team()
    torch.manual_seed(config.seed)
    network = _network(train, scale, config)
    torch.manual_seed(config.seed + team.rank)  # the dropout of each worker
    batch = min(config.batch_size, len(train))
    batch -= batch % team.world
    steps = max(1, len(train) // batch)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_at(step / (config.epochs * steps))
    )
    fitted = Fitted(network)
    best_state, best_loss = copy.deepcopy(network.state_dict()), math.inf
    for epoch in range(config.epochs):
        network.train()
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(train))
        total = 0.0
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            noise = rng.standard_normal((batch, network.latents))
            loss = _step(network, train, rows, noise, config, team)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            team.average_gradients(network)
            nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        entry = {
            "epoch": float(epoch),
            "train_loss": total / steps,
            "validation_loss": _validation_loss(network, validation, config),
        }
        if not math.isfinite(entry["validation_loss"]):
            raise RaypipeError("the loss of the alignment is not finite; lower align.learning_rate")
        fitted.history.append(entry)
        if tell is not None:
            tell(entry)
        if entry["validation_loss"] < best_loss:
            best_loss, fitted.best_epoch = entry["validation_loss"], epoch
            best_state = copy.deepcopy(network.state_dict())
        elif epoch - fitted.best_epoch >= config.patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return fitted


def _network(train: Pairs, scale: ViewScale, config: AlignConfig) -> Aligner:
    network = Aligner(train.posteriors.mean.shape[1], scale, config)
    features = train.posteriors.features()
    network.center.copy_(torch.from_numpy(features.mean(axis=0)))
    width = features.std(axis=0)
    network.spread.copy_(torch.from_numpy(np.where(width > 1e-6, width, 1.0)))
    return network


def rate_at(done: float) -> float:
    """Return the learning rate in units of its peak: a linear rise, then half a cosine to zero."""
    if done < _WARM_UP:
        return 0.05 + 0.95 * done / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARM_UP) / (1 - _WARM_UP))))


def _step(
    network: Aligner,
    pairs: Pairs,
    rows: Rows,
    noise: np.ndarray,
    config: AlignConfig,
    team: Team,
) -> Tensor:
    """Return the loss of one batch; each worker passes its share through the network."""
    mine = slice(team.rank, None, team.world)
    posteriors = pairs.posteriors.take(rows[mine])
    draws = posteriors.mean + np.einsum("nij,nj->ni", posteriors.factors, noise[mine])
    features = posteriors.features()
    latents = network.latents
    seen = posteriors.mean + config.posterior_noise * (draws - posteriors.mean)
    features[:, :latents] = seen
    view = view_tensors(pairs.view.take(pairs.place[rows[mine]]))
    made = network(torch.from_numpy(features), view)
    spectrum, shared = team.gather(made.spectrum), team.gather(made.view)
    # The gathered rows are ordered by worker: each has every world-th row of the batch.
    gathered = np.concatenate([rows[rank :: team.world] for rank in range(team.world)])
    loss = contrast(network, spectrum, shared, pairs.positives(gathered), config)
    if config.translation:
        truth = torch.from_numpy(draws.astype(np.float32))
        loss = loss + config.translation * network.translation_loss(made, truth, view)
    return loss


def contrast(
    network: Aligner, spectrum: Tensor, view: Tensor, positive: Tensor, config: AlignConfig
) -> Tensor:
    """Return the contrastive loss of unit vectors of spectra and views, (n, dimensions) each."""
    logits = network.similarity(spectrum, view, with_bias=config.loss == "sigmoid")
    return LOSSES[config.loss](logits, positive)


@torch.no_grad()
def _validation_loss(network: Aligner, pairs: Pairs, config: AlignConfig) -> float:
    """Return the mean loss of the validation pairs, seen at the means of their posteriors."""
    network.eval()
    total = 0.0
    order = np.random.default_rng(config.seed).permutation(len(pairs))
    batches = np.array_split(order, max(1, round(len(pairs) / config.batch_size)))
    for rows in batches:
        posteriors = pairs.posteriors.take(rows)
        view = view_tensors(pairs.view.take(pairs.place[rows]))
        made = network(torch.from_numpy(posteriors.features()), view)
        loss = contrast(network, made.spectrum, made.view, pairs.positives(rows), config)
        if config.translation:
            truth = torch.from_numpy(posteriors.mean.astype(np.float32))
            loss = loss + config.translation * network.translation_loss(made, truth, view)
        total += float(loss) * len(rows)
    return total / len(pairs)
