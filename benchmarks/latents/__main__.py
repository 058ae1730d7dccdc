"""Measure how much of the information in the photons is in the latents.

Usage: python -m benchmarks.latents --data DIR --workdir DIR [--json FILE] [options]

DIR of --data, which may be given several times, holds ARF/RMF pairs of ACIS, in subfolders of any
depth; --catalog FILE is a table of the archive's detections, from which a second survey is drawn.
Surveys and networks are made once and kept in --workdir, with all scores whose inputs have not
changed: after a change of the model only `folded` is trained and judged again, and `--again folded`
trains it once more. Seeds are fixed.
Figures are given overall (50 to 5,000 expected source counts) and by count decade, beginning at 20;
targets apply to `folded`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.latents import (
    clusters,
    errors,
    figures,
    information,
    instrument,
    limits,
    networks,
    reconstruction,
    rivals,
    speed,
    surveys,
)
from benchmarks.latents.errors import Repeats
from benchmarks.latents.figures import CEILING, TRUTH
from benchmarks.latents.instrument import Views
from benchmarks.latents.networks import Teacher
from benchmarks.latents.responses import collect_responses
from benchmarks.latents.rivals import RIVALS, Latents, Rival, make_rivals
from benchmarks.latents.surveys import (
    Survey,
    catalog_survey,
    code_of,
    digest,
    population_survey,
)
from benchmarks.latents.table import Figure, render
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.model.presets import Folded

log = logging.getLogger("benchmarks.latents")

PARTS = ("cash", "information", "clusters", "instrument", "errors", "speed")
SURVEYS = ("population", "catalog")
PARTS_OF_CATALOG = ("cash", "information", "clusters")
SUPERVISED = "supervised"


class Memory:
    """Scores kept in files, by the inputs they were computed from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, compute: Callable[[], dict[str, Any]], *made_of: object) -> dict[str, Any]:
        """Return the result of `compute`, kept from an earlier call or computed now."""
        path = self.folder / f"{digest(made_of)}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(compute()))
        remembered: dict[str, Any] = json.loads(path.read_text())
        return remembered


