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
    tuner = _Tuner(copy.deepcopy(base), copy.deepcopy(heads), settings, len(train))
    tuned = Tuned(tuner.network, tuner.validate(validation))
    best_state, least = tuner.network.state_dict(), math.inf
    for epoch in range(config.finetune_epochs):
        learned = tuner.run_epoch(epoch, train)
        losses = tuner.validate(validation)
        tuned.history.append({"epoch": float(epoch), **learned, **losses})
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
            best_state = copy.deepcopy(tuner.network.state_dict())
        elif epoch - tuned.best_epoch >= config.finetune_patience:
            break
    if least >= _objective(tuned.before, config):
        log.warning("align: tuning did not lower the loss of the validation sources")
    tuned.network.load_state_dict(best_state)
    tuned.network.flux_errors = None  # Those of the base do not hold for other weights.
    tuned.network.eval()
    return tuned


class _Tuner:
    """Train a network and heads, epoch by epoch; `rows` is the number of training spectra."""

    def __init__(self, network: Folded, heads: Aligner, settings: Config, rows: int) -> None:
        self.network, self.heads, self.settings = network, heads, settings
        config = settings.align
        self.size = min(config.batch_size, rows)
        self.steps = rows // self.size
        parameters = [*network.parameters(), *heads.parameters()]
        # Weights do not decay: in a few epochs that would only take from what the base has learned.
        self.optimizer = torch.optim.AdamW(
            parameters, config.finetune_learning_rate, weight_decay=0.0
        )
        steps = config.finetune_epochs * self.steps
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_at(step / steps)
        )

    def run_epoch(self, epoch: int, train: PairedSpectra) -> dict[str, float]:
        """Train for one pass over the spectra; returns the means of both losses."""
        weight = self.settings.align.finetune_weight
        torch.manual_seed(_seed(self.settings.align, epoch))
        self.network.train()
        self.heads.train()
        sums = {"train_loss": 0.0}
        for rows in torch.randperm(len(train))[: self.steps * self.size].split(self.size):
            some = train.take(rows.numpy())
            z, loss = self._reconstruct(some)
            sums["train_loss"] += float(loss.detach().mean())
            objective = loss.mean() + self.settings.train.latent_penalty * z.square().mean()
            if weight:
                apart = _contrast(self.heads, z, some.pairs, self.settings.align)
                sums["train_contrast"] = sums.get("train_contrast", 0.0) + float(apart.detach())
                objective = objective + weight * apart
            self._step(objective)
        return {name: total / self.steps for name, total in sums.items()}

    @torch.no_grad()
    def validate(self, validation: PairedSpectra) -> dict[str, float]:
        """Measure both losses of the validation spectra, thinned in the same way in every call."""
        config = self.settings.align
        self.network.eval()
        self.heads.eval()
        torch.manual_seed(_seed(config, _VALIDATING))
        order = np.random.default_rng(config.seed).permutation(len(validation))
        total = apart = 0.0
        for some in validation.take(order).split(config.batch_size):
            z, loss = self._reconstruct(some)
            total += float(loss.sum())
            apart += float(_contrast(self.heads, z, some.pairs, config)) * len(some)
        number = len(validation)
        return {"validation_loss": total / number, "validation_contrast": apart / number}

    def _reconstruct(self, some: PairedSpectra) -> tuple[Tensor, Tensor]:
        """Encode part of the counts; returns the latents, and the loss of each row for the rest."""
        shown = thin(some.batch, self.settings.train.thinning_min, self.network.most_shown)
        z = self.network.encode(shown)
        return z, self.network.loss(z, some.batch, shown)

    def _step(self, objective: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        clip = self.settings.train.gradient_clip
        nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        nn.utils.clip_grad_norm_(self.heads.parameters(), _HEADS_CLIP)
        self.optimizer.step()
        self.schedule.step()


def _objective(losses: dict[str, float], config: AlignConfig) -> float:
    return losses["validation_loss"] + config.finetune_weight * losses["validation_contrast"]


def _contrast(heads: Aligner, z: Tensor, pairs: Pairs, config: AlignConfig) -> Tensor:
    """Return the contrastive loss of encoded latents (n, latents) with the views of the pairs."""
    log_widths = torch.from_numpy(pairs.posteriors.features())[:, heads.latents :]
    _, spectrum = heads.embed_spectra(torch.cat([z, log_widths], dim=1))
    _, view = heads.embed_views(view_tensors(pairs.views()))
    return contrast(heads, spectrum, view, pairs.positives(np.arange(len(pairs))), config)


def _seed(config: AlignConfig, epoch: int) -> int:
    return int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0])
