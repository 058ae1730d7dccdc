"""Nearest neighbors in latent space, weighted by what is known of each latent: exact.

What is known of two detections' latents are the posteriors N(m_i, C_i) (`z` and `z_cov` of the
catalog). Neighbors are ranked by the probability density, given both spectra, that their latents
do not differ at all: that of m_1 - m_2 under a normal of covariance C_1 + C_2, the posteriors'
overlap

    ln int p(z|x1) p(z|x2) dz = -(k ln 2 pi + ln|C_1 + C_2| + d^2) / 2,
    d^2 = (m_1 - m_2)^T (C_1 + C_2)^-1 (m_1 - m_2).

By d alone, the distance in units of the errors, a detection of which little is known is near
everything; the determinant is what that costs. With U U^T = C_1^-1 elimination makes of A = 1 +
U^T C_2 U and U^T (m_1 - m_2) a pivot a_j >= 1 and a residual e_j for each direction, and ln|C_1 +
C_2| + d^2 = ln|C_1| + sum_j (ln a_j + e_j^2 / a_j). No term is negative: a few of them bound the
overlap from above, and rows whose bound is below the k-th best are done with.

Beside it stands the Bayes factor of "the same latents" against "two draws of the population" p(z),
a unit normal, as in matches of catalogs by position (Budavari & Szalay 2008, ApJ 679, 301):

    B = int p(x1|z) p(x2|z) p(z) dz / (p(x1) p(x2)) = int p(z|x1) p(z|x2) / p(z) dz,
    ln B = (h^T L^-1 h - m_1^T P_1 m_1 - m_2^T P_2 m_2 - ln|C_1| - ln|C_2| - ln|L|) / 2,

P_i = C_i^-1, L = P_1 + P_2 - 1 and h = P_1 m_1 + P_2 m_2; the prior, which is in both posteriors,
counts once. It says how much the two have in common that others have not, but is no rank: by it
detections far out, where the population hardly is, are like all of which little is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypipe.model.covariance import inverses, solve
from raypipe.searching.elimination import (
    Float32,
    Float64,
    Posteriors,
    Rows,
    log_determinant_and_chi2,
)

_STAGES = (2, 4)
"""Directions after which rows that cannot be neighbors are left aside."""
_GUESSES = 4096
"""Rows of high bounds that are judged in full to know how good the k-th best is at least."""
_ROUNDING = 1e-4
"""Share of a log overlap that single precision may have wrong."""


@dataclass(frozen=True)
class Posterior:
    """What is known of one spectrum's latents: `z` (latents,), `covariance` (latents, latents)."""

    z: Float64
    covariance: Float64

    @property
    def has_errors(self) -> bool:
        """Whether the covariance is known."""
        return bool(np.isfinite(self.covariance).all())


@dataclass(frozen=True)
class Neighbors:
    """Detections most like a query, best first.

    `rows` (k,); `log_overlap` and `log_bayes_factor` (k,), natural; `distance` (k,), d of this
    module's formula; `euclidean` (k,), that of the latents alone. All but the last are NaN, and
    rank is by that, where latents have no errors.
    """

    rows: Rows
    log_overlap: Float64
    log_bayes_factor: Float64
    distance: Float64
    euclidean: Float64


def nearest(query: Posterior, known: Posteriors, k: int, excluded: Rows) -> Neighbors:
    """The k detections of the largest overlap with the query, rows `excluded` left out.

    Rows without errors are nobody's neighbors. Where the query has none, or no row has any: the k
    nearest in plain latent space.
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
    """ln B of the query with each of n detections, (n,); NaN where errors are not known."""
    if not query.has_errors:
        return np.full(len(known), np.nan)
    z, covariance = known.z.T.astype(np.float64), known.covariance
    precision, own = inverses(covariance), np.linalg.inv(query.covariance)
    score, own_score = np.einsum("nij,nj->ni", precision, z), own @ query.z
    together, both = precision + own - np.eye(len(own)), score + own_score
    squares = (both * solve(together, both)).sum(1) - (z * score).sum(1) - query.z @ own_score
    with np.errstate(invalid="ignore"):
        determinants = sum(np.linalg.slogdet(each)[1] for each in (covariance, query.covariance))
        shared = np.linalg.slogdet(together)[1]
    return np.asarray(0.5 * (squares - determinants - shared))


def _best(query: Posterior, known: Posteriors, k: int, excluded: Rows) -> Rows:
    """Rows among which the best k are, in any order; exact whatever rounding does."""
    widths, v = np.linalg.eigh(query.covariance)
    order = np.argsort(np.log(widths) - (query.z @ v) ** 2)
    u = (v / np.sqrt(widths))[:, order]
    y = query.z @ u

    def bounds_of(directions: int | None, rows: Rows | None) -> Float32:
        determinant, square = log_determinant_and_chi2(
            known, u[:, :directions], y[:directions], rows
        )
        return np.nan_to_num(-0.5 * (determinant + square), copy=False, nan=-np.inf)

    bounds = bounds_of(_STAGES[0], None)
    bounds[excluded] = -np.inf
    first = np.sort(bounds_of(None, _promising(bounds, k + _GUESSES)))
    enough = float(first[-k]) if len(first) >= k else float("-inf")
    enough = max(enough - _ROUNDING * (1.0 + abs(enough)), float(np.finfo(np.float32).min))
    rows = np.flatnonzero(bounds >= enough)
    for stage in (*_STAGES[1:], None):
        rows = rows[bounds_of(stage, rows) >= enough]
    return rows


def _promising(bounds: Float32, n: int) -> Rows:
    """About n rows with high bounds that are not excluded: the best of equal stretches."""
    stretch = max(1, len(bounds) // n)
    whole = bounds[: len(bounds) // stretch * stretch].reshape(-1, stretch)
    rows = whole.argmax(1) + np.arange(len(whole)) * stretch
    return rows[bounds[rows] > -np.inf]


def _closest(z: Float64, known: Posteriors, k: int, excluded: Rows) -> Rows:
    squares = np.zeros(len(known), np.float32)
    for value, column in zip(z.astype(np.float32), known.z, strict=True):
        squares += (column - value) ** 2
    squares[excluded] = np.inf
    order = np.argpartition(squares, min(k, len(squares) - 1))[:k]
    return order[np.isfinite(squares[order])]
