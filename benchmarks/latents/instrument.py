"""Part `instrument`: measure whether the latents depend on the response of an observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.latents.information import SETTINGS
from benchmarks.latents.rivals import Rival
from benchmarks.latents.samples import Sample
from benchmarks.latents.surveys import DECADES, Survey, draw, observe
from benchmarks.latents.table import Mask, scored
from raypipe.evaluation.classification import predict_boosting, predict_knn
from raypipe.evaluation.validation import fitting_threads, grouped_folds

IntArray = npt.NDArray[np.intp]

SOURCES = 500
DRAWS = 200
"""Resamplings of the sources for the errors."""


@dataclass(frozen=True)
class Views:
    """The same sources observed through several responses, at the same expected source counts.

    `pairs` has, for each source, two observations through one response and then two through
    another; `all_responses` has one observation of each source through each response.
    """

    pairs: Sample
    all_responses: Sample


def observe_views(survey: Survey) -> Views:
    """Observe test sources again, with log-uniform counts over all of `DECADES`."""
    plan = survey.plan
    rng = np.random.default_rng(plan.seed + 1)
    rows = np.unique(plan.targets.source, return_index=True)[1][:SOURCES]
    counts = np.exp(rng.uniform(np.log(DECADES[0]), np.log(DECADES[-1]), len(rows)))
    n_responses = len(plan.instruments)
    chosen = np.stack([rng.permutation(n_responses)[:2] for _ in rows])
    pairs = observe(
        plan,
        np.repeat(rows, 4),
        seed=plan.seed + 2,
        instrument=np.repeat(chosen, 2, axis=1).ravel(),
        counts=np.repeat(counts, 4),
    )
    everything = observe(
        plan,
        np.repeat(rows, n_responses),
        seed=plan.seed + 3,
        instrument=np.tile(np.arange(n_responses), len(rows)),
        counts=np.repeat(counts, n_responses),
    )
    return Views(draw(pairs), draw(everything))


def measure_instrument(rival: Rival, views: Views) -> dict[str, Any]:
    """Relative distance of a source between responses, and accuracy of guessing a response.

    `distance`: mean Euclidean distance of two observations of one source through two responses,
    divided by that of two observations through the same response. `guess_knn`, `guess_boosting`:
    balanced accuracy, relative to chance, of a classifier that guesses the response from the
    features. Each response has observed the same sources at the same counts, and folds share no
    source.
    """
    with fitting_threads(0):
        return {"distance": _distance(rival, views.pairs)} | _guesses(rival, views.all_responses)


def _distance(rival: Rival, pairs: Sample) -> dict[str, Any]:
    features = rival.features(pairs).reshape(-1, 2, 2, rival.judged.shape[1])

    def apart(one: Any, other: Any) -> Any:
        return np.linalg.norm(one - other, axis=-1)

    same = apart(features[:, :, 0], features[:, :, 1]).mean(axis=1)
    across = apart(features[:, 0, :, None], features[:, 1, None, :]).mean(axis=(1, 2))
    counts = pairs.source_counts[::4]
    rng = np.random.default_rng(SETTINGS.seed)

    def score(mask: Mask) -> tuple[float | None, float | None]:
        rows = np.flatnonzero(mask)
        drawn = [rng.choice(rows, len(rows)) for _ in range(DRAWS)]
        ratios = [across[each].mean() / same[each].mean() for each in drawn]
        return float(across[rows].mean() / same[rows].mean()), float(np.std(ratios))

    return scored(score, counts, counts >= DECADES[1])


def _guesses(rival: Rival, sample: Sample) -> dict[str, Any]:
    features = rival.features(sample)
    codes = sample.spectra.response_index
    n_responses = len(np.unique(codes))
    predict = {"guess_knn": predict_knn, "guess_boosting": predict_boosting}
    predicted = {name: np.full(len(codes), -1) for name in predict}
    for learn, judge in grouped_folds(codes, sample.names, SETTINGS.folds, SETTINGS.seed):
        for name, function in predict.items():
            predicted[name][judge] = function(
                features[learn], codes[learn], features[judge], SETTINGS
            )

    def scores(name: str) -> dict[str, Any]:
        right = predicted[name] == codes

        def score(mask: Mask) -> tuple[float | None, float | None]:
            by_source = right[mask].reshape(-1, n_responses).mean(axis=1)
            error = by_source.std(ddof=1) / np.sqrt(len(by_source))
            return float(by_source.mean() * n_responses), float(error * n_responses)

        return scored(score, sample.source_counts, sample.source_counts >= DECADES[1])

    return {name: scores(name) for name in predict}
