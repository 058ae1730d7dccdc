"""Fit a Gaussian mixture to values that each have their own error: extreme deconvolution.

The mixture describes the true values. Each row enters by its likelihood, so that a faint detection
neither widens the components nor moves their means. The method is that of Bovy, Hogg & Roweis
(2011, arXiv:0905.2979), with the likelihood in information form, so that a row may leave a
direction undetermined.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from sklearn.cluster import KMeans
from torch import Tensor

from raypipe.errors import UsageError
from raypipe.model.covariance import inverses

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ROWS_PER_COMPONENT = 10
"""Fewest rows per component of a mixture."""

_MATRICES_AT_ONCE = 65_536
_MOST_STEPS = 100
_FIRST_STEPS = 15
_TOLERANCE = 1e-3
"""A fit ends when a step gains less log likelihood per row, in nats."""
_LEAST_VARIANCE = 0.02
"""Weight of the unit matrix in the covariances, per member: an inverse Wishart prior."""


@dataclass(frozen=True)
class Likelihoods:
    """Hold the likelihood of the true value x of each row, exp(score x - x information x / 2).

    `information` is (n, d, d) and `score` (n, d).
    """

    information: FloatArray
    score: FloatArray

    def __len__(self) -> int:
        return len(self.score)

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Likelihoods:
        """Return the likelihoods of some rows."""
        return Likelihoods(self.information[rows], self.score[rows])

    @classmethod
    def of_measurements(cls, values: FloatArray, covariance: FloatArray) -> Likelihoods:
        """Take measured values (n, d) with the covariance of their errors (n, d, d)."""
        information = inverses(covariance)
        return cls(information, np.einsum("nij,nj->ni", information, values))

    @classmethod
    def of_posteriors(cls, mean: FloatArray, covariance: FloatArray) -> Likelihoods:
        """Take posteriors (n, d), (n, d, d) under a unit normal prior, and remove the prior.

        The likelihood has the information C^-1 - 1, where the posterior has C^-1. Eigenvalues that
        rounding has made negative become 0: the row leaves that direction undetermined.
        """
        precision = inverses(covariance)
        values, vectors = np.linalg.eigh(precision - np.eye(mean.shape[1]))
        information = np.einsum("nij,nj,nkj->nik", vectors, values.clip(0.0), vectors)
        return cls(information, np.einsum("nij,nj->ni", precision, mean))


@dataclass(frozen=True)
class Mixture:
    """Hold a Gaussian mixture: weights (k,), means (k, d) and covariances (k, d, d).

    `log_likelihood` is the mean over the rows it was fitted to, in nats.
    """

    weights: FloatArray
    means: FloatArray
    covariances: FloatArray
    log_likelihood: float = float("nan")

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def parameters(self) -> int:
        """Return the number of free parameters."""
        k, d = self.means.shape
        return k - 1 + k * d + k * d * (d + 1) // 2

    def log_evidence(self, rows: Likelihoods) -> FloatArray:
        """Return the log likelihood of each row with each component, weight included, (n, k).

        It is in nats, up to a constant for each row that is the same for all mixtures.
        """
        parts = [_expect(self, block).evidence for block in _blocks(rows, len(self))]
        return (
            np.concatenate([part.numpy() for part in parts]) if parts else np.zeros((0, len(self)))
        )

    def responsibilities(self, rows: Likelihoods) -> FloatArray:
        """Return the probability that each row belongs to each component, (n, k)."""
        return np.asarray(softmax(self.log_evidence(rows), axis=1))

    def bic(self, rows: int) -> float:
        """Return the Bayesian information criterion, given the number of rows; less is better."""
        return float(self.parameters * np.log(rows) - 2 * rows * self.log_likelihood)


def fit_mixture(rows: Likelihoods, components: int, seed: int, starts: int = 3) -> Mixture:
    """Fit a mixture by expectation maximization; the same seed gives the same mixture.

    The true values have to be of order one. Of several random starts, the one that is best after a
    few steps is continued. Components are sorted by falling weight. Raises UsageError for fewer
    than `ROWS_PER_COMPONENT` rows per component.
    """
    if not 1 <= components <= len(rows) // ROWS_PER_COMPONENT:
        raise UsageError(
            f"{components} clusters: expected 1 to {len(rows) // ROWS_PER_COMPONENT} for "
            f"{len(rows)} rows, {ROWS_PER_COMPONENT} rows per cluster"
        )
    points = _points(rows)
    seeds = range(seed, seed + (starts if components > 1 else 1))
    begun = [_climb(rows, _start(points, components, each), _FIRST_STEPS) for each in seeds]
    best = max(begun, key=lambda each: each.log_likelihood)
    return _ordered(_climb(rows, best, _MOST_STEPS))


def choose_mixture(rows: Likelihoods, most: int, seed: int, starts: int = 3) -> Mixture:
    """Fit mixtures of 2, 4, 8 ... up to `most` components, and return that with the lowest BIC.

    Larger numbers are not tried once the criterion rises. The best number is then fitted from
    several starts.
    """
    most = min(most, len(rows) // ROWS_PER_COMPONENT)
    best = fit_mixture(rows, min(2, most), seed, 1)
    while 2 * len(best) <= most:
        larger = fit_mixture(rows, 2 * len(best), seed, 1)
        log.info("clusters: BIC of %d: %.0f", len(larger), larger.bic(len(rows)))
        if larger.bic(len(rows)) >= best.bic(len(rows)):
            break
        best = larger
    return fit_mixture(rows, len(best), seed, starts)


class _Moments(NamedTuple):
    """Hold log evidence (n, k), means (n, k, d) and covariances (n, k, d, d) of true values."""

    evidence: Tensor
    means: Tensor
    covariances: Tensor


def _expect(mixture: Mixture, rows: tuple[Tensor, Tensor]) -> _Moments:
    """Compute the posterior of each row's true value under each component.

    With component N(m, V) and likelihood exp(s x - x F x / 2), the posterior has the precision
    P = V^-1 + F and the mean P^-1 (V^-1 m + s), and the evidence is
    w |V|^-1/2 |P|^-1/2 exp((b P^-1 b - m V^-1 m) / 2) with b = V^-1 m + s.
    """
    information, score = rows
    means, covariances = torch.from_numpy(mixture.means), torch.from_numpy(mixture.covariances)
    factor = torch.linalg.cholesky(covariances)
    precision = torch.cholesky_inverse(factor)
    pull = torch.einsum("kij,kj->ki", precision, means)
    constant = torch.from_numpy(np.log(mixture.weights)) - 0.5 * (pull * means).sum(-1)
    constant -= torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(-1)
    factors = torch.linalg.cholesky(precision + information[:, None])
    spread = torch.cholesky_inverse(factors)
    right = pull + score[:, None]
    mean = torch.einsum("nkij,nkj->nki", spread, right)
    determinants = torch.log(torch.diagonal(factors, dim1=-2, dim2=-1)).sum(-1)
    evidence = constant + 0.5 * (mean * right).sum(-1) - determinants
    return _Moments(evidence, mean, spread)


def _step(rows: Likelihoods, mixture: Mixture) -> Mixture:
    """Do one step; the log likelihood of the result is that of the mixture before the step."""
    k, d = mixture.means.shape
    total, first = torch.zeros(k, dtype=torch.float64), torch.zeros(k, d, dtype=torch.float64)
    second = torch.zeros(k, d, d, dtype=torch.float64)
    likelihood = 0.0
    for block in _blocks(rows, k):
        found = _expect(mixture, block)
        likelihood += float(torch.logsumexp(found.evidence, 1).sum())
        shares = torch.softmax(found.evidence, 1)
        total += shares.sum(0)
        first += torch.einsum("nk,nki->ki", shares, found.means)
        second += torch.einsum("nk,nki,nkj->kij", shares, found.means, found.means)
        second += torch.einsum("nk,nkij->kij", shares, found.covariances)
    members = total.clamp_min(1e-9)[:, None]
    means = first / members
    scatter = second - torch.einsum("ki,kj->kij", means, means) * members[..., None]
    prior = _LEAST_VARIANCE * torch.eye(d, dtype=torch.float64)
    covariances = (scatter + prior * ROWS_PER_COMPONENT) / (members + ROWS_PER_COMPONENT)[..., None]
    # A component that has lost all its rows stays where it is, and has no weight.
    empty = total < 1e-6
    means = torch.where(empty[:, None], torch.from_numpy(mixture.means), means)
    covariances = torch.where(
        empty[:, None, None], torch.from_numpy(mixture.covariances), covariances
    )
    weights = (total / total.sum()).clamp_min(1e-12)
    return Mixture(
        weights=weights.numpy(),
        means=means.numpy(),
        covariances=covariances.numpy(),
        log_likelihood=likelihood / len(rows),
    )


def _climb(rows: Likelihoods, mixture: Mixture, steps: int) -> Mixture:
    """Do steps until one gains less than the tolerance."""
    before = -np.inf
    for _ in range(steps):
        mixture = _step(rows, mixture)
        if mixture.log_likelihood - before < _TOLERANCE:
            break
        before = mixture.log_likelihood
    return mixture


def _start(points: FloatArray, components: int, seed: int) -> Mixture:
    """Start from the groups that k-means finds among the most probable values."""
    k_means = KMeans(components, n_init=1, random_state=seed).fit(points)
    d = points.shape[1]
    groups = [points[k_means.labels_ == k] for k in range(components)]
    covariances = [
        (np.cov(group.T, bias=True).reshape(d, d) if len(group) > 1 else 0.0) + 0.1 * np.eye(d)
        for group in groups
    ]
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    means = k_means.cluster_centers_.astype(np.float64)
    return Mixture((sizes + 1) / (sizes + 1).sum(), means, np.stack(covariances))


def _points(rows: Likelihoods) -> FloatArray:
    """Return the most probable value of each row under a unit normal prior, (n, d)."""
    prior = np.eye(rows.score.shape[1])
    return np.asarray(np.linalg.solve(rows.information + prior, rows.score[..., None])[..., 0])


def _ordered(mixture: Mixture) -> Mixture:
    order = np.argsort(-mixture.weights, kind="stable")
    return replace(
        mixture,
        weights=mixture.weights[order],
        means=mixture.means[order],
        covariances=mixture.covariances[order],
    )


def _blocks(rows: Likelihoods, components: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield information and score of as many rows as fit into memory for all components."""
    step = max(1, _MATRICES_AT_ONCE // components)
    for start in range(0, len(rows), step):
        here = rows.take(slice(start, start + step))
        yield torch.from_numpy(here.information), torch.from_numpy(here.score)
