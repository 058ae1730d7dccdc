"""Ask how much information about variability spectra add to flux and counts.

The variability columns are those of the Chandra Source Catalog. Probabilities within observations
belong to a detection, those between observations to a source. A simulated detection has those of
the real detection from which it was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from raypipe.evaluation.mutual_information import measure, normal_scores
from raypipe.evaluation.questions.material import (
    Material,
    logarithm,
    numbers,
    one_per_source,
    unmeasured,
)
from raypipe.evaluation.validation import FloatArray, on_one_scale

VARIABILITY = {
    "var_prob_b": "probability of variability within the observation (Gregory-Loredo)",
    "var_index_b": "index of variability within the observation, 0 to 10",
    "ks_prob_b": "probability of variability within the observation (Kolmogorov-Smirnov)",
    "kp_prob_b": "probability of variability within the observation (Kuiper)",
    "sigma_over_mean": "spread of the light curve over its mean, var_sigma_b / var_mean_b",
    "var_intra_prob_b": "highest var_prob_b of the source's observations",
    "var_intra_index_b": "highest var_index_b of the source's observations",
    "ks_intra_prob_b": "highest ks_prob_b of the source's observations",
    "kp_intra_prob_b": "highest kp_prob_b of the source's observations",
    "var_inter_prob_b": "probability of variability between observations",
    "var_inter_index_b": "index of variability between observations, 0 to 8",
    "inter_sigma_over_flux": "spread of the flux between observations over its mean",
}
"""Variability columns of the CSC, and two ratios of them, with their meaning."""

FEWEST_SOURCES = 200
"""Fewest sources for an estimate: with fewer, its bias in eight columns exceeds what is sought."""

MOST_SOURCES = 4000
PERMUTATIONS = 40
SUBSAMPLES = 12
RIVALS = ("hardness", "fits")
"""Kinds of representations that the latents are compared with."""


def measure_time_domain(material: Material) -> dict[str, Any]:
    """Measure mutual information, in nats, of representations and variability.

    One detection per source is used, drawn at random. Each of `quantities` has `free` and
    `given_flux_and_counts` by representation, with the fields of `mutual_information.Information`.
    In `free`, `flux_and_counts` is the information that these two alone share with variability;
    `by_latent` has the information of each latent by itself.
    """
    known = variability_of(material.real if material.real is not None else material.frame)
    if not known:
        return unmeasured("no variability columns: give a table of real detections by --catalog")
    brightness = flux_and_counts(material)
    if brightness is None:
        return unmeasured("no flux to compare with: neither the table nor the catalog has one")
    features = {"latents": material.latents} | {
        each.kind: each.features for each in material.representations if each.kind in RIVALS
    }
    seed = material.settings.seed
    picked = one_per_source(material.sources, np.random.default_rng(seed))
    quantities: dict[str, Any] = {}
    for name, values in known.items():
        complete = np.isfinite(values) & np.isfinite(brightness).all(axis=1)
        rows = picked[complete[picked]][:MOST_SOURCES]
        section: dict[str, Any] = {"meaning": VARIABILITY[name], "n_sources": len(rows)}
        if len(rows) < FEWEST_SOURCES:
            section |= unmeasured(f"only {len(rows)} sources have a value")
        elif np.ptp(values[rows]) == 0:
            section |= unmeasured("all sources have the same value")
        else:
            parts = {kind: each[rows] for kind, each in features.items()}
            section |= _of_one(values[rows], parts, brightness[rows], seed)
        quantities[name] = section
    return {"reason": None, "unit": "nat", "quantities": quantities}


def variability_of(table: pd.DataFrame) -> dict[str, FloatArray]:
    """Return those variability columns that a table has, (n,) each."""
    found = {name: values for name in VARIABILITY if (values := numbers(table, name)) is not None}
    ratios = {
        "sigma_over_mean": ("var_sigma_b", "var_mean_b"),
        "inter_sigma_over_flux": ("var_inter_sigma_b", "flux_aper90_b"),
    }
    for name, (above, below) in ratios.items():
        spread, mean = numbers(table, above), numbers(table, below)
        if spread is not None and mean is not None:
            found[name] = logarithm(spread) - logarithm(mean)
    return found


def flux_and_counts(material: Material) -> FloatArray | None:
    """Return log flux and log counts, (n, 2), of the real detections, or else of the catalog."""
    for table, names in (
        (material.real, ("obs_flux_aper90_b", "src_cnts_aper90_b")),
        (material.frame, ("flux_b", "total_counts")),
    ):
        columns = [numbers(table, name) for name in names]
        if all(each is not None for each in columns):
            return np.column_stack([logarithm(each) for each in columns if each is not None])
    return None


def _of_one(
    values: FloatArray, features: Mapping[str, FloatArray], brightness: FloatArray, seed: int
) -> dict[str, Any]:
    y = normal_scores(values[:, None])
    light = normal_scores(brightness)

    def found(x: FloatArray, condition: FloatArray | None = None) -> dict[str, float]:
        return measure(
            x, y, condition, permutations=PERMUTATIONS, subsamples=SUBSAMPLES, seed=seed
        ).as_json()

    free = {"flux_and_counts": found(light)}
    given = {}
    for name, each in features.items():
        # Latents keep their proportions; ratios and fits, whose units differ, become ranks.
        x = on_one_scale(each) if name == "latents" else normal_scores(each)
        free[name] = found(x)
        given[name] = found(x, light)
    single = normal_scores(features["latents"])
    by_latent = [found(column[:, None]) for column in single.T]
    return {
        "reason": None,
        "free": free,
        "given_flux_and_counts": given,
        "by_latent": by_latent,
    }
