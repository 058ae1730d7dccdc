"""Nearest neighbors in latent space, weighted by what is known of each latent: exact.

Two detections x1 and x2 are compared by the Bayes factor of "the same latents" against "two draws
of the population". With posteriors p(z|x) and the population p(z), a unit normal, as prior,

    B = int p(x1|z) p(x2|z) p(z) dz / (p(x1) p(x2)) = int p(z|x1) p(z|x2) / p(z) dz.

Posteriors are normal, of means m_i and covariances C_i (`z` and `z_cov` of the catalog), and have
the prior in them: of the query the counts alone say F = C_1^-1 - 1, with eigenvalues w_j and
eigenvectors v_j. With U = (sqrt(w_j) v_j) and y_j = (1 + w_j) / sqrt(w_j) v_j m_1 its likelihood is
exp(-|y - U^T z|^2 / 2) up to a factor, and the integral is one of a product of two normals:

    ln B = c - (ln|A| + d^T A^-1 d) / 2,   A = 1 + U^T C_2 U,   d = y - U^T m_2,
    c = sum_j (ln(1 + w_j) + (1 + w_j) / w_j (v_j m_1)^2) / 2.

It is symmetric, 0 where either says nothing, and large where both say much and agree: a faint
detection is nobody's neighbor just for being compatible with everything. Matches of catalogs are
judged alike by position (Budavari & Szalay 2008, ApJ 679, 301).

Elimination makes of A and d a pivot a_j >= 1 and a residual e_j for each direction, and ln B = c -
sum_j (ln a_j + e_j^2 / a_j) / 2. Every term lowers it: those of the few directions that contribute
most to c bound it from above, and rows whose bound is below the k-th best are done with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypipe.searching.elimination import (
    Float32,
    Float64,
    Posteriors,
    Rows,
    log_determinant_and_chi2,
)

_TELLS = 1e-3
"""Information, in units of the prior's, below which the counts say nothing of a direction."""
_LEFT = 1.0
"""Most that directions left out of the first bound may add to ln B."""
_GUESSES = 4096
"""Rows of high bounds that are judged in full to know how good the k-th best is at least."""
_ROUNDING = 1e-4
"""Share of ln B, and of its constant, that single precision may have wrong."""


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

    `rows` (k,); `log_bayes_factor` (k,), natural; `distance` (k,), of the latents in units of both
    errors together (Mahalanobis); `euclidean` (k,). The first two are NaN, and rank is by the last,
    where latents have no errors.
    """

    rows: Rows
    log_bayes_factor: Float64
    distance: Float64
    euclidean: Float64


def nearest(query: Posterior, known: Posteriors, k: int, excluded: Rows) -> Neighbors:
    """The k detections with the largest Bayes factors, those in rows `excluded` left out.

    Rows without errors are nobody's neighbors, unless the query has none either: then the k nearest
    in plain latent space.
    """
    if query.has_errors:
        candidates = _Likelihood.of(query).best(known, k, excluded)
    else:
        candidates = _closest(query.z, known, k, excluded)
    near = known.take(candidates)
    factors = log_bayes_factors(query, near)
    euclidean = np.linalg.norm(near.z.T.astype(np.float64) - query.z, axis=1)
    order = np.lexsort((candidates, euclidean, -factors))[:k]
    return Neighbors(
        rows=candidates[order],
        log_bayes_factor=factors[order],
        distance=_mahalanobis(query, near)[order],
        euclidean=euclidean[order],
    )


def log_bayes_factors(query: Posterior, known: Posteriors) -> Float64:
    """ln B of the query with each of n detections, (n,), in double precision; NaN without."""
    if not query.has_errors:
        return np.full(len(known), np.nan)
    likelihood = _Likelihood.of(query)
    u, y = likelihood.directions, likelihood.y
    spread = np.eye(len(y)) + u.T @ known.covariance @ u
    residual = y - known.z.T.astype(np.float64) @ u
    weighted = np.linalg.solve(spread, residual[..., None])[..., 0]
    penalty = np.linalg.slogdet(spread)[1] + (residual * weighted).sum(1)
    return np.asarray(likelihood.constant - 0.5 * penalty)


@dataclass(frozen=True)
class _Likelihood:
    """What the query's counts alone say: U (latents, j), y (j,) and the terms of c (j,)."""

    directions: Float64
    y: Float64
    terms: Float64

    @classmethod
    def of(cls, query: Posterior) -> _Likelihood:
        values, vectors = np.linalg.eigh(np.linalg.inv(query.covariance) - np.eye(len(query.z)))
        told = values > _TELLS
        w, v = values[told], vectors[:, told]
        along = v.T @ query.z
        terms = 0.5 * (np.log1p(w) + (1 + w) / w * along**2)
        order = np.argsort(-terms)
        u, y = v * np.sqrt(w), (1 + w) / np.sqrt(w) * along
        return cls(u[:, order], y[order], terms[order])

    @property
    def constant(self) -> float:
        """c of this module's formula."""
        return float(self.terms.sum())

    def best(self, known: Posteriors, k: int, excluded: Rows) -> Rows:
        """Rows among which the best k are, in any order; exact whatever rounding does."""
        left = self.constant - np.cumsum(self.terms)
        bounds = self._bounds(known, int((left > _LEFT).sum()) + 1, None)
        bounds[excluded] = -np.inf
        first = np.sort(self._bounds(known, None, _promising(bounds, k + _GUESSES)))
        enough = float(first[-k]) if len(first) >= k else -np.inf
        if enough > -np.inf:
            enough -= _ROUNDING * (1.0 + self.constant + abs(enough))
        rows = np.flatnonzero((bounds >= enough) & (bounds > -np.inf))
        return rows[self._bounds(known, None, rows) >= enough]

    def _bounds(self, known: Posteriors, directions: int | None, rows: Rows | None) -> Float32:
        """ln B - c of rows (all by default), or a bound of it from the first directions."""
        determinant, square = log_determinant_and_chi2(
            known, self.directions[:, :directions], self.y[:directions], rows
        )
        determinant += square
        determinant *= -0.5
        return np.nan_to_num(determinant, copy=False, nan=-np.inf)


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


def _mahalanobis(query: Posterior, known: Posteriors) -> Float64:
    difference = known.z.T.astype(np.float64) - query.z
    weighted = np.linalg.solve(known.covariance + query.covariance, difference[..., None])[..., 0]
    return np.sqrt((difference * weighted).sum(1))
