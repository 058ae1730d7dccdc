"""Formulas of variables, on data that a formula made."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from raypipe.errors import UsageError
from raypipe.evaluation.questions.formulas import choose_front, defined, stability
from raypipe.evaluation.symbolic import Formula, readable, search_formulas

pytest.importorskip("pyoperon")


def formula(text: str, length: int, evaluate: Any) -> Formula:
    return Formula(text, length, ("s",), evaluate)


def test_a_formula_of_two_variables_is_found_again() -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(size=(500, 3)))
    y = 0.5 + 2.0 * np.log(x[:, 2] / x[:, 0])
    found = search_formulas(x, y, ("s", "m", "h"), seed=0)
    exact = [each for each in found if np.allclose(each.evaluate(x), y, atol=1e-3)]
    assert exact[0].variables == ("s", "h")
    assert exact[0].length <= 10
    assert "log" in exact[0].text
    again = search_formulas(x, y, ("s", "m", "h"), seed=0)
    assert [each.text for each in again] == [each.text for each in found]


def test_constants_are_joined_and_have_three_digits() -> None:
    text = "(0.038280 + (0.274365 * log((((-0.272494) * X2) / ((-0.417155) * X1)))))"
    assert readable(text, ("s", "m")) == "0.274*log(0.653*m/s) + 0.0383"


def test_without_pyoperon_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyoperon"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=r"raypipe\[formulas\]"):
        search_formulas(np.ones((4, 1)), np.ones(4), ("s",), 0)


def test_a_longer_formula_must_earn_its_place() -> None:
    x = np.linspace(0, 1, 100)[:, None]
    y = x[:, 0]
    short = formula("short", 3, lambda v: v[:, 0] + 0.05 * np.sin(9 * v[:, 0]))
    same = formula("same", 5, lambda v: v[:, 0] + 0.0499 * np.sin(9 * v[:, 0]))
    exact = formula("exact", 7, lambda v: v[:, 0])
    wild = formula("wild", 9, lambda v: np.full(len(v), np.nan))
    chosen = choose_front([[short, same], [exact, wild]], x, y)
    assert [each.text for each, _ in chosen] == ["short", "exact"]


def test_where_a_formula_is_not_defined_its_median_is_judged() -> None:
    assert defined(np.array([1.0, np.nan, 3.0, np.inf])).tolist() == [1.0, 2.0, 3.0, 2.0]
    assert defined(np.array([np.nan])).tolist() == [0.0]


def test_formulas_that_differ_between_seeds_are_not_stable() -> None:
    x = np.linspace(0.1, 1, 100)[:, None]
    line = formula("line", 3, lambda v: 2 * v[:, 0])
    other = formula("other", 3, lambda v: 2 * v[:, 0] + 1e-6)
    wrong = formula("wrong", 3, lambda v: np.sin(20 * v[:, 0]))
    assert stability([[line], [other]], 3, x, x[:, 0])["is_stable"]
    assert not stability([[line], [wrong]], 3, x, x[:, 0])["is_stable"]
    assert not stability([[line], []], 3, x, x[:, 0])["is_stable"]
