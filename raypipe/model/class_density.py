"""Classify by density: by the distance to the labeled members of each class within a component.

This is the scheme of Perez-Diaz et al. (2024). A detection is assigned to a component of a Gaussian
mixture. For each class, the Mahalanobis distance d to the labeled members in that component is
computed, and the probabilities are the softmin of these distances, exp(-d) / sum exp(-d).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LEAST_MEMBERS = 5
"""Fewest labeled members of a class in a component from which a covariance is estimated."""
_WIDTH_FLOOR = 0.05
"""Added to variances, since the members of a class may lie on a line."""


@dataclass(frozen=True)
class ComponentClasses:
    """Hold the mean and inverse covariance of each class's labeled members per component.

    `means` (m + 1, classes, latents) and `precisions` (m + 1, classes, latents, latents) are NaN
    for classes with too few members; the last component holds the members of all components.
    """

    means: FloatArray
    precisions: FloatArray
    assign: Callable[[FloatArray], IntArray]

    @classmethod
    def of(
        cls,
        z: FloatArray,
        classes: IntArray,
        component: IntArray,
        n_classes: int,
        assign: Callable[[FloatArray], IntArray],
    ) -> ComponentClasses:
        """Estimate densities from labeled latents (r, latents), with classes, components (r,)."""
        size, latents = int(component.max()) + 2, z.shape[1]
        means = np.full((size, n_classes, latents), np.nan)
        precisions = np.full((size, n_classes, latents, latents), np.nan)
        for k in range(size):  # The last k stands for all components together.
            inside = component == k if k < size - 1 else np.ones(len(z), bool)
            for c in range(n_classes):
                members = z[inside & (classes == c)]
                if len(members) >= _LEAST_MEMBERS or (k == size - 1 and len(members)):
                    # The maximum likelihood covariance, kept invertible by the floor.
                    spread = np.atleast_2d(np.cov(members.T, bias=True))
                    means[k, c] = members.mean(0)
                    precisions[k, c] = np.linalg.inv(spread + _WIDTH_FLOOR * np.eye(latents))
        return cls(means, precisions, assign)

    def class_probabilities(self, z: FloatArray) -> FloatArray:
        """Return the probability of each class, (n, classes), for latents `z` (n, latents).

        A class without members in the detection's component has probability 0. In a component
        without labeled members, the members of all components are used.
        """
        component = np.minimum(self.assign(z), len(self.means) - 1)
        judged = np.any(np.isfinite(self.means[:, :, 0]), axis=1)
        component = np.where(judged[component], component, len(self.means) - 1)
        # d^2 = (z - mean)^T precision (z - mean) per detection and class, infinite without members.
        difference = z[:, None] - self.means[component]
        square = np.einsum("nci,ncij,ncj->nc", difference, self.precisions[component], difference)
        distance = np.sqrt(np.where(np.isfinite(square), square, np.inf))
        return np.asarray(softmax(-distance, axis=1))
