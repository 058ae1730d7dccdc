"""Train all networks of the comparison with the package's learner; keep them by their inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.latents.responses import GRID
from benchmarks.latents.samples import Sample
from benchmarks.latents.surveys import VALIDATION_SHARE, Survey, code_of, digest
from raypipe.catalog.split import VALIDATION, assign_splits
from raypipe.config import Config, ModelConfig
from raypipe.identity import source_keys
from raypipe.model import (
    autoencoder,
    count_splitting,
    features,
    folding,
    photon_energies,
    presets,
)
from raypipe.model.autoencoder import Encoder
from raypipe.model.features import Batch, prepare
from raypipe.model.photon_energies import (
    CONDITIONS,
    INPUT_BINS,
    MARKS,
    VALUES,
    PhotonEnergies,
    patch_places,
)
from raypipe.model.presets import Folded, Paper, Preset, build
from raypipe.training import learner
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.learner import Learner

log = logging.getLogger("benchmarks.latents")

BATCH_ROWS = 512
QUANTITIES = ("log_nh", "photon_index", "log_kt")
"""Quantities that the regressors predict, each for the sources that have it."""

SHARED_SETTINGS = (
    *("latents", "width", "depth", "heads", "patch", "decoder_width"),
    *("epochs", "batch_size", "learning_rate", "weight_decay", "gradient_clip"),
    *("thinning_min", "latent_penalty", "patience", "seed"),
)
"""Settings of model and training that the rivals and the ceilings share with `folded`."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Answered(Batch):
    """A batch with answers for supervised training: (n, k), NaN where there is none."""

    answers: Tensor

    def take(self, rows: Tensor) -> Answered:
        """Select rows, with all responses."""
        return replace(cast(Answered, super().take(rows)), answers=self.answers[rows])


class Supervised(nn.Module):
    """The encoder of `folded`, trained to output the answers themselves.

    With `classes`, weights (k,), it classifies, with weighted losses, and answers (n, 1) are the
    codes of the classes; otherwise it predicts standardized quantities, answers (n, k).
    """

    def __init__(self, config: ModelConfig, outputs: int, weights: Tensor | None) -> None:
        super().__init__()
        shape = config.model_copy(update={"latents": outputs})
        places = patch_places(config.patch)
        self.encoder = Encoder(shape, INPUT_BINS, VALUES, CONDITIONS, MARKS, places)
        self.photon_energies = PhotonEnergies(GRID)
        self.weights = weights

    def outputs(self, batch: Batch) -> Tensor:
        """Scores of the classes, or standardized quantities, (n, k)."""
        out: Tensor = self.encoder(*self.photon_energies(batch))
        return out

    def forward(self, batch: Answered, shown: Batch) -> tuple[Tensor, Tensor]:
        """Loss of each row, and zeros in place of the square of latents."""
        out = self.outputs(shown)
        known = torch.isfinite(batch.answers)
        answers = torch.where(known, batch.answers, 0.0)
        if self.weights is None:
            loss = ((out - answers).square() * known).sum(-1)
        else:
            codes = answers[:, 0].long()
            loss = functional.cross_entropy(out, codes, reduction="none")
            loss = loss * self.weights[codes] * known[:, 0]
        return loss, torch.zeros_like(loss)


