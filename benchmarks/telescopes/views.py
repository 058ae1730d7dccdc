"""Draw the surveys: one to train on, one to judge, and sources seen by several telescopes."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.latents.samples import save
from benchmarks.latents.surveys import draw, observe
from benchmarks.telescopes.fit import VALIDATION_SHARE
from raypipe.simulation.survey_plan import Plan, plan_survey
from raypipe.simulation.visits import SEEN_SHARE, seen_shares

log = logging.getLogger("benchmarks.telescopes")

COUNTS = (20.0, 30_000.0)
PAIR_COUNTS = (50.0, 30_000.0)
FOLDERS = ("responses", "csc", "missions")
"""Folders whose responses surveys are drawn through; those of `ciao` are never seen in training."""

LEARNED = ["detection_id", "name", "class", "telescope", "source_counts"]
"""Columns of the survey to train on that are kept."""


def prepare(data: Path, workdir: Path, train: int, test: int, sources: int, seed: int) -> None:
    """Draw all surveys and save them under `workdir`, unless they are there with these sizes."""
    settings = {"train": train, "test": test, "sources": sources, "seed": seed}
    description = workdir / "surveys.json"
    if description.exists() and json.loads(description.read_text()) == settings:
        log.info("surveys of %s are there", settings)
        return
    folders = [data / name for name in FOLDERS]
    to_train = round(train / (1 - VALIDATION_SHARE))
    learn, judged = (
        plan_survey(
            size,
            10 * seed + number,
            counts_min=COUNTS[0],
            counts_max=COUNTS[1],
            responses=folders,
        )
        for number, size in ((1, to_train), (2, test))
    )
    shares = seen_shares(judged.targets.sources, judged.instruments)
    plans = {
        "train": learn,
        "test": judged,
        "pairs": pairs(judged, shares, sources),
        "views": views(judged, shares, sources),
    }
    for name, plan in plans.items():
        log.info("drawing %d detections (%s)", len(plan), name)
        sample = draw(plan)
        if name == "train":
            save(replace(sample, table=sample.table[LEARNED]), workdir / name, to_learn=True)
        else:
            save(sample, workdir / name)
    description.write_text(json.dumps(settings) + "\n")


def telescopes_of(plan: Plan) -> npt.NDArray[np.str_]:
    """Return the telescope of each instrument of a plan, without its camera."""
    return np.array([each.telescope for each in plan.instruments])


def pairs(plan: Plan, shares: npt.NDArray[np.float64], sources: int) -> Plan:
    """Observe sources three times at the same counts: twice by one telescope, once by another.

    Only telescopes that see the source take part. The two observations by one telescope are
    through the same response.
    """
    rng = np.random.default_rng(plan.seed + 1000)
    telescopes = telescopes_of(plan)
    rows, instruments = [], []
    for row in np.unique(plan.targets.source, return_index=True)[1]:
        seen = np.flatnonzero(shares[plan.targets.source[row]] >= SEEN_SHARE)
        names = np.unique(telescopes[seen])
        if len(names) < 2:
            continue
        chosen = rng.permutation(names)[:2]
        one, other = (rng.choice(seen[telescopes[seen] == name]) for name in chosen)
        rows += [row] * 3
        instruments += [one, one, other]
        if len(rows) == 3 * sources:
            break
    counts = np.exp(rng.uniform(*np.log(PAIR_COUNTS), len(rows) // 3))
    return observe(
        plan,
        rows,
        seed=plan.seed + 1001,
        instrument=np.array(instruments),
        counts=np.repeat(counts, 3),
    )


def views(plan: Plan, shares: npt.NDArray[np.float64], sources: int) -> Plan:
    """Observe sources that every telescope sees once by each of them, at the same counts."""
    rng = np.random.default_rng(plan.seed + 2000)
    telescopes = telescopes_of(plan)
    names = np.unique(telescopes)
    best = np.stack([shares[:, telescopes == name].min(axis=1) for name in names], axis=1)
    first = np.unique(plan.targets.source, return_index=True)[1]
    rows = first[(best[plan.targets.source[first]] >= SEEN_SHARE).all(axis=1)][:sources]
    chosen = [rng.choice(np.flatnonzero(telescopes == name)) for _ in rows for name in names]
    counts = np.exp(rng.uniform(*np.log(PAIR_COUNTS), len(rows)))
    return observe(
        plan,
        np.repeat(rows, len(names)),
        seed=plan.seed + 2001,
        instrument=np.array(chosen),
        counts=np.repeat(counts, len(names)),
    )
