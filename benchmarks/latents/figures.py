"""From scores to figures: which are shown, and what is aimed at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.latents.networks import QUANTITIES
from benchmarks.latents.table import Figure

Scores = dict[str, dict[str, Any]]
"""Of a part: scores by rival."""

CEILING = "supervised on full spectra"
TRUTH = "truth"
LIMIT = "limit of the photons"

EXCESS = 0.004
SHARE_OF_ACCURACY = 0.98
SHARE_OF_R2 = 0.97


def fit_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Of part `cash`."""
    rivals = {name: each for name, each in scores.items() if name != TRUTH}
    truth = scores[TRUTH]
    yield Figure(survey, "Cash per bin", TRUTH, **truth["cash"])
    for name, each in rivals.items():
        yield Figure(survey, "Cash per bin", name, **each["cash"])
    same, new = "Cash per bin above the truth's", "the same on new counts of the same source"
    for name, each in rivals.items():
        yield Figure(survey, same, name, **each["excess"], most=_aim(name, EXCESS))
    yield Figure(survey, new, LIMIT, **truth["excess_on_new"])
    for name, each in rivals.items():
        yield Figure(survey, new, name, **each["excess_on_new"], most=_aim(name, EXCESS))
    for name, each in rivals.items():
        title = f"the same above the {LIMIT}"
        yield Figure(survey, title, name, **each["above_least"], most=_aim(name, EXCESS))


def information_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Of part `information`: what was read, then as shares of the ceiling's."""
    ceiling = scores.get(CEILING)
    rivals = {name: each for name, each in scores.items() if name != CEILING}
    accuracy = "balanced accuracy"
    if ceiling:
        yield Figure(survey, accuracy, CEILING, **ceiling["supervised"])
    readers = {"knn": "kNN", "boosting": "boosting", "boosting_with_errors": "boosting + errors"}
    for name, each in rivals.items():
        for key, label in readers.items():
            if key in each:
                yield Figure(survey, accuracy, f"{name}, {label}", **each[key])
    if ceiling:
        for name, each in rivals.items():
            best = _best(each["knn"], each["boosting"])
            yield _share(
                survey,
                f"{accuracy}, the better of kNN and boosting as share of the ceiling's",
                name,
                best,
                ceiling["supervised"],
                SHARE_OF_ACCURACY,
            )
    for quantity in QUANTITIES:
        if ceiling:
            top = ceiling["r2"][quantity]["supervised"]
            yield Figure(survey, f"R2 of {quantity}", CEILING, **top)
        for name, each in rivals.items():
            best = _best(*each["r2"][quantity].values())
            yield Figure(survey, f"R2 of {quantity}", name, **best)
        if ceiling:
            for name, each in rivals.items():
                best = _best(*each["r2"][quantity].values())
                title = f"R2 of {quantity} as share of the ceiling's"
                yield _share(survey, title, name, best, top, SHARE_OF_R2)


def _aim(who: str, target: float) -> float | None:
    """The target, for those it is set for."""
    return target if who.startswith("folded") else None


def _best(*scores: dict[str, Any]) -> dict[str, Any]:
    return max(scores, key=lambda each: each["value"] if each["value"] is not None else -1.0)


def _share(
    survey: str,
    title: str,
    who: str,
    scores: dict[str, Any],
    ceiling: dict[str, Any],
    target: float,
) -> Figure:
    def over(value: float | None, top: float | None) -> float | None:
        return None if value is None or not top or top <= 0 else value / top

    pairs = zip(scores["by_counts"], ceiling["by_counts"], strict=True)
    return Figure(
        survey,
        title,
        who,
        over(scores["value"], ceiling["value"]),
        over(scores["error"], ceiling["value"]),
        [over(value, top) for value, top in pairs],
        least=_aim(who, target),
    )
