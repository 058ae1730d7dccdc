"""Compare how fast, and to which answers, two versions of raypipe measure the same spectra.

Usage: python -m benchmarks.refinement --before COMMIT --survey FOLDER --network FILE [--rounds 5]
           [--rows 2048]

FOLDER has arrays of spectra as `benchmarks.telescopes prepare` writes them, FILE the weights of a
network. The package is taken from git as it was at COMMIT, into a temporary folder. One process per
version, of one thread, measures all spectra in batches of the default size; the two take turns, and
the medians over the rounds count. CPU seconds are counted, which other work on the machine changes
less than it changes wall time. The stages are measured one after another in each round.

The answers are compared in the height of the posterior, cash / 2 + |z|^2 / 2: a row is worse if it
is higher than before by more than 0.001.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-3
VERSIONS = ("before", "now")


def serve(package: Path, survey: Path, network: Path, rows: int, link: Connection) -> None:
    """Measure in a process that imports raypipe from `package`; answer each request by its times.

    An answer has CPU ms per spectrum by stage, and the columns of all rows.
    """
    sys.path.insert(0, str(package))
    import torch

    import raypipe
    from benchmarks.latents.samples import load_spectra
    from benchmarks.telescopes.network import load_network
    from raypipe.config import EmbedConfig
    from raypipe.model.encode import encode_batch
    from raypipe.model.features import prepare
    from raypipe.model.refine import refine

    assert Path(raypipe.__file__).is_relative_to(package), raypipe.__file__
    torch.set_num_threads(1)
    config, model, spectra = EmbedConfig(), load_network(network), load_spectra(survey)
    chosen = np.sort(np.random.default_rng(0).permutation(len(spectra))[:rows])
    spectra = spectra.take(chosen)
    spectra = spectra.take(np.argsort(spectra.response_index, kind="stable"))
    starts = range(0, len(spectra), config.batch_size)
    parts = [
        spectra.take(np.arange(start, min(start + config.batch_size, len(spectra))))
        for start in starts
    ]

    def timed(work: Any, items: list[Any]) -> tuple[float, list[Any]]:
        begin = time.process_time()
        results = [work(item) for item in items]
        return 1000.0 * (time.process_time() - begin) / len(spectra), results

    while link.recv():
        with torch.no_grad():
            took: dict[str, float] = {}
            took["prepare"], batches = timed(prepare, parts)
            took["encode"], encoded = timed(model.encode, batches)
            pairs = list(zip(encoded, batches, strict=True))
            took["errors alone"], _ = timed(lambda pair: refine(model, pair[0], pair[1], 0), pairs)
            took["refine, with errors"], _ = timed(
                lambda pair: refine(model, pair[0], pair[1], config.refine_steps), pairs
            )
            took["all"], found = timed(
                lambda part: encode_batch(model, part, config.refine_steps), parts
            )
        columns = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        link.send((took, columns))


def start(package: Path, survey: Path, network: Path, rows: int) -> Connection:
    """Start a process for one version."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    arguments = package, survey, network, rows, theirs
    spawn.Process(target=serve, args=arguments, daemon=True).start()
    return ours


def height(columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Compute minus the log posterior of each row, (n,)."""
    names = [name for name in columns if name[0] == "z" and name[1:].isdigit()]
    z = np.stack([columns[name] for name in names], 1)
    return np.asarray(0.5 * columns["cash"] + 0.5 * (z**2).sum(1), np.float64)


def compare(links: dict[str, Connection], rounds: int) -> None:
    """Print the times per stage, and how the answers differ."""
    times: dict[str, dict[str, list[float]]] = {version: {} for version in VERSIONS}
    columns: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for _ in range(rounds + 1):  # the first round warms up
        for version, link in links.items():
            link.send(True)
            took, columns[version] = link.recv()
            for stage, value in took.items():
                times[version].setdefault(stage, []).append(value)
    print("| CPU ms per spectrum | before | now | faster |\n| --- | --- | --- | --- |")
    for stage in times["now"]:
        before, now = (statistics.median(times[version][stage][1:]) for version in VERSIONS)
        print(f"| {stage} | {before:.3f} | {now:.3f} | {before / now:.2f} |")
    higher = height(columns["now"]) - height(columns["before"])
    print(
        f"height of the posterior, now minus before: median {np.median(higher):.1e}, mean "
        f"{higher.mean():.2e}; lower by more than {TOLERANCE} for "
        f"{(higher < -TOLERANCE).mean():.1%} of {len(higher)} rows, higher for "
        f"{(higher > TOLERANCE).mean():.1%}"
    )
    moved = np.abs(columns["now"]["z0"] - columns["before"]["z0"]) / columns["before"]["z0_std"]
    widths = columns["now"]["z0_std"] / columns["before"]["z0_std"]
    print(
        f"z0 moves by {np.median(moved):.1e} of z0_std (median), {np.percentile(moved, 95):.1e} "
        f"(95th percentile); z0_std times {np.percentile(widths, 5):.3f} to "
        f"{np.percentile(widths, 95):.3f}"
    )


def export(commit: str, folder: Path) -> None:
    """Write the package as it was at a commit."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "raypipe"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", required=True, help="commit to compare with")
    parser.add_argument("--survey", type=Path, required=True, help="folder with arrays of spectra")
    parser.add_argument("--network", type=Path, required=True, help="weights of a network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2048)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        export(options.before, Path(folder))
        packages = dict(zip(VERSIONS, (Path(folder), ROOT), strict=True))
        links = {
            version: start(package, options.survey, options.network, options.rows)
            for version, package in packages.items()
        }
        compare(links, options.rounds)
        for link in links.values():
            link.send(False)


if __name__ == "__main__":
    main()
