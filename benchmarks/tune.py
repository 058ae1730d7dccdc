"""Compare the settings found by tuning with the configured ones, for equal computing time.

Usage: python -m benchmarks.tune [--detections 4000] [--epochs 10] [--trials 8] [--keep FOLDER]
           [--set KEY=VALUE ...]

On a simulated survey `raypipe.tune` runs the trials one after the other, with one worker of one
thread. Four models are compared: the configured settings and the best trial's, (1, 2) both after
the epochs of a trial, and (3, 4) both trained for as long as all trials together took, which is the
cost of the tuning (seconds of epochs, from the seconds per epoch of each). For equal computing
time, compare (3), which needed no tuning, with (2), which needed all of it; (3) and (4) show which
settings are better when there is time.

Cash per bin is that of the half of the counts that the encoder does not see
(`raypipe.model.holdout_cash`), the same halves for all models; its error, and that of a
difference on the same spectra, is the standard deviation over bootstrap samples of the spectra. The
test sources took
no part in the search. Load averages are printed: only ratios of times are meaningful on a busy
machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch

from raypipe.catalog.split import TEST, VALIDATION
from raypipe.config import Config, RayConfig
from raypipe.config_toml import load_config
from raypipe.discovery.discover import discover
from raypipe.identity import hash_names, without_release
from raypipe.ingestion.ingest import ingest
from raypipe.model.bundle import load_model
from raypipe.model.holdout_cash import unseen_cash
from raypipe.ray_session import ray_session
from raypipe.simulation.simulate import simulate
from raypipe.store.workspace import Workspace
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.data import read_roster
from raypipe.training.reading import PartReader
from raypipe.training.train import make_model
from raypipe.tuning.records import Record, Records
from raypipe.tuning.space import read_space
from raypipe.tuning.tune import tune

RELEASE = "sim"
RESAMPLED = 2000
CPU = torch.device("cpu")


class Contestant(NamedTuple):
    name: str
    model_id: str
    epochs: int
    seconds: float


def compete(workspace: Workspace, config: Config) -> list[Contestant]:
    """Tune, then train the configured and the best settings for as long as the tuning took."""
    space = read_space(config)
    best_id = tune(workspace, release=RELEASE, config=config)
    (tune_id,) = workspace.folders("tuning")
    records = Records(workspace, f"tuning/{tune_id}/trials").all()
    spent = sum(record.seconds for record in records)
    own = records[0]
    best = next(record for record in records if record.model_id == best_id)
    print(f"{len(records)} trials took {spent:.0f} s of epochs; the best is {best.values}")
    short = make_model(workspace, RELEASE, space.settings(own.values))
    contestants = [
        Contestant("as configured, as long as a trial", short, own.epochs, own.seconds),
        Contestant("best trial", best_id, best.epochs, best.seconds),
    ]
    for name, record in ("as configured", own), ("best settings", best):
        settings, epochs = _longer(space.settings(record.values), record, spent)
        model_id = make_model(workspace, RELEASE, settings)
        history = workspace.read_json(f"models/{model_id}/metrics.json")["history"]
        seconds = sum(entry["seconds"] for entry in history)
        text = f"{name}, as long as all trials"
        contestants.append(Contestant(text, model_id, epochs, seconds))
    return contestants


def _longer(settings: Config, record: Record, seconds: float) -> tuple[Config, int]:
    """Set the number of epochs that takes this long at the trial's own speed."""
    epochs = max(1, round(seconds * record.epochs / record.seconds))
    values = settings.model_dump()
    values["train"]["epochs"] = epochs
    return load_config(settings=values), epochs


def cash_of(
    workspace: Workspace, config: Config, model_id: str, split: str
) -> npt.NDArray[np.float64]:
    """Cash per bin of each spectrum of a split, (n,)."""
    network = load_model(workspace.absolute_uri(f"models/{model_id}")).network
    roster = read_roster(workspace, RELEASE, config.train)
    rows = roster.rows(split)
    ids = roster.detection_ids[rows]
    values = [
        unseen_cash(network, batch, hash_names(map(without_release, ids[places.numpy()])))
        for places, batch in ResidentStream(PartReader(workspace, roster, CPU).read(rows)).sweep()
    ]
    return torch.cat(values).double().numpy()


def bootstrap_error(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation of the mean over bootstrap samples."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(values), (RESAMPLED, len(values)))
    return float(values[drawn].mean(1).std())


def tell(workspace: Workspace, config: Config, contestants: list[Contestant]) -> None:
    """Print the table and the comparisons."""
    cash = {
        (each.name, split): cash_of(workspace, config, each.model_id, split)
        for each in contestants
        for split in (VALIDATION, TEST)
    }
    own, best, own_long, best_long = contestants
    print("| | epochs | s | validation | test | test, less that of the first |")
    print("|---|---|---|---|---|---|")
    for each in contestants:
        cells = [_with_error(cash[each.name, split]) for split in (VALIDATION, TEST)]
        difference = _with_error(cash[each.name, TEST] - cash[own.name, TEST], sign=True)
        print(
            f"| {each.name} | {each.epochs} | {each.seconds:.0f} | {' | '.join(cells)} "
            f"| {difference} |"
        )
    for what, one, other in (
        ("as many epochs as a trial", own, best),
        ("equal compute", own_long, best),
        ("as long as all trials", own_long, best_long),
    ):
        for split in VALIDATION, TEST:
            gain = cash[other.name, split] - cash[one.name, split]
            mean, error = gain.mean(), bootstrap_error(gain)
            winner = "a draw" if abs(mean) < 2 * error else other.name if mean < 0 else one.name
            told = f"{other.name} less {one.name}: {mean:+.4f} ± {error:.4f}: {winner}"
            print(f"{what}, {split}: {told}")


def _with_error(values: npt.NDArray[np.float64], sign: bool = False) -> str:
    mean = f"{values.mean():+.4f}" if sign else f"{values.mean():.4f}"
    return f"{mean} ± {bootstrap_error(values):.4f}"


def _tell_load(when: str) -> None:
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"{when}: load averages {loads} on {os.cpu_count()} CPUs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detections", type=int, default=4_000)
    parser.add_argument("--epochs", type=int, default=10, help="most epochs per trial")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--keep", type=Path, help="folder to keep survey and workspace")
    parser.add_argument("--set", action="append", default=[], help="another setting, KEY=VALUE")
    options = parser.parse_args()
    own: list[Any] = ["train.num_workers=1", "train.patience=100000", "tune.concurrent_trials=1"]
    own += [f"train.epochs={options.epochs}", f"tune.trials={options.trials}", "ray.num_cpus=2"]
    config = load_config(overrides=[*own, *options.set])
    with tempfile.TemporaryDirectory() as temporary:
        place = options.keep or Path(temporary)
        workspace = Workspace(place / "workspace")
        if not workspace.exists("spectra"):
            simulate(place / "survey", detections=options.detections, seed=1)
            discover(
                workspace, source=str(place / "survey"), catalog=place / "survey/truth.parquet"
            )
        with ray_session(RayConfig(address="local", num_cpus=2), dashboard=True):
            ingest(workspace, config=config)
            _tell_load("before")
            contestants = compete(workspace, config)
            _tell_load("after")
        tell(workspace, config, contestants)


if __name__ == "__main__":
    main()
