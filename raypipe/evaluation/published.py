"""Set what the published study states beside what an evaluation measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raypipe.evaluation.clustering import (
    PUBLISHED_AGN_COMPACT,
    PUBLISHED_EIGHT_CLASSES,
)

NO_FIGURE = "no figure in its abstract"

NOT_ASKED = "not measured: the question was not asked, or could not be answered"

SIGNIFICANT = 0.05
"""Largest chance at which a mutual information counts as found, of as many as were tried."""

MOST_NAMED = 3


@dataclass(frozen=True)
class Beside:
    """Hold a question of the published study: its statement, our answer, and what differs.

    `value` and `error` are our figure if it is one number; `ours` says it in words.
    """

    question: str
    published: str
    ours: str
    differs: str
    value: float | None = None
    error: float | None = None


def beside_published(metrics: Mapping[str, Any]) -> list[Beside]:
    """Return a row per question of the published study, from what `metrics` has."""
    study = metrics.get("study") or {}
    return [
        _clusters(
            metrics, study, "all_classes", "Clusters, eight classes", PUBLISHED_EIGHT_CLASSES
        ),
        _clusters(
            metrics, study, "agn_compact", "Clusters, AGN and compact", PUBLISHED_AGN_COMPACT
        ),
        _reconstruction(metrics),
        *_regression(metrics),
        _time_domain(study),
        _formulas(study),
    ]


def sample_of(metrics: Mapping[str, Any]) -> str:
    """Describe the judged detections in a sentence."""
    data = metrics["data"]
    classes = ", ".join(f"{name} {count}" for name, count in data["classes"].items())
    return (
        f"{data['n_rows']:,} detections of {data['n_sources']:,} sources of release "
        f"{metrics['release']} ({data['rows']}), model {metrics['model_id']}, labels: "
        f"{data['labels'] or 'none'}; classes: {classes or 'none'}"
    )


def _clusters(
    metrics: Mapping[str, Any], study: Mapping[str, Any], task: str, question: str, published: float
) -> Beside:
    found = metrics["clustering"][task]
    protocol = "clusters mapped and judged in turn on five parts of the sources"
    halves = (study.get("clusters") or {}).get("by_representation")
    if halves:
        found = next(iter(halves.values()))[task]
        protocol = "clusters mapped on half of the sources, judged on the others"
    ours, value, error = f"not measured: {found['reason']}", None, None
    if found["reason"] is None:
        value, error = found["balanced_accuracy"], found["balanced_accuracy_error"]
        ours = f"balanced accuracy {value:.3f} ± {error:.3f} ({found['components']} components)"
    return Beside(
        question,
        f"balanced accuracy about {published:.0%}",
        ours,
        f"{protocol}; the study's threshold of significance, number of sources per class and "
        "mapping of clusters are not in its abstract",
        value,
        error,
    )


def _reconstruction(metrics: Mapping[str, Any]) -> Beside:
    found = metrics["reconstruction"]
    zscore = found["fit_zscore"]
    parts = []
    if found["excess_cash_per_bin"] is not None:
        parts.append(f"Cash per bin {found['excess_cash_per_bin']:+.4f} beside the truth's")
    if zscore["mean"] is not None:
        parts.append(f"z-scores of the fit {zscore['mean']:+.2f} in the mean")
    return Beside(
        "Reconstruction with 8 latents",
        f"accurate ({NO_FIGURE})",
        "; ".join(parts) or "not measured",
        "likelihood of the counts; the study minimizes the error of scaled rates",
    )


def _regression(metrics: Mapping[str, Any]) -> list[Beside]:
    rows = []
    for name, label in (
        ("log_nh", "log N_H"),
        ("hard_hs", "hardness h/s"),
        ("hard_hm", "hardness h/m"),
        ("hard_ms", "hardness m/s"),
    ):
        found = metrics["regression"].get(name)
        if found is None or found["boosting"]["r2"] is None:
            continue
        best = found["boosting"]
        rows.append(
            Beside(
                f"Regression of {label}",
                f"correlated ({NO_FIGURE})",
                f"R² {best['r2']:.3f} ± {best['r2_error']:.3f}",
                f"boosting on other sources; {found['target']}",
                best["r2"],
                best["r2_error"],
            )
        )
    return rows


def _time_domain(study: Mapping[str, Any]) -> Beside:
    found = (study.get("time_domain") or {}).get("quantities") or {}
    measured = {name: each for name, each in found.items() if each["reason"] is None}
    ours = NOT_ASKED
    if measured:
        free = [each["free"]["latents"] for each in measured.values()]
        given = [each["given_flux_and_counts"]["latents"] for each in measured.values()]
        ours = (
            f"of {len(measured)} columns, {_significant(free)} share information with the latents, "
            f"{_significant(given)} beyond what flux and counts say; at most "
            f"{max(each['excess'] for each in free):.2f} nat, beyond them "
            f"{max(each['excess'] for each in given):.2f}"
        )
    return Beside(
        "Mutual information with variability",
        f"shared ({NO_FIGURE})",
        ours,
        "neighbors' estimate less that of permuted sources, one detection per source; flux and "
        "counts as the condition",
    )


def _significant(found: list[Mapping[str, Any]]) -> int:
    return sum(each["p_value"] <= SIGNIFICANT for each in found)


def _formulas(study: Mapping[str, Any]) -> Beside:
    found = (study.get("formulas") or {}).get("by_direction") or {}
    known = {name: each for name, each in found.items() if each["reason"] is None}
    ours = NOT_ASKED
    if known:
        best = sorted(known.items(), key=lambda pair: -pair[1]["r2"])[:MOST_NAMED]
        listed = ", ".join(f"{name} R² {each['r2']:.2f}" for name, each in best)
        stable = sum(each["stability"]["is_stable"] for each in known.values())
        ours = f"best: {listed}; {stable} of {len(known)} the same for all seeds"
    return Beside(
        "Formulas of band fluxes",
        f"non-linear combinations of fluxes ({NO_FIGURE})",
        ours,
        "formulas searched, chosen and judged on different sources",
    )