@dataclass(frozen=True)
class Teacher:
    """Trains networks on a survey, or loads them from `folder` if they were trained before."""

    survey: Survey
    config: Config
    folder: Path
    again: frozenset[str]

    @property
    def shared_recipe(self) -> dict[str, Any]:
        """Settings that all networks share; others belong to `folded` only."""
        settings = self.config.model.model_dump() | self.config.train.model_dump()
        return {name: settings[name] for name in SHARED_SETTINGS}

    def autoencoder(self, preset: str) -> Folded | Paper:
        """A trained autoencoder with latents whitened over the training spectra."""
        model = self.config.model.model_copy(update={"preset": preset})
        torch.manual_seed(self.config.train.seed)
        network = build(model, GRID)
        made_of: object = self.shared_recipe
        if preset == "folded":
            code = code_of(
                autoencoder, features, folding, photon_energies, presets, count_splitting, learner
            )
            made_of = [model.model_dump(), self.config.train.model_dump(), code]
        fitting, validating = self._parts()

        def fit() -> None:
            batch = prepare(fitting.spectra)
            self._learn(preset, network, batch, prepare(validating.spectra))
            with torch.no_grad():
                rows = torch.arange(len(batch)).split(BATCH_ROWS)
                z = torch.cat([network.encode(batch.take(part)) for part in rows])
            network.autoencoder.whiten(z)

        return self._kept(preset, network, made_of, fit)

    def classifier(self, classes: tuple[str, ...]) -> Supervised:
        """A network that classifies, with equal weight for rare and frequent classes."""
        index = {name: float(code) for code, name in enumerate(classes)}

        def answers(sample: Sample) -> Tensor:
            codes = [index.get(name, np.nan) for name in sample.classes]
            return torch.tensor(codes, dtype=torch.float32)[:, None]

        codes = answers(self.survey.train)[:, 0]
        frequency = torch.bincount(codes[codes.isfinite()].long(), minlength=len(classes))
        weights = frequency.sum() / (len(classes) * frequency.clamp_min(1.0))
        return self._supervised("classifier", len(classes), weights, answers)

    def regressor(self) -> tuple[Supervised, Tensor, Tensor]:
        """A network that predicts standardized `QUANTITIES`, with their means and widths."""
        known = quantities(self.survey.train)
        mean, width = np.nanmean(known, axis=0), np.nanstd(known, axis=0)

        def answers(sample: Sample) -> Tensor:
            return torch.tensor((quantities(sample) - mean) / width, dtype=torch.float32)

        network = self._supervised("regressor", len(QUANTITIES), None, answers)
        return network, torch.tensor(mean), torch.tensor(width)

    def _supervised(
        self,
        name: str,
        outputs: int,
        weights: Tensor | None,
        answers: Callable[[Sample], Tensor],
    ) -> Supervised:
        torch.manual_seed(self.config.train.seed)
        network = Supervised(self.config.model, outputs, weights)
        fitting, validating = self._parts()

        def answered(sample: Sample) -> Answered:
            batch = prepare(sample.spectra)
            return Answered(**vars(batch), answers=answers(sample))

        def fit() -> None:
            self._learn(name, network, answered(fitting), answered(validating))

        return self._kept(name, network, self.shared_recipe, fit)

    def _parts(self) -> tuple[Sample, Sample]:
        """Divide detections, by source, into those to train on and those for early stopping."""
        sample = self.survey.train
        keys = source_keys(sample.names, sample.names)
        parts = assign_splits(keys, self.config.train.seed, 0.0, VALIDATION_SHARE)
        validating = parts == VALIDATION
        return sample.take(np.flatnonzero(~validating)), sample.take(np.flatnonzero(validating))

    def _learn(self, name: str, network: nn.Module, fitting: Batch, validating: Batch) -> None:
        train = self.config.train
        most_shown = network.most_shown if isinstance(network, Preset) else 1.0
        sources = ResidentStream(fitting), ResidentStream(validating)
        course = Learner(network, *sources, train, most_shown=most_shown)
        for epoch in range(train.epochs):
            if course.should_stop():
                break
            metrics = course.run_epoch(epoch)
            log.info(
                "%s, %s: epoch %d/%d, loss %.4f, validation %.4f, %.0f spectra/s",
                self.survey.name,
                name,
                epoch + 1,
                train.epochs,
                metrics["train_loss"],
                metrics["validation_loss"],
                metrics["spectra_per_s"],
            )
        course.keep_best()

    def _kept(
        self, name: str, network: Network, made_of: object, fit: Callable[[], None]
    ) -> Network:
        key = digest([self.survey.key, made_of])
        path = self.folder / f"{self.survey.name}-{name}-{key}.safetensors"
        if path.exists() and name not in self.again:
            network.load_state_dict(load_file(path))
        else:
            fit()
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        network.eval()
        return network


def quantities(sample: Sample) -> np.ndarray:
    """`QUANTITIES` of each detection, (n, 3), NaN if its source does not have one."""
    table = sample.table
    with np.errstate(divide="ignore"):
        log_kt = np.log10(table["kt_kev"].to_numpy(np.float64))
    return np.column_stack([table["log_nh"], table["photon_index"], log_kt]).astype(np.float64)
