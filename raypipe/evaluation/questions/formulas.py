"""Ask which formula of band fluxes explains each latent, and whether it holds for real rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit

from raypipe.evaluation.questions.directions import directions_of
from raypipe.evaluation.questions.material import Material, numbers, unmeasured
from raypipe.evaluation.regression import MIN_ROWS, r_squared
from raypipe.evaluation.symbolic import Formula, search_formulas
from raypipe.evaluation.validation import FloatArray

BANDS = ("s", "m", "h")
UNIT = 1e-14
"""Unit of the fluxes in formulas, erg/cm2/s."""

SEEDS = 3
MOST_ROWS = 2000
"""Most detections for the search. The formulas are judged on others."""

LEAST_GAIN = 0.005
"""Least gain of R2 by which a longer formula earns its place on the front."""

GOOD_SHARE = 0.95
"""The formula of a direction is the shortest with this share of the best R2 of its front."""

STABLE_CORRELATION = 0.98


def measure_formulas(material: Material) -> dict[str, Any]:
    """Search for formulas of the fluxes s, m and h for each latent and informative direction.

    The search uses a third of the sources and `SEEDS` seeds. Another third chooses the front among
    all formulas found, and the last third judges it. Each direction has its `front` (text, length,
    and R2 on the last third with its error), the shortest good formula (`formula`, `length`, `r2`),
    and its `stability` over seeds: the smallest correlation between the formulas of different seeds
    of at most that length, the variables of each, and `is_stable`. `real` has the R2 and the rank
    correlation of the same formula, applied to the fluxes of the real detections, with the same
    latents.
    """
    columns = [numbers(material.frame, f"flux_{band}") for band in BANDS]
    if any(each is None for each in columns):
        return unmeasured("the catalog has no fluxes: embed with embed.posterior_draws = 64")
    fluxes = np.column_stack([np.asarray(each) for each in columns]) / UNIT
    usable = np.flatnonzero((np.isfinite(fluxes) & (fluxes > 0)).all(axis=1))
    if len(usable) < 2 * MIN_ROWS or len(set(material.sources[usable].tolist())) < 4:
        return unmeasured(f"only {len(usable)} detections have fluxes in all bands")
    searched, choosing, judged = _thirds(usable, material)
    real = _real_fluxes(material)
    found = {}
    for each in directions_of(material):
        fronts = [
            search_formulas(fluxes[searched], each.values[searched], BANDS, seed)
            for seed in range(material.settings.seed, material.settings.seed + SEEDS)
        ]
        chosen = choose_front(fronts, fluxes[choosing], each.values[choosing])
        found[each.name] = _judge(fronts, chosen, fluxes, each.values, judged, real, material)
    return {
        "reason": None,
        "variables": {band: f"flux_{band}, {UNIT:g} erg/cm2/s" for band in BANDS},
        "n_searched": len(searched),
        "n_judged": len(judged),
        "by_direction": found,
    }


def _thirds(
    rows: npt.NDArray[np.int64], material: Material
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide rows by source: at most `MOST_ROWS` to search, a third to choose, a third to judge."""
    sources, seed = material.sources, material.settings.seed
    first, rest = next(
        GroupShuffleSplit(1, test_size=2 / 3, random_state=seed).split(rows, groups=sources[rows])
    )
    rest = rows[rest]
    second, third = next(
        GroupShuffleSplit(1, test_size=0.5, random_state=seed).split(rest, groups=sources[rest])
    )
    return rows[first][:MOST_ROWS], rest[second], rest[third]


def choose_front(
    fronts: list[list[Formula]], x: FloatArray, y: FloatArray
) -> list[tuple[Formula, float]]:
    """Choose formulas by their R2 on `x`, `y`; longer ones have to be better by `LEAST_GAIN`."""
    scored = sorted(
        ((each, _r2(y, each.evaluate(x))) for front in fronts for each in front),
        key=lambda pair: (pair[0].length, -pair[1]),
    )
    chosen: list[tuple[Formula, float]] = []
    for formula, r2 in scored:
        if np.isfinite(r2) and r2 > (chosen[-1][1] + LEAST_GAIN if chosen else 0.0):
            if chosen and chosen[-1][0].length == formula.length:
                chosen.pop()
            chosen.append((formula, r2))
    return chosen


