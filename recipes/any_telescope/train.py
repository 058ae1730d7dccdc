"""Train a network on detections that are drawn while it learns.

Usage: python -m recipes.any_telescope.train SKY OUT [--without NICER | --only CHANDRA]
           [--steps N] [--made-up N] [--start NETWORK] [--device cuda] [--set KEY=VALUE ...]

It needs torch, numpy and the package's model and learner: no Ray, no pyarrow and no astropy.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.model.presets import Folded, build
from raypipe.spectra.grid import EnergyGrid
from raypipe.training.learner import Learner
from raypipe.training.precision import adapt, choose_arithmetic
from raypipe.training.steps import StepPlan
from recipes.any_telescope.fresh import COUNTS, MADE_UP_SHARE, FreshStream, weights_of
from recipes.any_telescope.made_up import with_made_up
from recipes.any_telescope.sky import Sky

log = logging.getLogger("recipes.any_telescope")

STEPS_PER_EPOCH = 1000
VALIDATION = 4096
VALIDATION_SOURCES = 0.06
WHITENED_OVER = 32_768
"""Detections over which the latents are made uncorrelated."""


def split(sky: Sky, seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the indices of the sources to learn from, and of those to validate with."""
    order = np.random.default_rng(seed).permutation(len(sky.log_flux))
    held = round(VALIDATION_SOURCES * len(order))
    return order[held:], order[:held]


def train(
    sky: Sky,
    config: Config,
    steps: int,
    device: torch.device,
    *,
    without: str | None = None,
    only: str | None = None,
    start: Path | None = None,
    name: str = "all",
) -> tuple[Folded, dict[str, object]]:
    """Train for `steps` steps of `train.batch_size` detections; returns network and course.

    `start` is a file of weights to start from instead of random ones.
    """
    started, seed = time.monotonic(), config.train.seed
    weights = weights_of(sky, without=without, only=only)
    learned, held = split(sky, seed)
    per_epoch = STEPS_PER_EPOCH * config.train.batch_size
    stream = FreshStream(sky, learned, weights, per_epoch, seed + 1, device)
    validation = FreshStream(sky, held, weights, VALIDATION, seed + 2, device)
    torch.manual_seed(seed)
    network = build(config.model, EnergyGrid()).to(device)
    if not isinstance(network, Folded):
        raise TypeError(f"preset {network.name} does not fold through responses")
    if start is not None:
        network.load_state_dict(load_file(start))
    adapt(network, choose_arithmetic(config.train, device), device)
    learner = Learner(
        network,
        stream,
        validation,
        config.train,
        most_shown=network.most_shown,
        device=device,
        plan=StepPlan(per_epoch, config.train.batch_size),
    )
    for epoch in range(steps // STEPS_PER_EPOCH):
        metrics = learner.run_epoch(epoch)
        log.info(
            "%s: step %d of %d, loss %.4f, validation %.4f, %.0f spectra/s",
            name,
            (epoch + 1) * STEPS_PER_EPOCH,
            steps,
            metrics["train_loss"],
            metrics["validation_loss"],
            metrics["spectra_per_s"],
        )
    learner.keep_best()
    stream.size = WHITENED_OVER
    with torch.no_grad():
        z = [network.encode(batch) for _, batch in stream.sweep()]
        network.autoencoder.whiten(torch.cat(z))
    return network, {
        "seconds": time.monotonic() - started,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "steps": steps,
        "history": learner.history,
        "best_epoch": learner.best_epoch,
        "validation_loss": learner.best_loss,
        "detections_drawn": steps * config.train.batch_size,
        "sources": len(learned),
        "counts": list(COUNTS),
        "made_up_share": MADE_UP_SHARE if only is None else 0.0,
        "start": None if start is None else json.loads(start.with_suffix(".json").read_text()),
        "without": without,
        "only": only,
        "instruments": [n for n, w in zip(sky.names, weights, strict=True) if w > 0],
        "torch": torch.__version__,
    }


def main() -> None:
    """Train one network and save it with its course."""
    parser = argparse.ArgumentParser(prog="python -m recipes.any_telescope.train")
    add = parser.add_argument
    add("sky", type=Path, help="file that `python -m recipes.any_telescope prepare` wrote")
    add("out", type=Path, help="file for the weights; a .json beside it describes them")
    add("--without", help="telescope to leave out")
    add("--only", help="telescope to train on alone")
    add("--steps", type=int, default=40_000, help="optimizer steps (%(default)s)")
    add("--made-up", type=int, default=48, help="made-up responses (%(default)s)")
    add("--start", type=Path, help="network to start from, which `train` saved")
    add("--device", default="cpu")
    add("--threads", type=int, default=1)
    add("--set", action="append", default=[], help="setting, section.key=value")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    epochs = max(options.steps // STEPS_PER_EPOCH, 1)
    config = load_config(overrides=[f"train.epochs={epochs}", *options.set])
    sky = Sky.load(options.sky)
    if options.made_up:
        sky = with_made_up(sky, options.made_up, seed=config.train.seed)
    network, course = train(
        sky,
        config,
        epochs * STEPS_PER_EPOCH,
        torch.device(options.device),
        without=options.without,
        only=options.only,
        start=options.start,
        name=options.out.stem,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.cpu().contiguous() for key, value in network.state_dict().items()}, options.out
    )
    made_of = {
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
    }
    described = {"made_of": made_of, "made_up": options.made_up, **course}
    options.out.with_suffix(".json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
