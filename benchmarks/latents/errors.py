"""Part `errors`: test the errors of the latents and the goodness of fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.latents.information import SETTINGS
from benchmarks.latents.rivals import Latents
from benchmarks.latents.samples import Sample
from benchmarks.latents.surveys import Survey, draw, observe
from benchmarks.latents.table import Mask, scored

FloatArray = npt.NDArray[np.float64]

LEVELS = (20.0, 50.0, 150.0, 500.0, 1500.0, 5000.0)
"""Expected source counts at which observations are repeated."""
REPEATS = 50
SOURCES_A_CLASS = 6
BRIGHT = 50_000.0
"""Expected source counts at which the latents of a source are measured without noise."""


@dataclass(frozen=True)
class Repeats:
    """Repeated observations of the same sources, (levels, sources, repeats) flattened.

    `expected` has one observation without noise for each level and source, `bright` one of each
    source at `BRIGHT` counts.
    """

    drawn: Sample
    expected: Sample
    bright: Sample
    n_sources: int


def observe_repeats(survey: Survey) -> Repeats:
    """Observe test sources of every class again at each of `LEVELS`, through the same response."""
    plan = survey.plan
    first = np.unique(plan.targets.source, return_index=True)[1]
    classes = plan.targets.label[plan.targets.source[first]]
    rows = np.concatenate([first[classes == name][:SOURCES_A_CLASS] for name in np.unique(classes)])
    levels = np.repeat(LEVELS, len(rows))
    seen = draw(observe(plan, np.tile(rows, len(LEVELS)), seed=plan.seed + 4, counts=levels))
    bright = draw(observe(plan, rows, seed=plan.seed + 5, counts=np.full(len(rows), BRIGHT)))
    again = seen.take(np.repeat(np.arange(len(seen)), REPEATS))
    return Repeats(
        drawn=again.with_counts(again.truth, again.truth_background, seed=plan.seed + 6),
        expected=seen.without_noise(),
        bright=bright.without_noise(),
        n_sources=len(rows),
    )


def measure_pulls(rival: Latents, repeats: Repeats) -> dict[str, Any]:
    """Widths of the pulls of each latent at each of `LEVELS`, (levels, latents) each.

    `mean`: standard deviation of (z - the source's mean over its repeats) / z_err. `noiseless`:
    root mean square of (z - latents of the expectation) / z_err. `source`: root mean square of (z -
    the source's own latents) / z_std, where the own latents are those of an observation without
    noise at `BRIGHT` counts. The width of a posterior is the error over sources drawn from the
    population; the scatter of repeats is smaller, because the prior pulls all of them in the same
    direction.
    """
    shape = (len(LEVELS), repeats.n_sources, REPEATS, -1)
    drawn = rival.explain(repeats.drawn)
    z, z_err, z_std = (each.reshape(shape) for each in (drawn.z, drawn.z_err, drawn.z_std))
    noiseless = rival.features(repeats.expected).reshape(len(LEVELS), repeats.n_sources, 1, -1)
    own = rival.features(repeats.bright).reshape(1, repeats.n_sources, 1, -1)
    inflate = np.sqrt(REPEATS / (REPEATS - 1))

    def width(reference: FloatArray, error: FloatArray) -> FloatArray:
        pulls = (z - reference) / error
        squares: FloatArray = np.sqrt((pulls**2).mean(axis=(1, 2)))
        return squares

    return {
        "mean": (inflate * width(z.mean(axis=2, keepdims=True), z_err)).tolist(),
        "noiseless": width(noiseless, z_err).tolist(),
        "source": width(own, z_std).tolist(),
    }


def measure_zscore(rival: Latents) -> dict[str, Any]:
    """Width and mean of `fit_zscore` for spectra drawn from the model's expectation.

    Source and background regions are drawn from the model's expectation for each judged detection,
    and encoded again.
    """
    survey, explained = rival.survey, rival.explained
    sample = survey.judged.with_counts(
        explained.mu, explained.background, seed=SETTINGS.seed + survey.plan.seed
    )
    zscore = rival.explain(sample).zscore

    def width(mask: Mask) -> tuple[float | None, float | None]:
        chosen = zscore[mask]
        value = float(chosen.std(ddof=1))
        return value, value / np.sqrt(2 * len(chosen))

    def mean(mask: Mask) -> tuple[float | None, float | None]:
        chosen = zscore[mask]
        return float(chosen.mean()), float(chosen.std(ddof=1) / np.sqrt(len(chosen)))

    counts = survey.judged.source_counts
    return {
        "width": scored(width, counts, survey.in_range),
        "mean": scored(mean, counts, survey.in_range),
    }
