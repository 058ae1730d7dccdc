"""Tune an autoencoder and the heads of an alignment together. Knows nothing of files."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from raypipe.aligning.fit import contrast, rate_at
from raypipe.aligning.pairs import Pairs, Rows
from raypipe.alignment.bundle import view_tensors
from raypipe.alignment.network import Aligner
from raypipe.config import Config
from raypipe.config_align import AlignConfig
from raypipe.errors import RaypipeError
from raypipe.model.count_splitting import thin
from raypipe.model.features import Batch
from raypipe.model.presets import Folded

log = logging.getLogger(__name__)

_HEADS_CLIP = 1.0
_VALIDATING = 1_000_000
"""Replaces the number of the epoch in the random seed of validation."""


@dataclass(frozen=True)
class PairedSpectra:
    """Hold pairs of detections and views with the spectra of the detections, in the same order."""

    pairs: Pairs
    batch: Batch

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, rows: Rows) -> PairedSpectra:
        """Return the pairs and spectra of these rows."""
        return PairedSpectra(self.pairs.take(rows), self.batch.take(torch.from_numpy(rows)))

    def split(self, size: int) -> Iterator[PairedSpectra]:
        """Yield all rows in order, in batches of at most `size`."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


@dataclass
class Tuned:
    """Hold the tuned network, and the losses of validation before and after each epoch.

    `before` and the entries of `history` have validation_loss, that of the reconstruction, and
    validation_contrast, that of the heads.
    """

    network: Folded
    before: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0

    @property
    def best(self) -> dict[str, float]:
        """Return the losses of the epoch whose weights are kept."""
        return self.history[self.best_epoch]


def tune(
    base: Folded, heads: Aligner, train: PairedSpectra, validation: PairedSpectra, settings: Config
) -> Tuned:
    """Train copies of a network and of the heads on the sum of their losses.

    The loss is that of the training of the network, for counts that the encoder does not see, plus
    `align.finetune_weight` times the contrastive loss of the heads. These read the latents of the
    encoder, with the widths of the posteriors in the catalog. The epoch with the lowest sum for the
    validation sources is kept. The result depends on settings and data alone.
    """
    config = settings.align
    network, heads = copy.deepcopy(base), copy.deepcopy(heads)
    size = min(config.batch_size, len(train))
    steps = len(train) // size
    parameters = [*network.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.finetune_learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_at(step / (config.finetune_epochs * steps))
    )
    tuned = Tuned(network, _validate(network, heads, validation, settings))
    best_state, least = copy.deepcopy(network.state_dict()), math.inf
    for epoch in range(config.finetune_epochs):
        torch.manual_seed(_seed(config, epoch))
        network.train()
        heads.train()
        total = 0.0
        for rows in torch.randperm(len(train))[: steps * size].split(size):
            loss = _loss(network, heads, train.take(rows.numpy()), settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.train.gradient_clip)
            nn.utils.clip_grad_norm_(heads.parameters(), _HEADS_CLIP)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        losses = _validate(network, heads, validation, settings)
        tuned.history.append({"epoch": float(epoch), "train_loss": total / steps, **losses})
        objective = _objective(losses, config)
        if not math.isfinite(objective):
            raise RaypipeError(
                "the loss of --finetune is not finite; lower align.finetune_learning_rate"
            )
        log.info(
            "align: tuning, epoch %d: validation loss %.4f, contrastive %.4f",
            epoch,
            losses["validation_loss"],
            losses["validation_contrast"],
        )
        if objective < least:
            least, tuned.best_epoch = objective, epoch
            best_state = copy.deepcopy(network.state_dict())
        elif epoch - tuned.best_epoch >= config.finetune_patience:
            break
    if least >= _objective(tuned.before, config):
        log.warning("align: tuning did not lower the loss of the validation sources")
    network.load_state_dict(best_state)
    network.eval()
    return tuned


def _objective(losses: dict[str, float], config: AlignConfig) -> float:
    return losses["validation_loss"] + config.finetune_weight * losses["validation_contrast"]


def _loss(network: Folded, heads: Aligner, some: PairedSpectra, settings: Config) -> Tensor:
    """Return the loss of one batch: the objective of training, plus the weighted contrast."""
    train, config = settings.train, settings.align
    shown = thin(some.batch, train.thinning_min, network.most_shown)
    z = network.encode(shown)
    each = network.loss(z, some.batch, shown) + train.latent_penalty * z.square().mean(-1)
    if config.finetune_weight == 0:
        return each.mean()
    return each.mean() + config.finetune_weight * _contrast(heads, z, some.pairs, config)


def _contrast(heads: Aligner, z: Tensor, pairs: Pairs, config: AlignConfig) -> Tensor:
    """Return the contrastive loss of latents (n, latents) that are at their encoded places."""
    log_widths = torch.from_numpy(pairs.posteriors.features())[:, heads.latents :]
    _, spectrum = heads.embed_spectra(torch.cat([z, log_widths], dim=1))
    _, view = heads.embed_views(view_tensors(pairs.views()))
    return contrast(heads, spectrum, view, pairs.positives(np.arange(len(pairs))), config)


@torch.no_grad()
def _validate(
    network: Folded, heads: Aligner, validation: PairedSpectra, settings: Config
) -> dict[str, float]:
    """Measure both losses of the validation spectra, thinned in the same way in every call."""
    network.eval()
    heads.eval()
    torch.manual_seed(_seed(settings.align, _VALIDATING))
    order = np.random.default_rng(settings.align.seed).permutation(len(validation))
    loss = apart = 0.0
    for some in validation.take(order).split(settings.align.batch_size):
        shown = thin(some.batch, settings.train.thinning_min, network.most_shown)
        z = network.encode(shown)
        loss += float(network.loss(z, some.batch, shown).sum())
        apart += float(_contrast(heads, z, some.pairs, settings.align)) * len(some)
    number = len(validation)
    return {"validation_loss": loss / number, "validation_contrast": apart / number}


def _seed(config: AlignConfig, epoch: int) -> int:
    return int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0])
