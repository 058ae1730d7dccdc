"""Print the table of all networks that were trained, with targets and real spectra."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.latents.samples import Sample, load
from benchmarks.latents.table import Figure, render
from benchmarks.real_spectra import (
    BACKGROUND_OF_TARGETS,
    HEADING,
    MOST_COUNTS,
    TARGETS,
    Judged,
    RealSpectrum,
    agreements,
    fit_physical,
    plot,
    read_folders,
    row,
)
from benchmarks.real_spectra import judge as judge_real
from benchmarks.telescopes.fit import Choice, telescopes_in
from benchmarks.telescopes.measures import (
    REFINE_STEPS,
    Measured,
    guess_telescope,
    measure,
    score_pairs,
)
from benchmarks.telescopes.network import load_network
from raypipe.model.presets import Folded

KINDS = {"encoder": 0, "refined": REFINE_STEPS}
UNSEEN_TARGETS = {"encoder": 1.3, "refined": 1.0}
ACIS_COUNTS = (50.0, 5000.0)
"""Expected source counts of the figures of ACIS that stand beside those of `benchmarks.latents`."""
NEIGHBORS = 30
MOST_TIME = 1.2
SURVEY = "all telescopes"


def judge(
    data: Path, workdir: Path, device: torch.device, to_json: Path | None, to_plot: Path | None
) -> None:
    """Measure the networks in `workdir`; print figures and real spectra, save them if asked."""
    networks = workdir / "networks"
    network = load_network(networks / "all.safetensors").to(device)
    test = load(workdir / "test")
    figures = [
        *_cash(network, test),
        *_pairs(network, load(workdir / "pairs")),
        *_guesses(network, load(workdir / "views")),
        *_acis(network, load(workdir / "train"), test),
        *_time(networks),
    ]
    print(render(figures), flush=True)
    folders = [data / name for name in ("csc", "ciao", "missions") if (data / name).is_dir()]
    whole = list(read_folders(folders))
    real = [each.thinned(MOST_COUNTS, seed) for seed, each in enumerate(whole)]
    fits = [fit_physical(each) for each in real]
    judged = [judge_real(each, network, fit) for each, fit in zip(real, fits, strict=True)]
    print("\n".join(["", HEADING, *map(row, judged)]), flush=True)
    rest = [*_real(judged), *_agreement(network, whole)]
    for telescope in Choice.known(workdir):
        path = networks / f"without-{telescope}.safetensors"
        if path.exists():
            unseen = load_network(path).to(device)
            here = [
                judge_real(each, unseen, fit)
                for each, fit in zip(real, fits, strict=True)
                if each.telescope.upper().startswith(telescope.upper())
            ]
            rest += [*_unseen(unseen, test, telescope), *_unseen_real(here, telescope)]
    print(render(rest), flush=True)
    if to_json:
        result = {
            "figures": [figure.as_json() for figure in (*figures, *rest)],
            "real": [one.as_json() for one in judged],
            "pairs": [asdict(pair) for pair in agreements(whole, network)],
        }
        to_json.write_text(json.dumps(result, indent=1) + "\n")
    if to_plot:
        plot(judged, to_plot)


def _cash(network: Folded, test: Sample) -> Iterator[Figure]:
    for kind, steps in KINDS.items():
        found = measure(network, test, steps)
        for name in np.unique(found.telescope.astype(str)):
            excess = found.excess[found.telescope == name]
            error = float(excess.std(ddof=1) / np.sqrt(len(excess)))
            yield Figure(
                SURVEY, f"Cash above the truth's, {kind}", name, float(excess.mean()), error
            )


def _pairs(network: Folded, sample: Sample) -> Iterator[Figure]:
    scores = score_pairs(measure(network, sample, REFINE_STEPS))
    name = "distance through two telescopes over that through one, refined"
    yield Figure(SURVEY, name, "median", *scores.ratio_median, most=1.15)
    yield Figure(SURVEY, name, "root mean square", *scores.ratio_rms)
    for second, ratio in scores.by_second.items():
        yield Figure(SURVEY, name, f"median, {second} against another", ratio)
    for who, pulls in (("one telescope", scores.pulls_one), ("two", scores.pulls_two)):
        name = f"pulls of differences through {who}, refined"
        least, most = (None, None) if who == "one telescope" else (0.8, 1.25)
        for which, value in (
            ("narrowest", pulls.min()),
            ("median", np.median(pulls)),
            ("widest", pulls.max()),
        ):
            yield Figure(SURVEY, name, f"{which} latent", float(value), least=least, most=most)


def _guesses(network: Folded, sample: Sample) -> Iterator[Figure]:
    for kind, steps in KINDS.items():
        found: Measured = measure(network, sample, steps)
        most = 1.3 if kind == "refined" else None
        for without in (None, "NuSTAR"):
            said = f" without {without}" if without else ""
            for who, (value, error) in guess_telescope(found, sample.names, without).items():
                name = f"telescope guessed over chance{said}, {kind}"
                yield Figure(SURVEY, name, who, value, error, most=most)


def _acis(network: Folded, train: Sample, test: Sample) -> Iterator[Figure]:
    """Give figures of ACIS as `benchmarks.latents` does, for the counts it judges."""
    low, high = ACIS_COUNTS
    train, judged = (
        each.take(np.flatnonzero(telescopes_in(each.table) == "CHANDRA")) for each in (train, test)
    )
    within = (judged.source_counts >= low) & (judged.source_counts <= high)
    judged = judged.take(np.flatnonzero(within))
    for kind, steps in KINDS.items():
        found, known = (measure(network, each, steps) for each in (judged, train))
        per_bin = found.excess / judged.spectra.n_bins
        error = float(per_bin.std(ddof=1) / np.sqrt(len(per_bin)))
        name = f"ACIS, {low:g}-{high:g} counts, {kind}"
        yield Figure(SURVEY, name, "Cash per bin above the truth's", float(per_bin.mean()), error)
        classes = KNeighborsClassifier(NEIGHBORS).fit(known.z, train.classes).predict(found.z)
        score = float(balanced_accuracy_score(judged.classes, classes))
        error = float(np.sqrt(score * (1 - score) / len(judged)))
        yield Figure(SURVEY, name, "classes by kNN, balanced accuracy", score, error)


def _time(networks: Path) -> Iterator[Figure]:
    speeds = {}
    for name in ("all", "only-CHANDRA"):
        path = networks / f"{name}.json"
        if path.exists():
            history = json.loads(path.read_text())["history"]
            later = history[1:] or history
            speeds[name] = float(np.median([epoch["spectra_per_s"] for epoch in later]))
            yield Figure(SURVEY, "training, spectra/s", name, speeds[name])
    if len(speeds) == 2:
        ratio = speeds["only-CHANDRA"] / speeds["all"]
        yield Figure(SURVEY, "time per spectrum over ACIS alone", "all", ratio, most=MOST_TIME)


def _real(judged: list[Judged]) -> Iterator[Figure]:
    bound = [one for one in judged if one.background_share < BACKGROUND_OF_TARGETS]
    for kind, most in TARGETS.items():
        name = f"real spectra, Cash over the best fit's, {kind}"
        ratios = np.array([one.ratio(kind) for one in bound])
        yield Figure(SURVEY, name, "mean, background below half", float(ratios.mean()))
        worst = bound[int(ratios.argmax())].real.name
        yield Figure(SURVEY, name, f"worst: {worst}", float(ratios.max()), most=most)


def _agreement(network: Folded, spectra: list[RealSpectrum]) -> Iterator[Figure]:
    for pair in agreements(spectra, network):
        name = f"latents of {' and '.join(pair.names)} at {pair.counts} counts, joint errors"
        yield Figure(SURVEY, name, "distance", pair.distance)
        yield Figure(SURVEY, name, "largest of one latent", pair.largest, most=3.0)


def _unseen(network: Folded, test: Sample, telescope: str) -> Iterator[Figure]:
    here = test.take(np.flatnonzero(telescopes_in(test.table) == telescope))
    for kind, steps in KINDS.items():
        found = measure(network, here, steps)
        ratio = float(found.cash.sum() / found.truth.sum())
        name = f"trained without {telescope}, Cash over the truth's, {kind}"
        yield Figure(SURVEY, name, f"{len(here)} simulated", ratio, most=UNSEEN_TARGETS[kind])


def _unseen_real(judged: list[Judged], telescope: str) -> Iterator[Figure]:
    for kind, most in UNSEEN_TARGETS.items():
        name = f"trained without {telescope}, real, Cash over the best fit's, {kind}"
        for one in judged:
            yield Figure(SURVEY, name, one.real.name, one.ratio(kind), most=most)
