"""Measure an alignment on sources that it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.aligning.calibrate import drawn_latents, latent_pulls, view_pulls
from raypipe.aligning.pairs import Pairs
from raypipe.aligning.retrieval import baselines, chance, judge
from raypipe.alignment.bundle import Alignment
from raypipe.alignment.translation import predict_latents, view_scores
from raypipe.alignment.views import flat

Floats = npt.NDArray[np.float64]

_MOST_JUDGED = 5000
"""Most sources in the gallery: similarities of all pairs take 200 MB."""


def gallery_rows(test: Pairs, seed: int) -> npt.NDArray[np.int64]:
    """Return one detection with one view per test source; a sample if there are more than 5,000."""
    rows = test.one_per_source()
    if len(rows) > _MOST_JUDGED:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_MOST_JUDGED])
    return rows


def similarities(made: Alignment, judged: Pairs) -> Floats:
    """Return the similarity of each spectrum (rows) with each view (columns)."""
    spectra = made.embed_spectra(judged.posteriors).astype(np.float64)
    return np.asarray(spectra @ made.embed_views(judged.views()).T.astype(np.float64))


def measure_retrieval(made: Alignment, train: Pairs, judged: Pairs, seed: int) -> dict[str, Any]:
    """Measure recall on judged pairs, beside chance and the linear baselines."""
    linear = baselines(
        train.posteriors.features().astype(np.float64),
        flat(train.views()),
        judged.posteriors.features().astype(np.float64),
        flat(judged.views()),
    )
    return {
        "retrieval": judge(similarities(made, judged), seed),
        "baselines": {name: judge(each, seed) for name, each in linear.items()},
        "chance": chance(len(judged)),
    }


def measure_translation(made: Alignment, test: Pairs, judged: Pairs) -> dict[str, Any]:
    """Measure how well either side predicts the other, and how often its 68% limits hold the truth.

    For each number of the view, `r2` is the share of the variance of normal scores that the
    prediction explains. `coverage` is the share of truths in the one-sigma interval, 0.683 if its
    errors are right, among all detections `test`, with each source counted as one; it has a
    standard error. `coverage_judged` is the same among the judged pairs, which have the best
    detection of each source and are therefore a selected sample. Each latent has the same figures,
    with a draw from its posterior as the truth.
    """
    numbers = {
        column.name: place.start
        for column, place in zip(made.view.columns, made.view.slices(), strict=True)
        if column.kind == "number"
    }
    mean, _ = view_scores(made, judged.posteriors)
    values = judged.views().values.astype(np.float64)
    every, chosen = view_pulls(made, test), view_pulls(made, judged)
    view = {
        name: _agreement(mean[:, i], values[:, i], chosen[:, i], every[:, i], test.source)
        for name, i in numbers.items()
        if np.isfinite(chosen[:, i]).sum() > 1
    }
    center, _ = predict_latents(made, judged.views())
    drawn = drawn_latents(judged)
    every, chosen = latent_pulls(made, test), latent_pulls(made, judged)
    latents = {
        f"z{i}": _agreement(center[:, i], drawn[:, i], chosen[:, i], every[:, i], test.source)
        for i in range(drawn.shape[1])
    }
    return {"view": view, "latents": latents}


def _agreement(
    mean: Floats, truth: Floats, chosen: Floats, every: Floats, source: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Compare predictions of judged pairs (n,), with pulls `chosen`; `every` are all pulls."""
    known = np.isfinite(chosen)
    variance = float(np.var(truth[known])) or 1.0
    coverage, error = _coverage(every, source)
    return {
        "r2": float(1.0 - np.mean((truth[known] - mean[known]) ** 2) / variance),
        "coverage": coverage,
        "coverage_err": error,
        "coverage_judged": float((np.abs(chosen[known]) <= 1).mean()),
    }


def _coverage(pulls: Floats, source: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of sources within one width, and its standard error."""
    known = np.isfinite(pulls)
    inside = (np.abs(pulls[known]) <= 1).astype(np.float64)
    _, inverse = np.unique(source[known], return_inverse=True)
    by_source = np.bincount(inverse, inside) / np.bincount(inverse)
    return float(by_source.mean()), float(by_source.std() / np.sqrt(len(by_source)))
