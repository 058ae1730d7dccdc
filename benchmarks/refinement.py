"""Compare how fast, and to which answers, two versions of raypipe measure the same spectra.

Usage: python -m benchmarks.refinement --before COMMIT (--survey FOLDER --network FILE |
           --workspace W --model BUNDLE) [--draws 64] [--rounds 5] [--rows 2048]

FOLDER has arrays of spectra as `benchmarks.telescopes prepare` writes them, FILE the weights of a
network. The spectra of a workspace are measured in the batches in which `embed` measures them. The
package is taken from git as it was at COMMIT, into a temporary folder. One process per
version, of one thread, measures all spectra in batches of the default size; the two take turns, and
the medians over the rounds count. CPU seconds are counted, which other work on the machine changes
less than it changes wall time. The stages are measured one after another in each round.

The answers are compared in the height of the posterior, cash / 2 + |z|^2 / 2: a row is worse if it
is higher than before by more than 0.001. With `--draws`, posterior draws and fluxes are measured,
too, and the answers are compared by decade of counts: effective numbers of draws, and by how much
means and widths of the latents and the flux of the broad band differ.
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
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-3
VERSIONS = ("before", "now")
DECADES = (1.0, 100.0, 1000.0, 10_000.0, 1e7)


@dataclass(frozen=True)
class Task:
    """Name what to measure: arrays and a network, or a workspace and a bundle."""

    survey: Path | None
    network: Path | None
    workspace: Path | None
    model: Path | None
    rows: int
    draws: int


def serve(package: Path, task: Task, link: Connection) -> None:
    """Measure in a process that imports raypipe from `package`; answer each request by its times.

    An answer has CPU ms per spectrum by stage, and the columns of all rows.
    """
    sys.path.insert(0, str(package))
    import torch

    import raypipe
    from raypipe.config import EmbedConfig
    from raypipe.model.encode import encode_batch
    from raypipe.model.features import prepare
    from raypipe.model.refine import refine

    assert Path(raypipe.__file__).is_relative_to(package), raypipe.__file__
    torch.set_num_threads(1)
    steps = EmbedConfig().refine_steps
    model, parts = read_workspace(task) if task.workspace else read_survey(task)
    number = sum(len(part) for part in parts)

    def timed(work: Any, items: list[Any]) -> tuple[float, list[Any]]:
        begin = time.process_time()
        results = [work(item) for item in items]
        return 1000.0 * (time.process_time() - begin) / number, results

    def answers(draws: int = 0, fluxes: bool = False) -> tuple[float, list[Any]]:
        return timed(lambda part: encode_batch(model, part, steps, True, draws, fluxes), parts)

    def without_draws(part: Any) -> Any:
        return encode_batch(model, part, steps)

    while link.recv():
        with torch.no_grad():
            took: dict[str, float] = {}
            took["prepare"], batches = timed(prepare, parts)
            took["encode"], encoded = timed(model.encode, batches)
            pairs = list(zip(encoded, batches, strict=True))
            took["errors alone"], _ = timed(lambda pair: refine(model, pair[0], pair[1], 0), pairs)
            took["refine, with errors"], _ = timed(
                lambda pair: refine(model, pair[0], pair[1], steps), pairs
            )
            took["all"], found = timed(without_draws, parts)
            if task.draws:
                took[f"all, with {task.draws} draws"], _ = answers(task.draws)
                took["all, with draws and fluxes"], found = answers(task.draws, fluxes=True)
        columns = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        link.send((took, columns))


def read_survey(task: Task) -> tuple[Any, list[Any]]:
    """Return the network, and batches of spectra chosen from arrays at random."""
    from benchmarks.latents.samples import load_spectra
    from benchmarks.telescopes.network import load_network
    from raypipe.config import EmbedConfig

    assert task.survey is not None
    assert task.network is not None
    spectra = load_spectra(task.survey)
    chosen = np.sort(np.random.default_rng(0).permutation(len(spectra))[: task.rows])
    spectra = spectra.take(chosen)
    spectra = spectra.take(np.argsort(spectra.response_index, kind="stable"))
    size = EmbedConfig().batch_size
    starts = range(0, len(spectra), size)
    parts = [spectra.take(np.arange(start, min(start + size, len(spectra)))) for start in starts]
    return load_network(task.network), parts


def read_workspace(task: Task) -> tuple[Any, list[Any]]:
    """Return the network of a bundle, and the batches of `embed` of the first parts."""
    from raypipe.config import EmbedConfig
    from raypipe.model.bundle import load_model
    from raypipe.spectra.batch import SpectraBatch
    from raypipe.spectra.responses import ResponseLibrary
    from raypipe.store.layout import part_name, spectra_folder
    from raypipe.store.manifest import choose_release
    from raypipe.store.parts import count_parts
    from raypipe.store.workspace import Workspace

    assert task.workspace is not None
    assert task.model is not None
    workspace = Workspace(task.workspace)
    release, library = choose_release(workspace, None), ResponseLibrary(workspace)
    size, parts, rows = EmbedConfig().batch_size, [], 0
    for number in range(count_parts(workspace, release)):
        if rows >= task.rows:
            break
        table = workspace.read_table(part_name(spectra_folder(release), number))
        table = table.sort_by([("rmf_id", "ascending"), ("detection_id", "ascending")])
        for start in range(0, table.num_rows, size):
            parts.append(SpectraBatch.from_table(table.slice(start, size), library))
        rows += table.num_rows
    return load_model(task.model).network, parts


def start(package: Path, task: Task) -> Connection:
    """Start a process for one version."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    spawn.Process(target=serve, args=(package, task, theirs), daemon=True).start()
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
    if "posterior_ess" in columns["now"]:
        compare_draws(columns["before"], columns["now"])


