"""Ask the questions of the study about a catalog, and keep the answers that still hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raypipe.errors import RaypipeError
from raypipe.evaluation.questions.clusters import measure_clusters
from raypipe.evaluation.questions.few_labels import measure_few_labels
from raypipe.evaluation.questions.formulas import measure_formulas
from raypipe.evaluation.questions.material import Material, unmeasured
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


def ask(
    material: Material,
    questions: Sequence[str],
    earlier: Mapping[str, Any],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Answer questions one after the other, and call `keep` with all answers after each.

    Answers are by name, `earlier` ones among them. Those that were given on the same material
    (`asked_of`) are not measured again, so that an interrupted evaluation continues with the
    question that it was at. `seconds` says how long an answer took. A question that raises an error
    has it as its `reason`, and `failed` set; the others are asked, and that one again by the next
    evaluation.
    """
    answers = dict(earlier)
    for name, measure in QUESTIONS.items():
        if name not in questions:
            continue
        known = answers.get(name, {})
        if known.get("asked_of") == material.fingerprint and not known.get("failed"):
            log.info("evaluate: question %s was answered by an earlier evaluation", name)
            continue
        log.info("evaluate: question %s", name)
        start = time.monotonic()
        answer = _answer(name, measure, material)
        seconds = round(time.monotonic() - start, 1)
        answers[name] = answer | {"seconds": seconds, "asked_of": material.fingerprint}
        keep({each: answers[each] for each in QUESTIONS if each in answers})


def _answer(
    name: str, measure: Callable[[Material], dict[str, Any]], material: Material
) -> dict[str, Any]:
    try:
        return measure(material)
    except Exception as error:
        # Others may still be answered, and take minutes that must not be lost.
        reason = (
            str(error) if isinstance(error, RaypipeError) else f"{type(error).__name__}: {error}"
        )
        log.warning("evaluate: question %s failed, the others are asked: %s", name, reason)
        log.debug("evaluate: question %s", name, exc_info=True)
        return unmeasured(f"failed with {reason}") | {"failed": True}


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
