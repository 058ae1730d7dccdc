"""Represent figures with their targets, and print them as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.latents.surveys import DECADES

Mask = npt.NDArray[np.bool_]

WIDTH = 38


@dataclass(frozen=True)
class Figure:
    """One number: its rival, its error, its values by count decade, and its target.

    Values between `least` and `most` meet `target`, which is None if there is none.
    """

    survey: str
    name: str
    who: str
    value: float | None
    error: float | None = None
    by_counts: list[float | None] = field(default_factory=list)
    least: float | None = None
    most: float | None = None

    @property
    def aimed(self) -> bool:
        """Whether the figure has a target."""
        return self.least is not None or self.most is not None

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one."""
        if not self.aimed or self.value is None:
            return None
        low = -np.inf if self.least is None else self.least
        high = np.inf if self.most is None else self.most
        return bool(low <= self.value <= high)

    def as_json(self) -> dict[str, Any]:
        """All fields, with the verdict."""
        return asdict(self) | {"reached": self.reached}


def in_bins(counts: npt.NDArray[np.float64]) -> list[Mask]:
    """Whether rows fall into each bin of `DECADES`."""
    index = np.clip(np.searchsorted(DECADES, counts, side="right") - 1, 0, len(DECADES) - 2)
    return [index == i for i in range(len(DECADES) - 1)]


def scored(
    score: Callable[[Mask], tuple[float | None, float | None]],
    counts: npt.NDArray[np.float64],
    in_range: Mask,
) -> dict[str, Any]:
    """Value and error of `score` over the rows in range, and its values by count decade."""
    value, error = score(in_range)
    by_counts = [score(mask)[0] if mask.any() else None for mask in in_bins(counts)]
    return {"value": value, "error": error, "by_counts": by_counts}


def mean_of(values: npt.NDArray[Any]) -> Callable[[Mask], tuple[float | None, float | None]]:
    """Make a score: the mean of the finite `values` of some rows, with its standard error."""

    def score(mask: Mask) -> tuple[float | None, float | None]:
        chosen = values[mask & np.isfinite(values)]
        if len(chosen) < 2:
            return None, None
        return float(chosen.mean()), float(chosen.std(ddof=1) / np.sqrt(len(chosen)))

    return score


def render(figures: Iterable[Figure]) -> str:
    """Format the figures as text, grouped by name."""
    edges = [f"{low:.0f}-{high:.0f}" for low, high in pairwise(DECADES)]
    groups: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.survey, figure.name), []).append(figure)
    lines: list[str] = []
    survey = ""
    for (group_survey, name), group in groups.items():
        if group_survey != survey:
            survey = group_survey
            lines += ["", f"=== survey: {survey}; by expected source counts: {', '.join(edges)}"]
        lines += ["", f"{name}{_target(group)}"]
        lines += [_line(figure) for figure in group]
    return "\n".join(lines)


def _target(group: list[Figure]) -> str:
    aims = {(each.least, each.most) for each in group if each.aimed}
    texts = []
    for least, most in sorted(aims, key=str):
        low = [] if least is None else [f"at least {least:.3f}"]
        high = [] if most is None else [f"at most {most:.3f}"]
        texts.append(" and ".join(low + high))
    return f"   [target: {'; '.join(texts)}]" if texts else ""


def _line(figure: Figure) -> str:
    verdict = {True: "PASS", False: "short of", None: ""}[figure.reached]
    error = "" if figure.error is None else f"+-{_number(figure.error)}"
    cells = "".join(f"{_number(value):>9}" for value in figure.by_counts)
    return f"  {figure.who:<{WIDTH}}{_number(figure.value):>9} {error:<10}{verdict:<9}{cells}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}"