def defined(values: FloatArray) -> FloatArray:
    """Replace values that are not finite, such as logarithms of negative numbers, by the median.

    A formula must predict every detection. If it is not defined for some, it is judged by this
    guess.
    """
    finite = np.isfinite(values)
    return np.where(finite, values, np.median(values[finite]) if finite.any() else 0.0)


def _judge(
    fronts: list[list[Formula]],
    chosen: list[tuple[Formula, float]],
    fluxes: FloatArray,
    values: FloatArray,
    judged: npt.NDArray[np.int64],
    real: FloatArray | None,
    material: Material,
) -> dict[str, Any]:
    if not chosen:
        return unmeasured("no formula explains it better than a constant")
    seed = material.settings.seed
    front = []
    for formula, _ in chosen:
        predicted = defined(formula.evaluate(fluxes[judged]))
        scores = r_squared(values[judged], predicted, material.sources[judged], seed)
        front.append({"formula": formula.text, "length": formula.length, **scores})
    enough = GOOD_SHARE * chosen[-1][1]
    place = next(i for i, (_, r2) in enumerate(chosen) if r2 >= enough)
    best = chosen[place][0]
    answer = {"reason": None, **front[place], "front": front}
    answer["stability"] = stability(fronts, best.length, fluxes[judged], values[judged])
    if real is not None:
        rows = judged[(np.isfinite(real[judged]) & (real[judged] > 0)).all(axis=1)]
        if len(rows) >= MIN_ROWS:
            answer["real"] = _on_real(best, real[rows], values[rows], material, rows)
    return answer


def stability(
    fronts: list[list[Formula]], length: int, x: FloatArray, y: FloatArray
) -> dict[str, Any]:
    """Compare, on `x`, the best formulas of `y` that each seed has found with at most `length`."""
    bests = [
        max(
            (each for each in front if each.length <= length),
            key=lambda each: _r2(y, each.evaluate(x)),
            default=None,
        )
        for front in fronts
    ]
    known = [each for each in bests if each is not None]
    predicted = [defined(each.evaluate(x)) for each in known]
    pairs = [
        float(np.corrcoef(predicted[i], predicted[j])[0, 1])
        for i in range(len(known))
        for j in range(i)
    ]
    least = min(pairs) if pairs and len(known) == len(fronts) else None
    variables = [list(each.variables) for each in known]
    same = all(each == variables[0] for each in variables)
    return {
        "seeds": len(fronts),
        "least_correlation": least,
        "variables": variables,
        "is_stable": bool(least is not None and least >= STABLE_CORRELATION and same),
    }


def _on_real(
    formula: Formula,
    real: FloatArray,
    values: FloatArray,
    material: Material,
    rows: npt.NDArray[np.int64],
) -> dict[str, Any]:
    predicted = formula.evaluate(real)
    finite = np.isfinite(predicted)
    kept = rows[finite]
    scores = r_squared(
        values[finite], predicted[finite], material.sources[kept], material.settings.seed
    )
    ranks = pd.Series(values[finite]).corr(pd.Series(predicted[finite]), method="spearman")
    return {"n_rows": len(kept), "rank_correlation": float(ranks), **scores}


def _real_fluxes(material: Material) -> FloatArray | None:
    """Return the real detections' fluxes in the bands, (n, bands), in `UNIT`; None without them."""
    columns = [numbers(material.real, f"obs_flux_aper90_{band}") for band in BANDS]
    if any(each is None for each in columns):
        return None
    return np.column_stack([np.asarray(each) for each in columns]) / UNIT


def _r2(values: FloatArray, predicted: FloatArray) -> float:
    return float(1 - ((values - predicted) ** 2).mean() / values.var())
