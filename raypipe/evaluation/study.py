"""Ask the questions of the study about a catalog, and keep the answers that still hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raypipe.evaluation.questions.clusters import measure_clusters
from raypipe.evaluation.questions.few_labels import measure_few_labels
from raypipe.evaluation.questions.formulas import measure_formulas
from raypipe.evaluation.questions.material import Material
from raypipe.evaluation.questions.quantities import measure_quantities
from raypipe.evaluation.questions.robustness import measure_robustness
from raypipe.evaluation.questions.sky import measure_sky
from raypipe.evaluation.questions.time_domain import measure_time_domain
from raypipe.evaluation.questions.traversals import measure_traversals

log = logging.getLogger(__name__)

QUESTIONS: Mapping[str, Callable[[Material], dict[str, Any]]] = {
    "sky": measure_sky,
    "clusters": measure_clusters,
    "quantities": measure_quantities,
    "time_domain": measure_time_domain,
    "robustness": measure_robustness,
    "few_labels": measure_few_labels,
    "formulas": measure_formulas,
    "traversals": measure_traversals,
}
"""Each question by its name in the setting `evaluate.questions`, in the order of the report."""


def ask(material: Material, questions: Sequence[str]) -> dict[str, Any]:
    """Measure the answers to questions, by name; `seconds` says how long each took."""
    answers = {}
    for name, measure in QUESTIONS.items():
        if name in questions:
            log.info("evaluate: question %s", name)
            start = time.monotonic()
            answer = measure(material)
            answers[name] = answer | {"seconds": round(time.monotonic() - start, 1)}
    return answers


def still_valid(earlier: Mapping[str, Any] | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return earlier answers about the same state of the same catalog, else nothing.

    An evaluation without questions does not throw away the answers of a longer one.
    """
    if earlier is None or "study" not in earlier:
        return {}
    same = all(
        earlier.get("data", {}).get(key) == metrics["data"][key]
        for key in ("fingerprint", "catalog_fingerprint", "labels")
    )
    return dict(earlier["study"]) if same else {}