class Judge:
    """Measures the rivals on a survey, part by part."""

    def __init__(self, teacher: Teacher, memory: Memory, names: list[str], steps: int) -> None:
        self.teacher, self.memory, self.names = teacher, memory, names
        self.survey = teacher.survey
        self.rivals = make_rivals([name for name in names if name in RIVALS], teacher, steps)

    def cash(self) -> Iterator[Figure]:
        """Measure how well spectra are explained."""
        code = code_of(reconstruction, limits)
        scores = {
            rival.name: self._recall(rival, reconstruction.measure_fit, code)
            for rival in self.rivals
            if isinstance(rival, Latents)
        }
        scores[TRUTH] = self.memory.recall(
            lambda: reconstruction.measure_truth(self.survey), self.survey.key, code
        )
        return figures.fit_figures(self.survey.name, scores)

    def information(self) -> Iterator[Figure]:
        """Score classifiers and regressors, as shares of the scores of supervised networks."""
        code = code_of(information, rivals)
        scores = {
            rival.name: self._recall(rival, information.measure_information, code)
            for rival in self.rivals
        }
        if SUPERVISED in self.names:
            teacher = self.teacher
            scores[CEILING] = self.memory.recall(
                lambda: information.measure_ceiling(teacher),
                self.survey.key,
                teacher.shared_recipe,
                code_of(information, networks),
            )
        return figures.information_figures(self.survey.name, scores)

    def clusters(self) -> Iterator[Figure]:
        """Measure how far clusters separate the classes."""
        code = code_of(clusters, information, rivals)
        scores = {
            rival.name: self._recall(rival, clusters.measure_clusters, code)
            for rival in self.rivals
        }
        return figures.cluster_figures(self.survey.name, scores)

    def instrument(self) -> Iterator[Figure]:
        """Measure how much the latents still depend on the instrument."""
        code = code_of(instrument, surveys, rivals)
        scores = {rival.name: self._recall(rival, self._instrument, code) for rival in self.rivals}
        return figures.instrument_figures(self.survey.name, scores)

    def errors(self) -> Iterator[Figure]:
        """Measure the pulls of the latents and the width of the goodness of fit."""
        code = code_of(errors, surveys, rivals)
        scores = {
            rival.name: self._recall(rival, self._errors, code)
            for rival in self.rivals
            if isinstance(rival, Latents) and isinstance(rival.network, Folded)
        }
        yield from figures.pull_figures(self.survey.name, scores)
        yield from figures.zscore_figures(self.survey.name, scores)

    def speed(self) -> Iterator[Figure]:
        """Measure the spectra encoded per second, again in every run."""
        scores = {
            rival.name: speed.measure_speed(rival)
            for rival in self.rivals
            if isinstance(rival, Latents)
        }
        return figures.speed_figures(self.survey.name, scores)

    @cached_property
    def _views(self) -> Views:
        return instrument.observe_views(self.survey)

    @cached_property
    def _repeats(self) -> Repeats:
        return errors.observe_repeats(self.survey)

    def _instrument(self, rival: Rival) -> dict[str, Any]:
        return instrument.measure_instrument(rival, self._views)

    def _errors(self, rival: Latents) -> dict[str, Any]:
        return {
            "pulls": errors.measure_pulls(rival, self._repeats),
            "zscore": errors.measure_zscore(rival),
        }

    def _recall(
        self, rival: Rival, measure: Callable[[Any], dict[str, Any]], code: str
    ) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            started = time.monotonic()
            scores = measure(rival)
            seconds = time.monotonic() - started
            log.info("%s, %s: %s, %.0f s", self.survey.name, rival.name, measure.__name__, seconds)
            return scores

        return self.memory.recall(compute, rival.key, measure.__name__, code)


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    config = load_config(
        overrides=options.set, settings={"train": {"epochs": options.epochs, "patience": 1000}}
    )
    steps = config.embed.refine_steps if options.refine == "on" else 0
    found: list[Figure] = []
    print(_heading(options, config))
    for survey in _surveys(options):
        teacher = Teacher(
            survey, config, options.workdir / "networks", frozenset(_listed(options.again))
        )
        judge = Judge(teacher, Memory(options.workdir / "scores"), _listed(options.only), steps)
        for part in _listed(options.parts):
            if survey.name == "population" or part in PARTS_OF_CATALOG:
                figures_of_part = list(getattr(judge, part)())
                print(render(figures_of_part), flush=True)
                found += figures_of_part
    if options.json:
        result = {
            "options": {name: str(value) for name, value in vars(options).items()},
            "config": config.model_dump(),
            "figures": [figure.as_json() for figure in found],
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _surveys(options: argparse.Namespace) -> Iterator[Survey]:
    options.workdir.mkdir(parents=True, exist_ok=True)
    responses = collect_responses(options.data, options.workdir / "responses")
    sizes = (options.train, options.test, max(1, options.test // 4))
    for name in _listed(options.surveys):
        if name == "population":
            yield population_survey(options.workdir, responses, *sizes, options.seed)
        else:
            yield catalog_survey(options.workdir, responses, options.catalog, *sizes, options.seed)


def _heading(options: argparse.Namespace, config: Config) -> str:
    return (
        f"{options.train} detections to train, {options.test} to judge, {config.train.epochs} "
        f"epochs, {config.model.latents} latents, {config.embed.refine_steps} steps of refinement, "
        f"seeds {options.seed} (survey) and {config.train.seed} (training)"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latents", description=(__doc__ or "").split("\n", 1)[0]
    )
    add = parser.add_argument
    add("--data", type=Path, action="append", required=True, help="folder with ARF/RMF pairs")
    add("--catalog", type=Path, help="table of real detections for the second survey")
    add("--workdir", type=Path, required=True, help="folder for surveys, networks, scores")
    add("--json", type=Path, help="file for the figures")
    add("--surveys", default=",".join(SURVEYS), help="surveys, separated by commas (%(default)s)")
    add("--parts", default=",".join(PARTS), help="parts, separated by commas (%(default)s)")
    only = ",".join((*RIVALS, SUPERVISED))
    add("--only", default=only, help="rivals to measure, separated by commas (%(default)s)")
    add("--again", default="", help="networks to train even if kept: folded, paper, ...")
    add("--train", type=int, default=32_000, help="detections to train on (%(default)s)")
    add("--test", type=int, default=4_000, help="detections to judge (%(default)s)")
    add("--epochs", type=int, default=12, help="epochs of every network (%(default)s)")
    add("--refine", choices=("on", "off"), default="on", help="refined latents too (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the surveys (%(default)s)")
    add("--set", action="append", default=[], help="setting of all networks, section.key=value")
    options = parser.parse_args()
    _check(parser, "surveys", options.surveys, SURVEYS)
    _check(parser, "parts", options.parts, PARTS)
    _check(parser, "only", options.only, (*RIVALS, SUPERVISED))
    if "catalog" in _listed(options.surveys) and options.catalog is None:
        parser.error("the survey catalog needs --catalog FILE")
    return options


def _check(parser: argparse.ArgumentParser, name: str, text: str, known: tuple[str, ...]) -> None:
    if unknown := set(_listed(text)).difference(known):
        parser.error(f"--{name}: {', '.join(sorted(unknown))} not among {', '.join(known)}")


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    main()
