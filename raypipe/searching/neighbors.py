"""Find the exact nearest neighbors in latent space, given the errors of all latents.

The latents of two detections are known as posteriors N(m_i, C_i) (columns `z` and `z_cov` of the
catalog). Neighbors are ranked by the overlap of the posteriors: the probability density, given both
spectra, that the two latent vectors are equal. It is a normal density of covariance C_1 + C_2,
evaluated at m_1 - m_2,

    ln int p(z|x1) p(z|x2) dz = -(k ln 2 pi + ln|C_1 + C_2| + d^2) / 2,
    d^2 = (m_1 - m_2)^T (C_1 + C_2)^-1 (m_1 - m_2).

Ranked by d alone, the distance in units of the errors, a detection with large errors would be close
to everything; the determinant penalizes large errors.

Choose U with U U^T = C_1^-1. Elimination turns A = 1 + U^T C_2 U and the vector U^T (m_1 - m_2)
into a pivot a_j >= 1 and a residual e_j per direction j, with

    ln|C_1 + C_2| + d^2 = ln|C_1| + sum_j (ln a_j + e_j^2 / a_j).

No term of the sum is negative, so that the first few of them bound the overlap from above. Rows
whose bound is below the k-th best overlap are dropped early.

The answer also has the Bayes factor of "both have the same latents" against "both are independent
draws from the population" p(z), a unit normal, as in matching catalogs by position (Budavari &
Szalay 2008, ApJ 679, 301):

    B = int p(x1|z) p(x2|z) p(z) dz / (p(x1) p(x2)) = int p(z|x1) p(z|x2) / p(z) dz,
    ln B = (h^T L^-1 h - m_1^T P_1 m_1 - m_2^T P_2 m_2 - ln|C_1| - ln|C_2| - ln|L|) / 2,

with P_i = C_i^-1, L = P_1 + P_2 - 1 and h = P_1 m_1 + P_2 m_2; subtracting 1 removes the prior,
which both posteriors contain, once. B measures what the two share beyond the rest of the
population. It does not serve as a rank: far from the population's center it would rank every
detection with large errors high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypipe.model.covariance import inverses, solve
from raypipe.searching.batched_gaussians import (
    Float32,
    Float64,
    Posteriors,
    Rows,
    log_determinant_and_chi2,
)

_STAGES = (2, 4)
"""Numbers of directions after which rows that cannot be neighbors are dropped."""
_GUESSES = 4096
"""Number of promising rows that are evaluated in full to bound the k-th best overlap from below."""
_ROUNDING = 1e-4
"""Relative error that single precision may cause in a log overlap."""


@dataclass(frozen=True)
class Posterior:
    """Hold the latents of one spectrum: `z` (latents,) and `covariance` (latents, latents)."""

    z: Float64
    covariance: Float64

    @property
    def has_errors(self) -> bool:
        """Return whether the covariance is known."""
        return bool(np.isfinite(self.covariance).all())


@dataclass(frozen=True)
class Neighbors:
    """Hold the detections most similar to a query, best first.

    `rows` (k,); `log_overlap` and `log_bayes_factor` (k,), natural logarithms; `distance` (k,), the
    d of this module's formula; `euclidean` (k,), the distance of the latents without errors. If
    latents have no errors, all but `euclidean` are NaN, and `euclidean` sets the rank.
    """

    rows: Rows
    log_overlap: Float64
    log_bayes_factor: Float64
    distance: Float64
    euclidean: Float64


def nearest(query: Posterior, known: Posteriors, k: int, excluded: Rows) -> Neighbors:
    """Return the k detections of the largest overlap with the query, without the rows `excluded`.

    Rows without errors are never neighbors. If the query or all rows have none, the k nearest by
    Euclidean distance are returned.
    """
    if query.has_errors and np.isfinite(known.triangles[0]).any():
        candidates = _best(query, known, k, excluded)
    else:
        candidates = _closest(query.z, known, k, excluded)
    near = known.take(candidates)
    difference = near.z.T.astype(np.float64) - query.z
    euclidean = np.linalg.norm(difference, axis=1)
    both = near.covariance + query.covariance
    distance = np.sqrt((difference * solve(both, difference)).sum(1))
    with np.errstate(invalid="ignore"):
        overlap = -0.5 * (np.linalg.slogdet(2 * np.pi * both)[1] + distance**2)
    order = np.lexsort((candidates, euclidean, -np.nan_to_num(overlap)))[:k]
    return Neighbors(
        rows=candidates[order],
        log_overlap=overlap[order],
        log_bayes_factor=log_bayes_factors(query, near.take(order)),
        distance=distance[order],
        euclidean=euclidean[order],
    )


def log_bayes_factors(query: Posterior, known: Posteriors) -> Float64:
    """Return ln B of the query with each of n detections, (n,); NaN where errors are unknown."""
    if not query.has_errors:
        return np.full(len(known), np.nan)
    z, covariance = known.z.T.astype(np.float64), known.covariance
    # P_i and P_i m_i of the formula, then L and h.
    precision, own = inverses(covariance), np.linalg.inv(query.covariance)
    score, own_score = np.einsum("nij,nj->ni", precision, z), own @ query.z
    together, both = precision + own - np.eye(len(own)), score + own_score
    squares = (both * solve(together, both)).sum(1) - (z * score).sum(1) - query.z @ own_score
    with np.errstate(invalid="ignore"):
        determinants = sum(np.linalg.slogdet(each)[1] for each in (covariance, query.covariance))
        shared = np.linalg.slogdet(together)[1]
    return np.asarray(0.5 * (squares - determinants - shared))


def _best(query: Posterior, known: Posteriors, k: int, excluded: Rows) -> Rows:
    """Return rows that contain the best k, in any order; exact in spite of rounding."""
    # With C_1 = V W V^T, the U of the formula is V W^-1/2: U U^T = V W^-1 V^T = C_1^-1.
    widths, v = np.linalg.eigh(query.covariance)
    # The sum over directions j may stop anywhere and still be a bound. Directions that exclude most
    # rows come first: those with small errors of the query, in which a_j is large, and those in
    # which it lies far from the population's center, in which e_j is large.
    order = np.argsort(np.log(widths) - (query.z @ v) ** 2)
    u = (v / np.sqrt(widths))[:, order]
    y = query.z @ u

    def bounds_of(directions: int | None, rows: Rows | None) -> Float32:
        # Every term ln a_j + e_j^2 / a_j is at least 0, so that a partial sum is too small, and
        # minus half of it an upper bound of the log overlap (up to the constant -ln|C_1| / 2 and
        # the factor of 2 pi). With all directions it is the overlap itself. Rows without errors are
        # NaN: they go last.
        determinant, square = log_determinant_and_chi2(
            known, u[:, :directions], y[:directions], rows
        )
        return np.nan_to_num(-0.5 * (determinant + square), copy=False, nan=-np.inf)

    # 1. Bound all rows by the first few directions.
    bounds = bounds_of(_STAGES[0], None)
    bounds[excluded] = -np.inf
    # 2. Evaluate promising rows in full: the k-th best of all is at least the k-th best of these.
    # `first` is in ascending order, so that its k-th best is k from the end.
    first = np.sort(bounds_of(None, _promising(bounds, k + _GUESSES)))
    enough = float(first[-k]) if len(first) >= k else float("-inf")
    # Leave room for rounding, and stay above minus infinity, the bound of excluded rows.
    enough = max(enough - _ROUNDING * (1.0 + abs(enough)), float(np.finfo(np.float32).min))
    # 3. Keep rows whose bound reaches that value, and tighten the bound with more directions.
    rows = np.flatnonzero(bounds >= enough)
    for stage in (*_STAGES[1:], None):
        rows = rows[bounds_of(stage, rows) >= enough]
    return rows


def _promising(bounds: Float32, n: int) -> Rows:
    """Return about n rows with high bounds: the best row of each of n equal stretches."""
    # One argmax per row of a matrix is much faster than sorting all bounds. The last rows, fewer
    # than a stretch, are ignored: that can only lower `enough`, which never changes the result.
    stretch = max(1, len(bounds) // n)
    whole = bounds[: len(bounds) // stretch * stretch].reshape(-1, stretch)
    rows = whole.argmax(1) + np.arange(len(whole)) * stretch
    return rows[bounds[rows] > -np.inf]


def _closest(z: Float64, known: Posteriors, k: int, excluded: Rows) -> Rows:
    """Return the rows of the k smallest Euclidean distances, in any order."""
    squares = np.zeros(len(known), np.float32)
    for value, column in zip(z.astype(np.float32), known.z, strict=True):
        squares += (column - value) ** 2
    squares[excluded] = np.inf
    order = np.argpartition(squares, min(k, len(squares) - 1))[:k]
    return order[np.isfinite(squares[order])]
