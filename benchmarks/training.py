"""Compare the throughput of `train` under Ray Train with a bare PyTorch loop, on CPUs.

Usage: python -m benchmarks.training [--detections 8000] [--epochs 3] [--rounds 3]
           [--set KEY=VALUE ...]

Three ways take turns: (1) the bare loop, in this process with one thread; (2)
`raypipe.train` with one worker of one thread, on a local Ray of two CPUs, which runs from the
beginning; (3) the same with two workers. An epoch is the training steps and a pass over the
validation spectra. The first epoch of each training is left out, and the median of the others over
all rounds counts. For `train` two speeds are printed: by the epochs alone, as in the history of
`metrics.json`, and from the end of an epoch to the end of the next, which includes checkpoint and
report; the bare loop has neither.

The bare loop has the model, spectra, batch size, thinning, loss, optimizer, clipping and schedule
of `train`. Its tensors are float32 with the background smoothed beforehand, whereas `train` keeps
compact spectra and smooths the background of each batch.

Load averages are printed before and after: on a machine that is not idle, only ratios are
meaningful. `benchmarks.gpu_check` measures training on a GPU.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.surveys import make_survey
from raypipe.catalog.split import TRAIN, VALIDATION
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.ingestion.ingest import ingest
from raypipe.model.count_splitting import thin
from raypipe.model.features import Batch
from raypipe.model.presets import build
from raypipe.ray_session import ray_session
from raypipe.spectra.grid import EnergyGrid
from raypipe.store.layout import model_folder
from raypipe.store.manifest import choose_release
from raypipe.store.workspace import Workspace
from raypipe.training.compact import CompactSpectra
from raypipe.training.data import read_roster
from raypipe.training.reading import PartReader
from raypipe.training.train import train

CPU = torch.device("cpu")
LEAST_BARE, LEAST_TWO = 0.95, 1.5
SWEEP = 256


class Ends(logging.Handler):
    """Times at which the epochs of trainings ended, as seen by the driver, s."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if ", validation " in record.getMessage():
            self.seconds.append(record.created)


@contextmanager
def ends_of_epochs() -> Iterator[Ends]:
    """Record the progress of trainings while the block runs."""
    progress, ends = logging.getLogger("raypipe.training.progress"), Ends()
    progress.setLevel(logging.INFO)
    progress.addHandler(ends)
    try:
        yield ends
    finally:
        progress.removeHandler(ends)


@dataclass
class Course:
    """One way to train, over all rounds.

    Spectra per second of epochs, alone and from end to end; the other time of a training, s; the
    last one's validation loss and optimizer steps.
    """

    alone: list[float] = field(default_factory=list)
    to_end: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    loss: float = float("nan")
    steps: int = 0


class Epoch(NamedTuple):
    """One epoch of the bare loop."""

    steps: int
    seconds: float
    spectra_per_s: float
    validation_loss: float


def bare_loop(config: Config, spectra: Batch, others: Batch) -> Iterator[Epoch]:
    """Train as a script would, with everything in memory."""
    settings = config.train
    torch.manual_seed(settings.seed)
    network = build(config.model, EnergyGrid())
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )
    steps = len(spectra) // settings.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.1
    )
    for _ in range(settings.epochs):
        begin = time.perf_counter()
        network.train()
        for rows in torch.randperm(len(spectra)).split(settings.batch_size)[:steps]:
            batch = spectra.take(rows)
            loss, square = network(batch, thin(batch, settings.thinning_min, network.most_shown))
            optimizer.zero_grad()
            (loss + settings.latent_penalty * square).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            losses = []
            for rows in torch.arange(len(others)).split(SWEEP):
                batch = others.take(rows)
                shown = thin(batch, settings.thinning_min, network.most_shown)
                losses.append(network(batch, shown)[0])
        validation_loss = float(torch.cat(losses).mean())
        seconds = time.perf_counter() - begin
        yield Epoch(steps, seconds, steps * settings.batch_size / seconds, validation_loss)


def run_bare(config: Config, spectra: Batch, others: Batch, course: Course) -> None:
    begin = time.perf_counter()
    epochs = list(bare_loop(config, spectra, others))
    took = time.perf_counter() - begin
    course.alone += [epoch.spectra_per_s for epoch in epochs[1:]]
    course.beside_s.append(took - sum(epoch.seconds for epoch in epochs))
    course.loss, course.steps = epochs[-1].validation_loss, sum(epoch.steps for epoch in epochs)


