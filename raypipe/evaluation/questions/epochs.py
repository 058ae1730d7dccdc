"""Ask whether a search finds the other detections of a source."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.evaluation.questions.material import Material, unmeasured
from raypipe.evaluation.validation import FloatArray, bootstrap_sums
from raypipe.model.covariance import solve

DEPTHS = (1, 10)
MOST_QUERIES = 300
FEWEST_QUERIES = 20


def measure_recall(material: Material) -> dict[str, Any]:
    """Measure how often a search with one detection finds another of the same source.

    The queries are at most `MOST_QUERIES` detections, drawn at random, one per source that has
    several. `recall_1` and `recall_10` are the shares of queries for which the first answer, or one
    of the first ten, belongs to the same source, with binomial errors over sources; `chance_...` is
    the same for a random order. Answers are ranked as `raypipe search` ranks them.
    """
    if material.covariances is None:
        return unmeasured("the latents have no errors")
    usable = np.isfinite(material.covariances).all(axis=(1, 2))
    names, members = np.unique(material.sources.astype(str), return_inverse=True)
    often = np.bincount(members[usable], minlength=len(names))
    queries = np.flatnonzero(usable & (often[members] > 1))
    rng = np.random.default_rng(material.settings.seed)
    queries = rng.permutation(queries)
    queries = queries[np.unique(members[queries], return_index=True)[1]]
    queries = np.sort(rng.permutation(queries)[:MOST_QUERIES])
    if len(queries) < FEWEST_QUERIES:
        return unmeasured(f"only {len(queries)} sources have several detections")
    known = np.flatnonzero(usable)
    hits = {depth: np.zeros(len(queries)) for depth in DEPTHS}
    chances = {depth: np.zeros(len(queries)) for depth in DEPTHS}
    for i, query in enumerate(queries):
        others = known[known != query]
        overlap = log_overlaps(
            material.latents[query],
            material.covariances[query],
            material.latents[others],
            material.covariances[others],
        )
        own = members[others[np.argsort(-overlap)[: max(DEPTHS)]]] == members[query]
        share = (often[members[query]] - 1) / len(others)
        for depth in DEPTHS:
            hits[depth][i] = own[:depth].any()
            chances[depth][i] = 1 - (1 - share) ** depth
    answer: dict[str, Any] = {"reason": None, "n_queries": len(queries), "n_rows": len(known)}
    for depth in DEPTHS:
        sums = bootstrap_sums(hits[depth][:, None], queries.astype(object), material.settings.seed)
        answer[f"recall_{depth}"] = float(hits[depth].mean())
        answer[f"recall_{depth}_error"] = float(sums.std(ddof=1) / len(queries))
        answer[f"chance_{depth}"] = float(chances[depth].mean())
    return answer


def log_overlaps(
    z: FloatArray, covariance: FloatArray, others: FloatArray, covariances: FloatArray
) -> npt.NDArray[np.float64]:
    """Return the log density that the latents of one row equal those of others, (n,).

    It is the normal density of covariance C_1 + C_2 at the difference, by which
    `raypipe.searching.neighbors` ranks; constants are left out.
    """
    both = covariances + covariance
    difference = others - z
    distance = (difference * solve(both, difference)).sum(axis=1)
    return np.asarray(-0.5 * (np.linalg.slogdet(both)[1] + distance))
