"""Draw the surveys that models are trained and judged on, in memory and with known truth.

Every detection passes through the functions that `simulate` and `ingest` use; only the files
between the two are omitted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import raypipe.simulation
from benchmarks.latents.responses import area_on_grid, gridded
from benchmarks.latents.samples import Sample, join, load, save
from raypipe.catalog.brought_table import read_catalog
from raypipe.simulation.background import background_rate
from raypipe.simulation.catalog_population import COUNTS_COLUMN, best_models
from raypipe.simulation.survey import draw_batches
from raypipe.simulation.survey_plan import Plan, plan_survey
from raypipe.spectra.batch import SpectraBatch, stack_responses
from raypipe.spectra.channel_bins import MOST_BINS
from raypipe.spectra.redistribution import GriddedResponse

log = logging.getLogger("benchmarks.latents")

FloatArray = npt.NDArray[np.float32]

DECADES = (20.0, 50.0, 158.0, 500.0, 1580.0, 5000.0)
"""Edges of the bins of expected source counts for which figures are also given."""
COUNTS = (DECADES[1], DECADES[-1])
"""Range of expected source counts of the training and judged detections; the first bin is extra."""
VALIDATION_SHARE = 1 / 17
OF_FILES = ("products.py", "mission_products.py", "fits_template.py", "simulate.py")
"""Modules of the simulation that only write files: changes in them do not redraw a survey."""
TEST_SHARE_OF_CATALOG = 0.5


@dataclass(frozen=True)
class Survey:
    """Detections to train on and to judge, from different sources.

    `judged` has the test detections, followed by as many from the faintest bin of `DECADES` as fit;
    overall figures leave these out (`in_range`). `plan` is that of the test detections, from which
    other observations of the same sources are made.
    """

    name: str
    key: str
    train: Sample
    judged: Sample
    plan: Plan

    @cached_property
    def in_range(self) -> npt.NDArray[np.bool_]:
        """Whether judged detections are within `COUNTS`, (n,)."""
        return np.arange(len(self.judged)) < len(self.plan)


def population_survey(
    workdir: Path, responses: Path, train: int, test: int, faint: int, seed: int
) -> Survey:
    """Survey 1: the built-in population of eight classes, through the responses of a folder."""
    return _survey(workdir, "population", responses, (None, None), (train, test, faint), seed)


def catalog_survey(
    workdir: Path, responses: Path, catalog: Path, train: int, test: int, faint: int, seed: int
) -> Survey:
    """Survey 2: sources of a real table through the same responses, one half of them to judge."""
    parts = split_catalog(catalog, workdir, seed)
    return _survey(workdir, "catalog", responses, parts, (train, test, faint), seed)


def split_catalog(catalog: Path, workdir: Path, seed: int) -> tuple[Path, Path]:
    """Write the rows of half of a table's usable sources to train on, and the others to judge.

    Each class is halved separately, so that rare classes are in both halves.
    """
    table = read_catalog(catalog).to_pandas()
    table = table[best_models(table).notna() & (table[COUNTS_COLUMN] > 0)]
    sources = table.groupby("name")["class"].first().fillna("")
    rng = np.random.default_rng(seed)
    judged: set[str] = set()
    for _, names in sources.groupby(sources).groups.items():
        shuffled = rng.permutation(np.array(names, dtype=object))
        judged.update(shuffled[: round(TEST_SHARE_OF_CATALOG * len(shuffled))])
    is_judged = table["name"].isin(judged)
    paths = (workdir / "catalog-train.parquet", workdir / "catalog-test.parquet")
    for path, rows in zip(paths, (~is_judged, is_judged), strict=True):
        table[rows].to_parquet(path)
    return paths


def _survey(
    workdir: Path,
    name: str,
    responses: Path,
    catalogs: tuple[Path | None, Path | None],
    sizes: tuple[int, int, int],
    seed: int,
) -> Survey:
    train, test, faint = sizes
    to_train = round(train / (1 - VALIDATION_SHARE))
    plans = [
        _plan(to_train, 10 * seed + 1, responses, catalogs[0], COUNTS),
        _plan(test, 10 * seed + 2, responses, catalogs[1], COUNTS),
        _plan(faint, 10 * seed + 3, responses, catalogs[1], DECADES[:2]),
    ]
    named = sorted(path.name for path in responses.iterdir())
    key = f"{name}-{train}-{test}-{seed}-" + digest(
        [named, faint, code_of(raypipe.simulation, without=OF_FILES)]
    )
    folder = workdir / "surveys" / key
    if not (folder / "done").exists():
        for part, plan in zip(("train", "test", "faint"), plans, strict=True):
            log.info("drawing %d detections (%s, %s)", len(plan), name, part)
            save(draw(plan), folder / part)
        (folder / "done").touch()
    return Survey(
        name=name,
        key=key,
        train=load(folder / "train"),
        judged=join([load(folder / "test"), load(folder / "faint")]),
        plan=plans[1],
    )


def _plan(
    detections: int,
    seed: int,
    responses: Path,
    catalog: Path | None,
    counts: tuple[float, ...],
) -> Plan:
    return plan_survey(
        detections,
        seed,
        counts_min=counts[0],
        counts_max=counts[1],
        catalog=catalog,
        responses=responses,
    )


def observe(
    plan: Plan,
    rows: npt.ArrayLike,
    *,
    seed: int,
    instrument: npt.NDArray[np.intp] | None = None,
    counts: npt.NDArray[np.float64] | None = None,
) -> Plan:
    """Plan further observations of the sources of a plan's `rows`, in their order.

    Each is like its row, except for the `instrument` and the expected source `counts`, given (n,).
    """
    rows = np.asarray(rows)
    targets = plan.targets
    was = plan.instrument[rows]
    now = was if instrument is None else instrument
    usual = np.array([background_rate(each) for each in plan.instruments])
    return dataclasses.replace(
        plan,
        seed=seed,
        targets=dataclasses.replace(
            targets,
            source=targets.source[rows],
            counts=targets.counts[rows] if counts is None else counts,
            origin=targets.origin[rows],
        ),
        instrument=now,
        flux=plan.flux[rows],
        off_axis_arcmin=plan.off_axis_arcmin[rows],
        psf_fraction=plan.psf_fraction[rows],
        background_share=plan.background_share[rows],
        background_area=plan.background_area[rows],
        background_rate=plan.background_rate[rows] * usual[now] / usual[was],
        sky_share=plan.sky_share[rows],
    )


def draw(plan: Plan) -> Sample:
    """Draw the detections of a plan and put them on the model's grid, as ingest does."""
    responses = [gridded(each) for each in plan.instruments]
    stacked = stack_responses(responses)
    parts = []
    for survey in draw_batches(plan):
        table = pd.DataFrame(survey.table)
        area = [
            area_on_grid(plan.instruments[index], values)
            for index, values in zip(survey.instrument, survey.area_cm2, strict=True)
        ]
        counts, background, truth, truth_background = (
            _binned(getattr(survey, name), survey.instrument, responses)
            for name in (
                "counts",
                "background_counts",
                "model_counts",
                "background_model_counts",
            )
        )
        spectra = SpectraBatch(
            counts=counts,
            background_counts=background,
            background_scale=(table["backscal"] / table["background_backscal"]).to_numpy(
                np.float32
            ),
            exposure_s=table["exposure_s"].to_numpy(np.float32),
            arf_cm2=np.stack(area),
            response_index=survey.instrument.astype(np.int64),
            responses=stacked,
            bins=tuple(each.bins for each in responses),
        )
        parts.append(Sample(spectra, truth, truth_background, table))
    return join(parts)


def _binned(
    native: npt.NDArray[Any],
    instrument: npt.NDArray[np.intp],
    responses: Sequence[GriddedResponse],
) -> FloatArray:
    """Sum native channels (n, channels) into the bins of each row's response, (n, 256)."""
    binned = np.zeros((len(native), MOST_BINS), np.float32)
    for index in np.unique(instrument):
        bins, rows = responses[index].bins, np.flatnonzero(instrument == index)
        binned[rows, : len(bins)] = bins.bin_counts(native[rows, : bins.n_channels])
    return binned


def digest(value: Any) -> str:
    """A short hash of any value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def code_of(*modules: Any, without: tuple[str, ...] = ()) -> str:
    """A short hash of the source code of modules, or of the files of packages."""
    files: list[Path] = []
    for module in modules:
        path = Path(module.__file__)
        files += sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    code = b"".join(path.read_bytes() for path in files if path.name not in without)
    return hashlib.sha256(code).hexdigest()[:10]