def run_train(workspace: Workspace, config: Config, course: Course) -> None:
    """Train from scratch, even if the model exists."""
    for folder in "models", "checkpoints":
        workspace.delete_folder(folder)
    begin = time.perf_counter()
    with ends_of_epochs() as ends:
        model_id = train(workspace, config=config)
    took = time.perf_counter() - begin
    metrics = workspace.read_json(f"{model_folder(model_id)}/metrics.json")
    history = metrics["history"]
    assert len(ends.seconds) == len(history) == config.train.epochs, metrics
    assert metrics["workers"] == config.train.num_workers, metrics
    assert metrics["data"] == "resident", metrics
    spectra = metrics["steps_per_epoch"] * metrics["batch_size"]
    pairs = zip(ends.seconds[1:], ends.seconds[:-1], strict=True)
    course.alone += [epoch["spectra_per_s"] for epoch in history[1:]]
    course.to_end += [spectra / (end - before) for end, before in pairs]
    course.beside_s.append(took - sum(epoch["seconds"] for epoch in history))
    course.loss, course.steps = history[-1]["validation_loss"], metrics["optimizer_steps"]


def measure(workspace: Workspace, config: Config, rounds: int) -> None:
    """Print the speed of each way to train on CPUs, and how they compare."""
    spectra, others = (part.take(torch.arange(len(part))) for part in read(workspace, config, CPU))
    bare, one, two = Course(), Course(), Course()
    with ray_session(config.ray):
        for _ in range(rounds):
            run_bare(config, spectra, others, bare)
            run_train(workspace, _with(config, num_workers=1), one)
            run_train(workspace, _with(config, num_workers=2), two)
    assert bare.steps == one.steps == two.steps, (bare, one, two)
    _tell("bare loop, one thread", bare)
    _tell("train, one worker", one)
    _tell("train, two workers", two)
    _compare("one worker against the bare loop", one.alone, bare.alone, LEAST_BARE)
    _compare("... from end to end of epochs", one.to_end, bare.alone, LEAST_BARE)
    _compare("two workers against one", two.alone, one.alone, LEAST_TWO)
    _compare("... from end to end of epochs", two.to_end, one.to_end, LEAST_TWO)


def read(
    workspace: Workspace, config: Config, device: torch.device
) -> tuple[CompactSpectra, CompactSpectra]:
    """Read the spectra for training and validation as `train` does."""
    roster = read_roster(workspace, choose_release(workspace, None), config.train)
    reader = PartReader(workspace, roster, device)
    return reader.read(roster.rows(TRAIN)), reader.read(roster.rows(VALIDATION))


def _with(config: Config, **settings: object) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def _tell(name: str, course: Course) -> None:
    low, high = min(course.alone), max(course.alone)
    text = f"{name:24}{statistics.median(course.alone):8.0f} spectra/s ({low:.0f}-{high:.0f})"
    if course.to_end:
        text += f", {statistics.median(course.to_end):.0f} from end to end of epochs"
    beside = statistics.median(course.beside_s)
    print(f"{text}; {beside:.1f} s outside the epochs; validation loss {course.loss:.3f}")


def _compare(name: str, these: list[float], those: list[float], wanted: float) -> None:
    ratio = statistics.median(these) / statistics.median(those)
    print(f"{name:36}{ratio:.3f} (target: {wanted})")


def _tell_load(when: str) -> None:
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"{when}: load averages {loads} on {os.cpu_count()} CPUs")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detections", type=int, default=8_000)
    parser.add_argument("--epochs", type=int, default=3, help="epochs per training, at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="another setting, KEY=VALUE")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: the first is left out, so there must be two")
    own = ["ray.address=local", "ray.num_cpus=2", "train.use_gpu=false", "train.data=resident"]
    config = load_config(overrides=[*own, f"train.epochs={options.epochs}", *options.set])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        workspace = make_survey(Path(place), options.detections)
        ingest(workspace, config=config)
        _tell_load("before")
        measure(workspace, config, options.rounds)
        _tell_load("after")


if __name__ == "__main__":
    main()
