"""Ask whether a survey drawn from a real table resembles the real detections."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from raypipe.evaluation.questions.material import Material, logarithm, numbers, unmeasured
from raypipe.evaluation.validation import FloatArray, ordered_classes

COLUMNS = {
    "flux_s": "obs_flux_aper90_s",
    "flux_m": "obs_flux_aper90_m",
    "flux_h": "obs_flux_aper90_h",
    "flux_b": "obs_flux_aper90_b",
    "net_counts_b": "src_cnts_aper90_b",
}
"""Columns of the catalog (erg/cm2/s, counts), and those of the real table that say the same."""

RATIOS = {"hard_ms": ("flux_m", "flux_s"), "hard_hm": ("flux_h", "flux_m")}
"""Hardness ratios of fluxes (x - y) / (x + y)."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
FEWEST_ROWS = 20
UNLABELED = "without a class"


def measure_sky(material: Material) -> dict[str, Any]:
    """Compare fluxes, counts and hardness of the catalog with those of the real detections.

    Real detections count as often as they were drawn, so that both sides have the same sources.
    Each class and quantity has the number of detections, quantiles of both sides (`catalog` and
    `real`; fluxes and counts as log10), the Kolmogorov-Smirnov distance `ks` (0: alike, 1: apart),
    and median and 68% half width of catalog - real, detection by detection. `ks_noise` is the
    distance that 95% of samples of one distribution do not exceed.
    """
    if material.real is None:
        return unmeasured("no table of real detections: give it by --catalog")
    pairs = _pairs(material)
    if not pairs:
        return unmeasured("the table of real detections and the catalog have no flux in common")
    groups = {
        "all": np.ones(len(material.frame), dtype=bool),
        **{name: material.classes == name for name in ordered_classes(material.classes)},
        UNLABELED: np.array([not isinstance(each, str) for each in material.classes]),
    }
    by_class: dict[str, Any] = {}
    for group, rows in groups.items():
        section = {}
        for name, (ours, real) in pairs.items():
            both = rows & np.isfinite(ours) & np.isfinite(real)
            if both.sum() >= FEWEST_ROWS:
                section[name] = compare_samples(ours[both], real[both])
        if section:
            by_class[group] = section
    return {"reason": None, "by_class": by_class}


def compare_samples(ours: FloatArray, real: FloatArray) -> dict[str, Any]:
    """Compare two samples of the same detections, (n,) each; keys as in `measure_sky`."""
    low, middle, high = np.quantile(ours - real, [0.16, 0.5, 0.84])
    return {
        "n": len(ours),
        "ks": float(ks_2samp(ours, real, method="asymp").statistic),
        "ks_noise": float(1.36 * np.sqrt(2 / len(ours))),
        "catalog": np.quantile(ours, QUANTILES).tolist(),
        "real": np.quantile(real, QUANTILES).tolist(),
        "difference": float(middle),
        "difference_width": float((high - low) / 2),
    }


def _pairs(material: Material) -> dict[str, tuple[FloatArray, FloatArray]]:
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    frame = material.frame
    if {"counts_b", "background_counts_b", "background_scale"} <= set(frame):
        net = frame["counts_b"] - frame["background_counts_b"] * frame["background_scale"]
        frame = frame.assign(net_counts_b=net)
    for ours, theirs in COLUMNS.items():
        own, real = numbers(frame, ours), numbers(material.real, theirs)
        if own is not None and real is not None:
            found[ours] = (logarithm(own), logarithm(real))
    for name, bands in RATIOS.items():
        if all(band in found for band in bands):
            harder, softer = (found[band] for band in bands)
            found[name] = tuple(  # type: ignore[assignment]
                _ratio(hard, soft) for hard, soft in zip(harder, softer, strict=True)
            )
    return found


def _ratio(log_harder: FloatArray, log_softer: FloatArray) -> FloatArray:
    # (x - y) / (x + y) of logarithms: tanh of half the difference in e-folds.
    return np.asarray(np.tanh((log_harder - log_softer) * np.log(10) / 2))
