"""Measure an alignment on sources that it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.aligning.pairs import Pairs
from raypipe.aligning.retrieval import baselines, chance, judge
from raypipe.alignment.bundle import Alignment
from raypipe.alignment.translation import predict_latents, view_scores
from raypipe.alignment.views import ViewInputs

Floats = npt.NDArray[np.float64]

_MOST_JUDGED = 5000
"""Most sources in the gallery: similarities of all pairs take 200 MB."""


def gallery_rows(test: Pairs, seed: int) -> npt.NDArray[np.int64]:
    """Return one detection, with one view, per test source; of more than 5,000, a sample."""
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


def measure_translation(made: Alignment, judged: Pairs) -> dict[str, Any]:
    """Measure how well either side predicts the other, and how often the truth is in 68% limits.

    Of each number of the view: the share of the variance of normal scores that the prediction
    explains (`r2`), and the `coverage` of its one-sigma interval, 0.683 if its errors are right.
    Of each latent: the same, judged against a draw from the posterior of the detection.
    """
    view = judged.views()
    mean, width = view_scores(made, judged.posteriors)
    numbers = {}
    for number, (column, place) in enumerate(
        zip(made.view.columns, made.view.slices(), strict=True)
    ):
        known = view.known[:, number]
        if column.kind == "number" and known.sum() > 1:
            numbers[column.name] = _agreement(
                mean[known, place.start], width[known, place.start], view.values[known, place.start]
            )
    center, covariance = predict_latents(made, view)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(center.shape)
    drawn = judged.posteriors.mean + np.einsum("nij,nj->ni", judged.posteriors.factors, noise)
    widths = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    latents = {
        f"z{i}": _agreement(center[:, i], widths[:, i], drawn[:, i]) for i in range(drawn.shape[1])
    }
    return {"view": numbers, "latents": latents}


def flat(view: ViewInputs) -> Floats:
    """Return a view as plain features, (n, features): its inputs and which of them are known."""
    return np.concatenate([view.values, view.known], axis=1).astype(np.float64)


def _agreement(mean: Floats, width: Floats, truth: Floats) -> dict[str, float]:
    variance = float(np.var(truth)) or 1.0
    return {
        "r2": float(1.0 - np.mean((truth - mean) ** 2) / variance),
        "coverage": float((np.abs(truth - mean) <= width).mean()),
    }
