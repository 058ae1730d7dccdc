"""Train a network on prepared arrays with the package's learner alone: no Ray, no files of FITS."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import save_file

from benchmarks.latents.samples import Sample, load
from benchmarks.telescopes.network import compact, load_network
from raypipe.catalog.split import VALIDATION, assign_splits
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.identity import source_keys
from raypipe.model.presets import Folded, build
from raypipe.spectra.grid import EnergyGrid
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.learner import Learner
from raypipe.training.precision import adapt, choose_arithmetic

log = logging.getLogger("benchmarks.telescopes")

VALIDATION_SHARE = 1 / 17
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Choice:
    """Say which telescopes a network learns from: all, all but one, or one."""

    without: str | None = None
    only: str | None = None

    @property
    def name(self) -> str:
        """Name of the network's files."""
        if self.only:
            return f"only-{self.only}"
        return f"without-{self.without}" if self.without else "all"

    def rows(self, table: pd.DataFrame) -> npt.NDArray[np.intp]:
        """Return the rows of a survey's table to learn from; ValueError for unknown telescopes."""
        names = telescopes_in(table)
        for wanted in (self.without, self.only):
            if wanted and wanted not in names:
                known = ", ".join(sorted(set(names)))
                raise ValueError(f"no telescope {wanted} in the survey; there are {known}")
        kept = names == self.only if self.only else names != (self.without or "")
        return np.flatnonzero(kept)

    @staticmethod
    def known(workdir: Path) -> list[str]:
        """Return the telescopes of the survey to train on."""
        table = pd.read_parquet(workdir / "train" / "table.parquet", columns=["telescope"])
        return sorted(set(telescopes_in(table)))


def telescopes_in(table: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Return the telescope of each row of a survey's table, without its camera."""
    return table["telescope"].str.split().str[0].to_numpy(object)


def fit(
    workdir: Path,
    choice: Choice,
    settings: list[str],
    device: torch.device,
    *,
    again: bool = False,
) -> Folded:
    """Train a network, or load it if it was trained with the same settings before."""
    config = load_config(overrides=settings)
    path = workdir / "networks" / f"{choice.name}.safetensors"
    wanted = {
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "surveys": json.loads((workdir / "surveys.json").read_text()),
    }
    described = path.with_suffix(".json")
    made_of = json.loads(described.read_text())["made_of"] if described.exists() else None
    if made_of == wanted and not again:
        return load_network(path)
    sample = load(workdir / "train")
    sample = sample.take(choice.rows(sample.table))
    network, course = _train(sample, config, device, choice.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.cpu().contiguous() for k, v in network.state_dict().items()}, path)
    result = {"made_of": wanted, "detections": len(sample), "device": _called(device), **course}
    described.write_text(json.dumps(result, indent=1) + "\n")
    return network


def _train(
    sample: Sample, config: Config, device: torch.device, name: str
) -> tuple[Folded, dict[str, Any]]:
    keys = source_keys(sample.names, sample.names)
    is_validation = assign_splits(keys, config.train.seed, 0.0, VALIDATION_SHARE) == VALIDATION
    spectra = compact(sample.spectra, device)
    learned, held = (
        spectra.rows(torch.from_numpy(np.flatnonzero(rows)))
        for rows in (~is_validation, is_validation)
    )
    torch.manual_seed(config.train.seed)
    network = build(config.model, EnergyGrid()).to(device)
    assert isinstance(network, Folded)
    adapt(network, choose_arithmetic(config.train, device), device)
    learner = Learner(
        network,
        ResidentStream(learned),
        ResidentStream(held),
        config.train,
        most_shown=network.most_shown,
        device=device,
    )
    started = time.monotonic()
    for epoch in range(config.train.epochs):
        if learner.should_stop():
            break
        metrics = learner.run_epoch(epoch)
        log.info(
            "%s: epoch %d/%d, loss %.4f, validation %.4f, %.0f spectra/s",
            name,
            epoch + 1,
            config.train.epochs,
            metrics["train_loss"],
            metrics["validation_loss"],
            metrics["spectra_per_s"],
        )
    learner.keep_best()
    with torch.no_grad():
        parts = torch.arange(len(learned)).split(ROWS_AT_ONCE)
        network.autoencoder.whiten(
            torch.cat([network.encode(learned.take(rows)) for rows in parts])
        )
    course = {"seconds": time.monotonic() - started, "history": learner.history}
    return network, course


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else str(device)
