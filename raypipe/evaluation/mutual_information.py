"""Estimate mutual information from samples, by the distances of nearest neighbors.

For x and y, and with a condition c, the estimate in nats is

    I(x; y)     = < psi(k) + psi(n) - psi(n_x) - psi(n_y) >
    I(x; y | c) = < psi(k) - psi(n_xc) - psi(n_yc) + psi(n_c) >

where r is the distance of a sample to its k-th neighbor in all columns together (the largest of the
differences), and n_x counts the samples nearer than r in the columns of x alone, with the sample
itself (Kraskov, Stoegbauer & Grassberger 2004, Phys. Rev. E 69, 066138, their first estimator;
Frenzel & Pompe 2007, Phys. Rev. Lett. 99, 204101, for the condition). Where r is 0, because values
repeat, k is the number of samples at that place, as are the other counts (Gao et al. 2017, NeurIPS
30): for discrete values the estimate is the sum over their frequencies.

Estimates from few samples in many dimensions are biased. `measure` therefore compares with samples
in which y was permuted, and has the same bias.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.special import digamma
from scipy.stats import norm, rankdata

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NEIGHBORS = 5
"""The k of the estimate: smaller has less bias, larger less scatter."""

LOCAL_NEIGHBORS = 10
"""Samples with nearly the same condition, among which y is permuted for a conditional null."""


@dataclass(frozen=True)
class Information:
    """Hold mutual information in nats.

    `value` is the estimate and `error` its standard error from halves of the samples; `null` and
    `null_spread` are mean and standard deviation of permuted samples; `excess` is value - null;
    `p_value` is the probability of so large a value without any dependence; `n` counts samples.
    """

    value: float
    error: float
    null: float
    null_spread: float
    p_value: float
    n: int

    @property
    def excess(self) -> float:
        """Return the information beyond that of permuted samples."""
        return self.value - self.null

    def as_json(self) -> dict[str, float]:
        """Return all fields and the excess."""
        return asdict(self) | {"excess": self.excess}


def normal_scores(values: FloatArray) -> FloatArray:
    """Replace each column (n, d) by the normal quantiles of its ranks; equal values stay equal.

    Mutual information does not change by that, but estimates no longer depend on outliers.
    """
    ranks = rankdata(values, axis=0)
    return np.asarray(norm.ppf(ranks / (len(values) + 1)))


def mutual_information(
    x: FloatArray, y: FloatArray, condition: FloatArray | None = None, k: int = NEIGHBORS
) -> float:
    """Estimate I(x; y), or I(x; y | condition), of n samples (n, d) each, in nats."""
    both = np.hstack([x, y] if condition is None else [x, y, condition])
    if len(both) <= k:
        raise ValueError(f"{len(both)} samples are too few for {k} neighbors")
    tree = cKDTree(both)
    radius = tree.query(both, [k + 1], p=np.inf)[0][:, 0]
    repeated = radius == 0
    # Samples at exactly the radius do not count; where it is 0, those at the same place do.
    radius = np.where(repeated, 0.0, np.nextafter(radius, 0.0))
    own = np.full(len(both), k)
    if repeated.any():
        own[repeated] = tree.query_ball_point(both[repeated], 0.0, p=np.inf, return_length=True)
    if condition is None:
        terms = digamma(own) + digamma(len(both)) - _near(x, radius) - _near(y, radius)
    else:
        with_x, with_y = np.hstack([x, condition]), np.hstack([y, condition])
        near_x, near_y = _near(with_x, radius), _near(with_y, radius)
        terms = digamma(own) - near_x - near_y + _near(condition, radius)
    return float(terms.mean())


def measure(
    x: FloatArray,
    y: FloatArray,
    condition: FloatArray | None = None,
    *,
    permutations: int = 50,
    subsamples: int = 20,
    seed: int = 0,
) -> Information:
    """Estimate I(x; y), or I(x; y | condition), with its error and its permutation null.

    Samples (n, d) must be independent: of detections, one per source. With a condition, y is
    permuted only among samples of nearly the same condition (Runge 2018, AISTATS 84), so that what
    both share with it stays in the null.
    """
    rng = np.random.default_rng(seed)
    value = mutual_information(x, y, condition)
    null = np.array(
        [
            mutual_information(x, y[_permutation(condition, len(y), rng)], condition)
            for _ in range(permutations)
        ]
    )
    return Information(
        value=value,
        error=_error(x, y, condition, subsamples, rng),
        null=float(null.mean()),
        null_spread=float(null.std(ddof=1)),
        p_value=float((1 + (null >= value).sum()) / (1 + permutations)),
        n=len(y),
    )


def _near(columns: FloatArray, radius: FloatArray) -> FloatArray:
    tree = cKDTree(columns)
    counts = tree.query_ball_point(columns, radius, p=np.inf, return_length=True)
    return np.asarray(digamma(counts))


def _error(
    x: FloatArray,
    y: FloatArray,
    condition: FloatArray | None,
    subsamples: int,
    rng: np.random.Generator,
) -> float:
    # A bootstrap repeats samples, whose distances of 0 look like dependence. The spread over random
    # halves is the standard error of all: the jackknife's factor m / (n - m) is 1 (Shao & Wu 1989).
    half = len(y) // 2
    values = []
    for _ in range(subsamples):
        rows = rng.permutation(len(y))[:half]
        part = None if condition is None else condition[rows]
        values.append(mutual_information(x[rows], y[rows], part))
    return float(np.std(values, ddof=1))


def _permutation(condition: FloatArray | None, n: int, rng: np.random.Generator) -> IntArray:
    """Return an order in which each sample gets the y of another one, or of a near condition."""
    if condition is None:
        return rng.permutation(n)
    near = cKDTree(condition).query(condition, min(LOCAL_NEIGHBORS, n), p=np.inf)[1]
    order = np.full(n, -1, dtype=np.int64)
    taken = np.zeros(n, dtype=bool)
    # Each sample takes the y of a neighbor that no other has taken, as long as there is one.
    for row in rng.permutation(n):
        offered = rng.permutation(near[row])
        free = offered[~taken[offered]]
        order[row] = free[0] if len(free) else offered[0]
        taken[order[row]] = True
    return order
