"""Draw the surveys that models are trained and judged on, in memory and with known truth.

Every detection passes through the functions that `simulate` and `ingest` use; only the files
between the two are omitted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import raypipe.simulation
from benchmarks.latents.responses import GRID, area_on_grid, redistribution
from raypipe.catalog.brought_table import read_catalog
from raypipe.simulation.background import background_rate
from raypipe.simulation.catalog_population import COUNTS_COLUMN, best_models
from raypipe.simulation.survey import Plan, draw_batches, plan_survey
from raypipe.spectra.batch import SpectraBatch

log = logging.getLogger("benchmarks.latents")

FloatArray = npt.NDArray[np.float32]

DECADES = (20.0, 50.0, 158.0, 500.0, 1580.0, 5000.0)
"""Edges of the bins of expected source counts for which figures are also given."""
COUNTS = (DECADES[1], DECADES[-1])
"""Range of expected source counts of the training and judged detections; the first bin is extra."""
VALIDATION_SHARE = 1 / 17
OF_FILES = ("products.py", "fits_template.py", "simulate.py")
"""Modules of the simulation that only write files: changes in them do not redraw a survey."""
TEST_SHARE_OF_CATALOG = 0.5


@dataclass(frozen=True)
class Sample:
    """Detections on the model's grid.

    `truth` and `truth_background` (n, bins) are the expected counts in the source region, in total
    and from the background; `table` has the columns of a survey's truth, one row per detection.
    """

    spectra: SpectraBatch
    truth: FloatArray
    truth_background: FloatArray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    @property
    def source_counts(self) -> npt.NDArray[np.float64]:
        """Expected source counts, (n,)."""
        return self.table["source_counts"].to_numpy(np.float64)

    @property
    def names(self) -> npt.NDArray[np.object_]:
        """The source of each detection, (n,)."""
        return self.table["name"].to_numpy(object)

    @property
    def classes(self) -> npt.NDArray[np.object_]:
        """The class of each detection, (n,), None if unknown."""
        return self.table["class"].to_numpy(object)

    def take(self, rows: npt.ArrayLike) -> Sample:
        """Select detections by index."""
        chosen = np.asarray(rows)
        return Sample(
            self.spectra.take(chosen),
            self.truth[chosen],
            self.truth_background[chosen],
            self.table.iloc[chosen].reset_index(drop=True),
        )

    def with_counts(
        self, expected: npt.NDArray[Any], background: npt.NDArray[Any], seed: int | None
    ) -> Sample:
        """The same detections with counts drawn from other expectations, (n, bins) each.

        `background` is the expected background in the source region. With `seed` None the counts
        are the expectations themselves: an observation without noise.
        """
        pair = [expected, background / self.spectra.background_scale[:, None]]
        if seed is not None:
            rng = np.random.default_rng(seed)
            pair = [rng.poisson(each) for each in pair]
        counts, background_counts = (each.astype(np.float32) for each in pair)
        spectra = dataclasses.replace(
            self.spectra, counts=counts, background_counts=background_counts
        )
        return dataclasses.replace(self, spectra=spectra)

    def without_noise(self) -> Sample:
        """The same detections with exactly the expected counts."""
        return self.with_counts(self.truth, self.truth_background, seed=None)


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
    parts = []
    responses = np.stack([redistribution(each) for each in plan.instruments])
    for survey in draw_batches(plan):
        table = pd.DataFrame(survey.table)
        area = [
            area_on_grid(plan.instruments[index], values)
            for index, values in zip(survey.instrument, survey.area_cm2, strict=True)
        ]
        spectra = SpectraBatch(
            counts=GRID.bin_channels(survey.counts).astype(np.float32),
            background_counts=GRID.bin_channels(survey.background_counts).astype(np.float32),
            background_scale=(table["backscal"] / table["background_backscal"]).to_numpy(
                np.float32
            ),
            exposure_s=table["exposure_s"].to_numpy(np.float32),
            arf_cm2=np.stack(area),
            response_index=survey.instrument.astype(np.int64),
            responses=responses,
        )
        truth = GRID.bin_channels(survey.model_counts)
        parts.append(
            Sample(spectra, truth, GRID.bin_channels(survey.background_model_counts), table)
        )
    return join(parts)


def join(parts: Iterable[Sample]) -> Sample:
    """Concatenate samples of the same responses."""
    parts = list(parts)
    batches = [part.spectra for part in parts]
    joined = {
        field.name: np.concatenate([getattr(batch, field.name) for batch in batches])
        for field in dataclasses.fields(SpectraBatch)
        if field.name != "responses"
    }
    return Sample(
        SpectraBatch(**joined, responses=batches[0].responses),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.truth_background for part in parts]),
        pd.concat([part.table for part in parts], ignore_index=True),
    )


def save(sample: Sample, folder: Path) -> None:
    """Write a sample into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        field.name: getattr(sample.spectra, field.name)
        for field in dataclasses.fields(SpectraBatch)
    }
    np.savez(
        folder / "arrays.npz",
        truth=sample.truth,
        truth_background=sample.truth_background,
        **arrays,
    )
    sample.table.to_parquet(folder / "table.parquet")


def load(folder: Path) -> Sample:
    """Read a sample that `save` wrote."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored)
    truth, background = arrays.pop("truth"), arrays.pop("truth_background")
    return Sample(
        SpectraBatch(**arrays), truth, background, pd.read_parquet(folder / "table.parquet")
    )


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
