"""Measure a classification on labeled rows on which it was not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from raypipe.classifying.calibration import BOOTSTRAP_DRAWS, calibration_errors, reliability
from raypipe.classifying.classifier import Judgement, Raw, ask
from raypipe.classifying.conformal import nonconformity
from raypipe.classifying.features import Features
from raypipe.classifying.forest import source_weights
from raypipe.classifying.likeness import Strangeness
from raypipe.classifying.training import grow_folds

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEFT_OUT_TREES = 20
"""Trees per fold of the forests that have not seen a class."""


@dataclass(frozen=True)
class Judged:
    """Hold answers on labeled rows, each from forests and calibrations without its source.

    `probabilities` (n, classes) hold for the labeled population, `equal` (n, classes) for one in
    which all classes are equally frequent. `p_values` (n, classes) are conformal, and `unlike_p`
    (n,) are the p-values of strangeness. `codes` and `sources` (n,) are the true classes and the
    keys of the sources.
    """

    probabilities: FloatArray
    equal: FloatArray
    p_values: FloatArray
    unlike_p: FloatArray
    codes: IntArray
    sources: IntArray


def judged_by_others(raw: Raw, codes: IntArray, sources: IntArray, fold: IntArray) -> Judged:
    """Calibrate the rows of each fold (n,) on the rows of the other folds."""
    n, classes = raw.votes.shape
    blank = np.full((n, classes), np.nan)
    answer = Judged(blank.copy(), blank.copy(), blank.copy(), np.full(n, np.nan), codes, sources)
    weights = source_weights(sources)
    for number in np.unique(fold):
        others, here = fold != number, fold == number
        judgement = Judgement.fit(
            raw.votes[others], raw.strange[others], codes[others], weights[others]
        )
        part = judged_directly(judgement, raw, codes, sources)
        answer.probabilities[here] = part.probabilities[here]
        answer.equal[here] = part.equal[here]
        answer.p_values[here] = part.p_values[here]
        answer.unlike_p[here] = part.unlike_p[here]
    return answer


def judged_directly(judgement: Judgement, raw: Raw, codes: IntArray, sources: IntArray) -> Judged:
    """Judge rows by calibrations that are made without them."""
    probabilities = judgement.calibration.apply(raw.votes)
    classes = probabilities.shape[1]
    return Judged(
        probabilities,
        judgement.calibration.for_shares(probabilities, np.full(classes, 1 / classes)),
        judgement.conformal.p_values(nonconformity(probabilities)),
        judgement.strange.p_values(raw.strange),
        codes,
        sources,
    )


def measure(
    judged: Judged, classes: Sequence[str], *, coverage: float, unlike_p: float, seed: int
) -> dict[str, Any]:
    """Measure recalls, calibration, sets and false alarms; all sources of a class weigh the same.

    `balanced_accuracy` is the mean recall of the decision for the most probable class if all were
    equally frequent, `balanced_accuracy_labeled` that of the decision for the most probable class
    in the labeled population. Errors are standard deviations over resampled sources. The figures
    of a class are None if none of its rows is judged.
    """
    weights = source_weights(judged.sources)
    k = len(classes)
    decided = judged.equal.argmax(axis=1)
    by_chance = judged.probabilities.argmax(axis=1)
    in_set = judged.p_values > 1 - coverage
    of_true = in_set[np.arange(len(judged.codes)), judged.codes]
    hits = np.stack([decided == judged.codes, by_chance == judged.codes, of_true], axis=1)
    value, spread, whole, whole_spread = _recalls(hits, judged, weights, k, seed)
    confusion = np.zeros((k, k))
    np.add.at(confusion, (judged.codes, decided), weights)
    true_p = judged.probabilities[np.arange(len(judged.codes)), judged.codes]
    per_class = {}
    for code, name in enumerate(classes):
        rows = judged.codes == code
        per_class[name] = {
            "sources": len(np.unique(judged.sources[rows])),
            "rows": int(rows.sum()),
            "recall": _known(value[code, 0]),
            "recall_error": _known(spread[code, 0]),
            "recall_labeled": _known(value[code, 1]),
            "coverage": _known(value[code, 2]),
            "coverage_error": _known(spread[code, 2]),
        }
    strange = judged.unlike_p <= unlike_p
    return {
        "rows": len(judged.codes),
        "sources": len(np.unique(judged.sources)),
        "balanced_accuracy": whole[0],
        "balanced_accuracy_error": whole_spread[0],
        "balanced_accuracy_labeled": whole[1],
        "balanced_accuracy_labeled_error": whole_spread[1],
        "accuracy": float(np.average(hits[:, 0], weights=weights)),
        "accuracy_labeled": float(np.average(hits[:, 1], weights=weights)),
        "log_loss": float(-np.average(np.log(np.maximum(true_p, 1e-6)), weights=weights)),
        **calibration_errors(judged.probabilities, judged.codes, judged.sources, seed),
        "reliability": reliability(judged.probabilities, judged.codes, judged.sources),
        "coverage_wanted": coverage,
        "coverage": float(np.average(of_true, weights=weights)),
        "mean_set_size": float(np.average(in_set.sum(axis=1), weights=weights)),
        "single_sets": float(np.average(in_set.sum(axis=1) == 1, weights=weights)),
        "called_unlike": float(np.average(strange, weights=weights)),
        "classes": per_class,
        "confusion": {"classes": list(classes), "sources": confusion.tolist()},
    }


def score_votes(
    votes: FloatArray, codes: IntArray, sources: IntArray, seed: int
) -> dict[str, float]:
    """Return the balanced accuracy of the largest of votes (n, classes), with its error."""
    hits = (votes.argmax(axis=1) == codes)[:, None]
    judged = Judged(votes, votes, votes, votes[:, 0], codes, sources)
    _, _, whole, spread = _recalls(hits, judged, source_weights(sources), votes.shape[1], seed)
    return {"balanced_accuracy": whole[0], "balanced_accuracy_error": spread[0]}


def measure_left_out(
    features: Features,
    z: FloatArray,
    codes: IntArray,
    sources: IntArray,
    fold: IntArray,
    classes: Sequence[str],
    *,
    unlike_p: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Measure, class by class, how its rows stand out from a classifier that has not seen it.

    For each class, forests of LEFT_OUT_TREES trees per fold (n,) and densities are made from the
    other classes. `found` is the share of the left-out sources that are called unlike the others,
    and `found_at_5_percent` is this share if 5% of the labeled sources are called unlike as well.
    `auc` is the probability that a left-out source is stranger than a source of another class (0.5:
    it does not stand out).
    """
    answer = {}
    weights = source_weights(sources)
    for code, name in enumerate(classes if len(classes) > 2 else ()):
        left_out = codes == code
        kept = np.where(left_out, -1, fold)
        others = np.where(left_out, 0, codes - (codes > code))
        experts = grow_folds(features, z, others, sources, kept, trees=LEFT_OUT_TREES, seed=seed)
        scores = ask(*experts, features, z, kept).strange
        p = Strangeness.fit(scores[~left_out], weights[~left_out]).p_values(scores)
        answer[name] = {
            "auc": float(roc_auc_score(left_out, scores, sample_weight=weights)),
            "found": float(np.average(p[left_out] <= unlike_p, weights=weights[left_out])),
            "found_at_5_percent": float(np.average(p[left_out] <= 0.05, weights=weights[left_out])),
        }
    return answer


