"""Find the few directions of latent space that spectra determine best, and name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import eigh

from raypipe.catalog.hardness import hardness_ratios, has_band_counts
from raypipe.evaluation.questions.material import Material, logarithm, numbers
from raypipe.evaluation.validation import FloatArray

DIRECTIONS = 3
"""Directions beside the latents themselves."""

NAMED_FROM = 0.6
"""Least rank correlation with a physical quantity, up to sign, for a direction to have its name."""

FEWEST_ROWS = 50

LINEAR = ("photon_index", "powlaw_gamma", "fe_line_ew_kev")
LOGARITHMIC = ("kt_kev", "powlaw_nh", "bb_kt", "brems_kt", "plasma_kt")


@dataclass(frozen=True)
class Direction:
    """Hold a direction of latent space.

    `values` (n,) are the coordinates of the detections along it: `weights` (latents,) times the
    difference of the latents from their mean. `step` (latents,) is the mean change of the latents
    over one standard deviation. `signal_to_noise` is the standard deviation of the coordinates
    divided by their mean error, None if the latents have no errors.
    """

    name: str
    values: FloatArray
    weights: FloatArray
    step: FloatArray
    signal_to_noise: float | None


def directions_of(material: Material) -> list[Direction]:
    """Return each latent as a direction, then the `DIRECTIONS` most informative ones."""
    latents = material.latents
    noise = _mean_noise(material)
    found = [
        _direction(f"z{i}", latents, weights, noise)
        for i, weights in enumerate(np.eye(latents.shape[1]))
    ]
    for i, weights in enumerate(informative(latents, noise)[:DIRECTIONS]):
        found.append(_direction(f"direction {i + 1}", latents, weights, noise))
    return found


def informative(latents: FloatArray, noise: FloatArray | None) -> FloatArray:
    """Return weights (latents, latents), one direction per row, most informative first.

    They are the generalized eigenvectors of the covariance of the latents (n, latents) and the mean
    covariance of their errors: no other direction has a larger ratio of variance to error, and the
    errors of different directions are uncorrelated. Without errors they are principal components.
    """
    spread = np.cov(latents.T)
    metric = np.eye(len(spread)) if noise is None else noise + 1e-9 * np.eye(len(spread))
    weights = eigh(spread, metric)[1].T[::-1]
    # The sign is arbitrary: the largest weight is positive.
    largest = np.abs(weights).argmax(axis=1)
    return np.asarray(weights * np.sign(weights[np.arange(len(weights)), largest])[:, None])


def quantities_of(frame: pd.DataFrame) -> dict[str, FloatArray]:
    """Return the physical quantities (n,) after which a direction may be named."""
    found: dict[str, FloatArray] = {}
    if (log_nh := numbers(frame, "log_nh")) is not None:
        found["log_nh"] = log_nh
    for name in LINEAR:
        if (values := numbers(frame, name)) is not None:
            found[name] = values
    for name in LOGARITHMIC:
        if (values := numbers(frame, name)) is not None:
            found[f"log {name}"] = logarithm(values)
    if has_band_counts(frame):
        ratios = hardness_ratios(frame)
        found |= {str(name): ratios[name].to_numpy(dtype=np.float64) for name in ratios}
    if (counts := numbers(frame, "total_counts")) is not None:
        found["log total_counts"] = logarithm(counts)
    return found


def name_direction(values: FloatArray, quantities: dict[str, FloatArray]) -> dict[str, Any]:
    """Name a direction after the quantity with which its coordinates (n,) correlate most.

    Returns `name` and `correlations`, the three largest rank correlations by quantity. `name` is
    None for correlations below `NAMED_FROM`, and begins with "-" if the quantity falls along the
    direction.
    """
    found = {}
    for name, quantity in quantities.items():
        known = np.isfinite(quantity)
        if known.sum() >= FEWEST_ROWS and np.ptp(quantity[known]) > 0:
            series = pd.Series(values[known])
            found[name] = float(series.corr(pd.Series(quantity[known]), method="spearman"))
    best = sorted(found, key=lambda name: -abs(found[name]))[:3]
    named = None
    if best and abs(found[best[0]]) >= NAMED_FROM:
        named = best[0] if found[best[0]] > 0 else f"-{best[0]}"
    return {"name": named, "correlations": {name: found[name] for name in best}}


def _mean_noise(material: Material) -> FloatArray | None:
    if material.covariances is None:
        return None
    known = np.isfinite(material.covariances).all(axis=(1, 2))
    return np.asarray(material.covariances[known].mean(axis=0)) if known.any() else None


def _direction(
    name: str, latents: FloatArray, weights: FloatArray, noise: FloatArray | None
) -> Direction:
    values = (latents - latents.mean(axis=0)) @ weights
    spread = max(float(values.std()), 1e-12)
    single = np.count_nonzero(weights) == 1
    # A latent moves alone. Along a direction, latents move as they do on average in the catalog:
    # the regression of z on its place u is cov(z) w / var(u).
    step = weights * spread if single else np.cov(latents.T) @ weights / spread
    ratio = None if noise is None else float(spread / np.sqrt(weights @ noise @ weights))
    return Direction(name, values, weights, step, ratio)