def compare_draws(before: dict[str, npt.NDArray[Any]], now: dict[str, npt.NDArray[Any]]) -> None:
    """Print how the answers of draws differ, by decade of counts."""
    counts = now["total_counts"]
    latents = [name.removesuffix("_mean") for name in now if name.endswith("_mean")]
    for low, high in pairwise(DECADES):
        rows = (counts >= low) & (counts < high)
        if not rows.any():
            continue
        moved = [
            (now[f"{z}_mean"] - before[f"{z}_mean"])[rows] / before[f"{z}_sd"][rows]
            for z in latents
        ]
        widths = np.concatenate([(now[f"{z}_sd"] / before[f"{z}_sd"])[rows] for z in latents])
        span = np.log(before["flux_b_hilim"] / before["flux_b_lolim"].clip(1e-30)) / 2.0
        flux = (np.log(now["flux_b"] / before["flux_b"]) / span)[rows]
        ess = [each["posterior_ess"][rows] for each in (before, now)]
        print(
            f"{low:.0f}-{high:.0f} counts, {rows.sum()} rows: effective draws (median, 2nd "
            f"percentile) {_pair(ess[0])} before, {_pair(ess[1])} now; means move by "
            f"{np.sqrt(np.nanmean(np.square(moved))):.3f} widths (rms); widths times "
            f"{np.nanmedian(widths):.3f}; flux_b moves by {np.nanmedian(flux):+.3f} errors "
            f"(median), {np.sqrt(np.nanmean(np.square(flux))):.3f} (rms)"
        )


def _pair(ess: npt.NDArray[np.float64]) -> str:
    return f"{np.nanmedian(ess):.0f} ({np.nanpercentile(ess, 2):.0f})"


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
    parser.add_argument("--survey", type=Path, help="folder with arrays of spectra")
    parser.add_argument("--network", type=Path, help="weights of a network")
    parser.add_argument("--workspace", type=Path, help="workspace whose spectra are measured")
    parser.add_argument("--model", type=Path, help="bundle to measure a workspace's spectra with")
    parser.add_argument("--draws", type=int, default=0, help="posterior draws per spectrum")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2048)
    options = parser.parse_args()
    task = Task(
        options.survey,
        options.network,
        options.workspace,
        options.model,
        options.rows,
        options.draws,
    )
    if not ((task.survey and task.network) or (task.workspace and task.model)):
        parser.error("give --survey with --network, or --workspace with --model")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        export(options.before, Path(folder))
        packages = dict(zip(VERSIONS, (Path(folder), ROOT), strict=True))
        links = {version: start(package, task) for version, package in packages.items()}
        compare(links, options.rounds)
        for link in links.values():
            link.send(False)


if __name__ == "__main__":
    main()