def _recalls(
    hits: npt.NDArray[np.bool_], judged: Judged, weights: FloatArray, classes: int, seed: int
) -> tuple[FloatArray, FloatArray, list[float], list[float]]:
    """Average columns of `hits` (n, m) per class, and over classes, with errors over sources."""
    _, inverse = np.unique(judged.sources, return_inverse=True)
    n_sources = int(inverse.max()) + 1
    cells = inverse * classes + judged.codes
    size = (n_sources, classes)
    total = np.bincount(cells, weights, minlength=n_sources * classes).reshape(size)
    good = np.stack(
        [
            np.bincount(cells, weights * column, minlength=n_sources * classes).reshape(size)
            for column in hits.T
        ]
    )
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_sources, np.full(n_sources, 1 / n_sources), BOOTSTRAP_DRAWS)
    with np.errstate(invalid="ignore"):
        value = (good.sum(axis=1) / total.sum(axis=0)).T
        drawn = np.einsum("ds,msk->dmk", draws, good) / (draws @ total)[:, None]
        spread = np.nanstd(drawn, axis=0, ddof=1).T
        whole = np.nanmean(value, axis=0)
        whole_spread = np.nanstd(np.nanmean(drawn, axis=2), axis=0, ddof=1)
    return value, spread, whole.tolist(), whole_spread.tolist()


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
