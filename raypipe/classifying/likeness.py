"""Find rows that are unlike all labeled sources: far from every class in latent space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_RIDGE = 0.05
"""Added to the variances of latents, whose prior has variance 1, so that no class is flat."""
_LEAST_DOUBT = 1e-3


@dataclass(frozen=True)
class ClassDensities:
    """Hold a normal density of latents per class: `means` (classes, k) and Cholesky factors.

    `precision_factors` (classes, k, k) are L with precision L L^T.
    """

    means: FloatArray
    precision_factors: FloatArray

    @classmethod
    def fit(
        cls, z: FloatArray, codes: IntArray, weights: FloatArray, classes: int
    ) -> ClassDensities:
        """Fit the latents (n, k) of each class; a class without rows is as wide as the prior."""
        k = z.shape[1]
        means, factors = np.zeros((classes, k)), np.tile(np.eye(k), (classes, 1, 1))
        for code in range(classes):
            rows = codes == code
            total = weights[rows].sum()
            if total <= 0:
                continue
            means[code] = weights[rows] @ z[rows] / total
            centered = z[rows] - means[code]
            covariance = (weights[rows, None] * centered).T @ centered / total
            factors[code] = np.linalg.cholesky(np.linalg.inv(covariance + _RIDGE * np.eye(k)))
        return cls(means, factors)

    def log_densities(self, z: FloatArray) -> FloatArray:
        """Return the log density of each class at latents (n, k) up to a constant, (n, classes)."""
        whitened = np.einsum("nck,ckl->ncl", z[:, None] - self.means, self.precision_factors)
        log_det = np.log(np.diagonal(self.precision_factors, axis1=1, axis2=2)).sum(axis=1)
        return np.asarray(log_det - 0.5 * (whitened**2).sum(axis=2))


@dataclass(frozen=True)
class Strangeness:
    """Hold sorted scores of labeled rows, each with the weight of all at least as large."""

    scores: FloatArray
    weights: FloatArray

    @classmethod
    def fit(cls, scores: FloatArray, weights: FloatArray) -> Strangeness:
        """Keep the finite scores (n,) with weights (n,) that sum to 1 per source."""
        known = np.isfinite(scores)
        order = np.argsort(scores[known], kind="stable")
        return cls(scores[known][order], weights[known][order])

    def p_values(self, scores: FloatArray) -> FloatArray:
        """Return the share of labeled sources, and of the row itself, at least as strange, (n,).

        It is NaN where the score is NaN.
        """
        below = np.concatenate([[0.0], np.cumsum(self.weights)])
        place = np.searchsorted(self.scores, np.nan_to_num(scores), side="left")
        share = (below[-1] - below[place] + 1.0) / (below[-1] + 1.0)
        return np.where(np.isfinite(scores), share, np.nan)


def strangeness(log_densities: FloatArray, votes: FloatArray) -> FloatArray:
    """Return scores (n,) of how unlike all classes rows are, from densities and votes (n, classes).

    The score is large for a row that is far from every class in latent space, and for a row that
    the forest, which uses more than latents, cannot place. docs/classifying.md compares it with
    either part alone.
    """
    unplaced = np.log(1.0 - votes.max(axis=1) + _LEAST_DOUBT)
    return np.asarray(2.0 * unplaced - 0.25 * log_densities.max(axis=1))
