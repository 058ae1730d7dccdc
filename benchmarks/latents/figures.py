"""Select the figures to print from the scores, and set their targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.latents.clusters import MEANS, choose_components
from benchmarks.latents.errors import LEVELS
from benchmarks.latents.networks import QUANTITIES
from benchmarks.latents.surveys import DECADES
from benchmarks.latents.table import Figure

Scores = dict[str, dict[str, Any]]
"""Scores of a part, by rival."""

CEILING = "supervised on full spectra"
TRUTH = "truth"
LIMIT = "limit of the photons"
MEASURED = "true source, measured background"

EXCESS = 0.004
SHARE_OF_ACCURACY = 0.98
SHARE_OF_R2 = 0.97
APART = 1.15
GUESSED = 1.3
PULLS = (0.8, 1.25)
ZSCORE = (0.9, 1.1)
DEFAULT_COMPONENTS = 16
"""Number of mixture components that `evaluate` uses by default."""


def fit_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Figures of part `cash`."""
    rivals = {name: each for name, each in scores.items() if name != TRUTH}
    truth = scores[TRUTH]
    yield Figure(survey, "Cash per bin", TRUTH, **truth["cash"])
    for name, each in rivals.items():
        yield Figure(survey, "Cash per bin", name, **each["cash"])
    same, new = "Cash per bin above the truth's", "the same on new counts of the same source"
    yield Figure(survey, same, MEASURED, **truth["measured_background"])
    for name, each in rivals.items():
        yield Figure(survey, same, name, **each["excess"], most=_aim(name, EXCESS))
    yield Figure(survey, new, LIMIT, **truth["excess_on_new"])
    yield Figure(survey, new, MEASURED, **truth["measured_background_on_new"])
    for name, each in rivals.items():
        yield Figure(survey, new, name, **each["excess_on_new"], most=_aim(name, EXCESS))
    for name, each in rivals.items():
        title = f"the same above the {LIMIT}"
        yield Figure(survey, title, name, **each["above_least"], most=_aim(name, EXCESS))


def information_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Figures of part `information`: scores, and their shares of the ceiling's."""
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


def cluster_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Figures of part `clusters`, for mixtures and for k-means.

    The mixtures have a common number of components, each rival's best number, or the default
    number.
    """
    sized = [each for name, each in scores.items() if not name.startswith("hardness")]
    chosen = choose_components(sized)
    own = {name: choose_components([each]) for name, each in scores.items()}
    for name, each in scores.items():
        title = f"clusters: balanced accuracy, mixture of {chosen} (BIC of all together)"
        yield Figure(survey, title, name, **_shown(each["mixture"][str(chosen)]["score"]))
    yield from _leads(survey, scores, chosen)
    for name, each in scores.items():
        best = _shown(each["mixture"][str(own[name])]["score"])
        yield Figure(survey, "the same, each with its own BIC's", f"{name} ({own[name]})", **best)
    for name, each in scores.items():
        score = each["mixture"][str(DEFAULT_COMPONENTS)]["score"]
        yield Figure(survey, f"the same, mixture of {DEFAULT_COMPONENTS}", name, **_shown(score))
    for name, each in scores.items():
        yield Figure(survey, f"the same, k-means of {MEANS}", name, **_shown(each["means"]))


def instrument_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Figures of part `instrument`."""
    title = "distance through two responses over that through one"
    for name, each in scores.items():
        yield Figure(survey, title, name, **each["distance"], most=_aim(name, APART))
    for key, reader in (("guess_knn", "kNN"), ("guess_boosting", "boosting")):
        title = f"response guessed by {reader}, over chance"
        for name, each in scores.items():
            yield Figure(survey, title, name, **each[key], most=_aim(name, GUESSED))


def pull_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Figures of part `errors`: narrowest and widest pulls of 50 counts and more, and by level."""
    levels = ", ".join(f"{level:.0f}" for level in LEVELS)
    judged = np.array(LEVELS) >= DECADES[1]
    references = {
        "mean": "the mean of the repeats",
        "noiseless": "the noise-free expectation's latents",
        "source": "the source's own latents",
    }
    for key, reference in references.items():
        title = f"pulls about {reference}, at {levels} counts"
        for name, each in scores.items():
            widths = np.array(each["pulls"][key])
            for word, pick in (("narrowest", np.min), ("median", np.median), ("widest", np.max)):
                by_level = pick(widths, axis=1)
                yield Figure(
                    survey,
                    title,
                    f"{name}, {word} latent",
                    float(pick(by_level[judged])),
                    None,
                    by_level.tolist(),
                    least=PULLS[0] if word == "narrowest" else None,
                    most=PULLS[1] if word == "widest" else None,
                )


def zscore_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Figures of part `errors`: `fit_zscore` of spectra drawn from the model."""
    for name, each in scores.items():
        title = "fit_zscore of spectra drawn from the model: width"
        low, high = ZSCORE
        yield Figure(survey, title, name, **each["zscore"]["width"], least=low, most=high)
    for name, each in scores.items():
        title = "fit_zscore of spectra drawn from the model: mean"
        yield Figure(survey, title, name, **each["zscore"]["mean"])


def speed_figures(survey: str, scores: Scores) -> Iterator[Figure]:
    """Figures of part `speed`."""
    ways = {"latents": "latents alone", "catalog": "with errors and goodness of fit"}
    for key, way in ways.items():
        for name, each in scores.items():
            yield Figure(survey, f"spectra a second and thread, {way}", name, each[key])


def _leads(survey: str, scores: Scores, components: int) -> Iterator[Figure]:
    """Lead of each folded rival over each baseline, with the error of the difference.

    The target is a lead over all baselines on the population, and on real sources a lead over
    networks and principal components that exceeds its error.
    """
    found = {name: each["mixture"][str(components)]["score"] for name, each in scores.items()}
    for name in filter(_folded, found):
        for baseline in (each for each in found if not _folded(each)):
            own, other = found[name], found[baseline]
            error = float(np.std(np.subtract(own["draws"], other["draws"]), ddof=1))
            wanted = 0.0 if survey == "population" else error
            aimed = survey == "population" or not baseline.startswith("hardness")
            yield Figure(
                survey,
                f"the same, {name}, ahead of",
                baseline,
                own["value"] - other["value"],
                error,
                least=wanted if aimed else None,
            )


def _shown(score: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in score.items() if name != "draws"}


def _folded(who: str) -> bool:
    return who.startswith("folded")


def _aim(who: str, target: float) -> float | None:
    """Return the target of a figure, if it has one."""
    return target if _folded(who) else None


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
