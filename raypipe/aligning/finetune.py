"""Make a model of its own from a catalog's model, tuned to the view of an alignment."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from raypipe.aligning.data import AlignData, Division
from raypipe.aligning.paired_spectra import Origin, read_paired_spectra
from raypipe.aligning.pairs import Pairs
from raypipe.aligning.tune import PairedSpectra, Tuned, tune
from raypipe.alignment.bundle import Alignment
from raypipe.config import Config
from raypipe.config_align import AlignConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import hash_names, without_release
from raypipe.model.bundle import Model, load_model, save_model
from raypipe.model.choice import TUNED, models_of
from raypipe.model.encode import as_frame, measure
from raypipe.model.fit_scores import score_reconstruction
from raypipe.model.holdout_cash import unseen_cash
from raypipe.model.latent_population import Population
from raypipe.model.presets import Folded
from raypipe.model.training_record import FINETUNED, TRAINED_ON, TrainedOn
from raypipe.store.layout import model_folder
from raypipe.store.manifest import is_simulated
from raypipe.store.run_record import made_by, plain
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

PREFIX = "finetune_"
"""Beginning of the names of the settings that change the tuned model and not the alignment."""
_ROWS_AT_ONCE = 512
_MOST_MEASURED = 2000
"""Most validation spectra by which the tuned model is judged."""


@dataclass(frozen=True)
class Tuning:
    """Hold the model of a catalog that is to be tuned, and the settings of the alignment."""

    base: Model
    config: AlignConfig

    @classmethod
    def of(cls, store: Workspace, model_id: str, config: Config) -> Tuning:
        """Open the model of a catalog; raises UsageError if its preset has no likelihood."""
        base = load_model(store.absolute_uri(model_folder(model_id)))
        if not isinstance(base.network, Folded):
            raise UsageError(
                f"{model_id}: --finetune needs a model of preset folded, whose reconstruction has "
                f"a likelihood; this one has preset {base.preset}"
            )
        return cls(base, config.align)

    @property
    def network(self) -> Folded:
        """Return the network that is to be tuned."""
        return cast(Folded, self.base.network)

    def model_id(self, alignment_id: str) -> str:
        """Name the model that the tuning makes with an alignment."""
        settings = {key: value for key, value in self.config if key.startswith(PREFIX)}
        recipe = {"base": self.base.fingerprint, "alignment": alignment_id, "settings": settings}
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        return f"{TUNED}{digest[:8]}"

    def find(self, store: Workspace, alignment_id: str) -> dict[str, Any] | None:
        """Return the description of the tuned model, as `make` does; None if it is not made."""
        model_id = self.model_id(alignment_id)
        if model_id not in models_of(store):
            return None
        where = store.absolute_uri(model_folder(model_id))
        metrics = load_model(where).metrics
        if FINETUNED not in metrics:
            raise RaypipeError(
                f"{where}/metrics.json: it does not describe the tuning; restore it from a copy, "
                "or delete the model's folder and run raypipe align --finetune again"
            )
        return {FINETUNED: metrics[FINETUNED]}

    def make(
        self,
        store: Workspace,
        made: Alignment,
        data: AlignData,
        pairs: Pairs,
        division: Division,
        rows: pa.Table,
    ) -> dict[str, Any]:
        """Tune the model to the view of an alignment, and write it as a new bundle.

        `pairs` and `division` are those of the alignment; the spectra of its test sources are not
        read. `rows` are the catalog's. Returns what the bundle says of the tuning.
        """
        chosen, number = np.concatenate([division.train, division.validation]), len(division.train)
        ids = data.detection_ids.take(pa.array(data.paired[chosen])).to_pylist()
        spectra, origin = read_paired_spectra(store, made.about.release, pairs.take(chosen), ids)
        train = spectra.take(np.arange(number))
        validation = spectra.take(np.arange(number, len(chosen)))
        settings = self.base.config.model_copy(update={"align": self.config})
        log.info("align: tuning %s to the view, with %d spectra", self.base.model_id, number)
        tuned = tune(self.network, made.network, train, validation, settings)
        z = _whitened(tuned.network, train)
        labels, names = _labels(rows, ids[:number])
        keys = train.pairs.source
        # What the base model has seen, the tuned one has seen as well.
        seen = np.union1d(self.base.train_sources, keys)
        held = np.union1d(self.base.validation_sources, validation.pairs.source)
        references = settings.train.references
        metrics = {
            **_record(store, made, train, origin, labels),
            "model_id": self.model_id(made.about.alignment_id),
            "data_fingerprint": data.fingerprint[:16],
            "spectra": {"train": number, "validation": len(validation)},
            "epochs": len(tuned.history),
            "batch_size": min(self.config.batch_size, number),
            "best_epoch": tuned.best_epoch,
            "validation_loss": tuned.best["validation_loss"],
            "history": tuned.history,
            **self._judged(tuned, validation, ids[number:], made),
        }
        model = Model(
            model_id=metrics["model_id"],
            config=settings,
            grid=self.base.grid,
            network=tuned.network,
            population=Population.fit(z, labels, keys, references, self.config.seed, names),
            train_sources=seen,
            validation_sources=np.setdiff1d(held, seen),
            metrics=plain(metrics),
        )
        save_model(model, store, model_folder(model.model_id))
        return {FINETUNED: model.metrics[FINETUNED]}

    def _judged(
        self, tuned: Tuned, validation: PairedSpectra, ids: list[str], made: Alignment
    ) -> dict[str, Any]:
        """Compare both models by the spectra of the validation sources."""
        some = validation.take(np.arange(min(len(validation), _MOST_MEASURED)))
        steps = self.base.config.embed.refine_steps
        before, after = (
            _scores(network, some, ids[: len(some)], steps)
            for network in (self.network, tuned.network)
        )
        return {
            "quality": after["quality"],
            FINETUNED: {
                "model_id": self.model_id(made.about.alignment_id),
                "base_model": self.base.model_id,
                "alignment_id": made.about.alignment_id,
                "table": made.about.table,
                "columns": [column.name for column in made.view.columns],
                "epochs": len(tuned.history),
                "best_epoch": tuned.best_epoch,
                "weight": self.config.finetune_weight,
                "learning_rate": self.config.finetune_learning_rate,
                "seed": self.config.seed,
                "before": {**tuned.before, **_summary(before)},
                "after": {**_losses(tuned.best), **_summary(after)},
            },
        }


@torch.no_grad()
def _whitened(network: Folded, train: PairedSpectra) -> npt.NDArray[np.float64]:
    """Whiten the latents of the network over its spectra, as after a training; returns them."""
    latents = torch.cat([network.encode(some.batch) for some in train.split(_ROWS_AT_ONCE)])
    return np.asarray(network.autoencoder.whiten(latents).double().numpy())


def _labels(rows: pa.Table, ids: list[str]) -> tuple[npt.NDArray[np.object_], list[str]]:
    """Return the classes of detections, None if unknown, and the names of their sources."""
    columns = [name for name in ("detection_id", "name", "class") if name in rows.column_names]
    frame = rows.select(columns).to_pandas().set_index("detection_id").loc[ids]
    names = frame["name"].where(frame["name"].notna(), frame.index)
    if "class" not in frame:
        return np.full(len(ids), None, dtype=object), names.tolist()
    labels = [None if pd.isna(label) else str(label) for label in frame["class"]]
    return np.array(labels, dtype=object), names.tolist()


def _record(
    store: Workspace,
    made: Alignment,
    train: PairedSpectra,
    origin: Origin,
    labels: npt.NDArray[np.object_],
) -> dict[str, Any]:
    """Describe the spectra of the tuning, with the keys of a training's record."""
    counts = train.batch.counts.sum(-1)
    known, numbers = np.unique([each for each in labels if each], return_counts=True)
    classes = dict(zip(known.tolist(), numbers.tolist(), strict=True))
    trained_on = TrainedOn(
        survey=made.about.release,
        simulated=is_simulated(store, made.about.release),
        detections=len(train),
        sources=len(np.unique(train.pairs.source)),
        counts=(int(counts.min()), int(counts.max())),
        responses=origin.responses,
        telescopes=origin.telescopes,
        classes=classes,
    )
    return {
        "preset": Folded.name,
        "release": made.about.release,
        "made_by": made_by(),
        "classes": classes,
        TRAINED_ON: trained_on.model_dump(mode="json"),
    }


def _losses(entry: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name.startswith("validation_")}


def _summary(scores: Mapping[str, Any]) -> dict[str, float]:
    return {
        "unseen_cash_per_bin": scores["unseen"],
        "cash_per_bin": scores["quality"]["cash_per_bin"],
    }


def _scores(
    network: Folded, some: PairedSpectra, ids: list[str], refine_steps: int
) -> dict[str, Any]:
    """Measure the Cash statistic of counts not seen, and the goodness of fit after refinement."""
    seeds = hash_names(map(without_release, ids))
    cash = unseen_cash(network, some.batch, seeds)
    frames = [
        as_frame(measure(network, each.batch, refine_steps)) for each in some.split(_ROWS_AT_ONCE)
    ]
    return {
        "unseen": float(cash.mean()),
        "quality": score_reconstruction(pd.concat(frames), None),
    }
