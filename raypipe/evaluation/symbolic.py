"""Search for short formulas of a few variables by genetic programming, with pyoperon."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from raypipe.errors import UsageError
from raypipe.evaluation.validation import FloatArray

SYMBOLS = "add,sub,mul,div,log,constant,variable"
LONGEST = 16
GENERATIONS = 40
POPULATION = 300
MOST_EVALUATIONS = 400_000


@dataclass(frozen=True)
class Formula:
    """Hold a formula: its text, its length (constants, variables and operators), its values.

    `evaluate` takes variables (n, d) and returns values (n,); `variables` are those it contains.
    """

    text: str
    length: int
    variables: tuple[str, ...]
    evaluate: Callable[[FloatArray], FloatArray]


def search_formulas(x: FloatArray, y: FloatArray, names: Sequence[str], seed: int) -> list[Formula]:
    """Search for formulas of the variables `x` (n, d), called `names`, that give `y` (n,).

    Returns the Pareto front of R2 against length, shortest first; the same for the same seed.
    Raises UsageError without pyoperon.
    """
    try:
        import sympy  # noqa: F401
        from pyoperon.sklearn import SymbolicRegressor
    except ImportError as error:
        raise UsageError(
            "formulas need pyoperon: pip install 'raypipe[formulas]', or leave formulas out of "
            "evaluate.questions"
        ) from error
    regressor = SymbolicRegressor(
        allowed_symbols=SYMBOLS,
        objectives=["r2", "length"],
        population_size=POPULATION,
        pool_size=POPULATION,
        generations=GENERATIONS,
        max_length=LONGEST,
        optimizer_iterations=3,
        max_evaluations=MOST_EVALUATIONS,
        epsilon=1e-4,
        n_threads=1,
        random_state=seed,
    )
    regressor.fit(x, y)
    found: dict[int, Formula] = {}
    for item in regressor.pareto_front_:
        tree = item["tree"]

        def evaluate(values: FloatArray, tree: object = tree) -> FloatArray:
            return np.asarray(regressor.evaluate_model(tree, values), dtype=np.float64)

        if np.isfinite(evaluate(x)).all():
            text = readable(item["model"], names)
            used = tuple(name for name in names if re.search(rf"\b{name}\b", text))
            found.setdefault(item["length"], Formula(text, item["length"], used, evaluate))
    return [found[length] for length in sorted(found)]


def readable(text: str, names: Sequence[str]) -> str:
    """Write pyoperon's text with the variables' names, constants joined, and three digits.

    Signs and scales that cancel are gone: log of (-2 s) / (-4 h) is log(0.5 s / h).
    """
    import sympy

    symbols = {f"X{i + 1}": sympy.Symbol(name, positive=True) for i, name in enumerate(names)}
    joined = str(sympy.parse_expr(text, local_dict=symbols))
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda match: f"{float(match[0]):.3g}", joined)
