"""Classes by density: how far the labelled members of each class lie, within a component.

The scheme of Perez-Diaz et al. (2024): a detection goes to a component of a Gaussian mixture; the
Mahalanobis distances from it to the labelled members of each class there become probabilities by
their softmin.
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
"""Labelled members of a class in a component, below which the class is not judged there."""
_WIDTH_FLOOR = 0.05
"""Added to variances: members of a class may lie on a line."""


@dataclass(frozen=True)
class ComponentClasses:
    """Mean and inverse covariance of the labelled members of each class in each component.

    `means` (m + 1, classes, latents) and `precisions` (m + 1, classes, latents, latents), NaN where
    there are too few; the last component stands for all together.
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
        """From labelled latents (r, latents), their classes and components (r,)."""
        size, latents = int(component.max()) + 2, z.shape[1]
        means = np.full((size, n_classes, latents), np.nan)
        precisions = np.full((size, n_classes, latents, latents), np.nan)
        for k in range(size):
            inside = component == k if k < size - 1 else np.ones(len(z), bool)
            for c in range(n_classes):
                members = z[inside & (classes == c)]
                if len(members) >= _LEAST_MEMBERS or (k == size - 1 and len(members)):
                    spread = np.atleast_2d(np.cov(members.T, bias=True))
                    means[k, c] = members.mean(0)
                    precisions[k, c] = np.linalg.inv(spread + _WIDTH_FLOOR * np.eye(latents))
        return cls(means, precisions, assign)

    def class_probabilities(self, z: FloatArray) -> FloatArray:
        """Softmin over classes of the Mahalanobis distances, (n, classes).

        Classes without members in the detection's component have none of its probability; in a
        component without any labelled members, all members together are asked.
        """
        component = np.minimum(self.assign(z), len(self.means) - 1)
        judged = np.any(np.isfinite(self.means[:, :, 0]), axis=1)
        component = np.where(judged[component], component, len(self.means) - 1)
        difference = z[:, None] - self.means[component]
        square = np.einsum("nci,ncij,ncj->nc", difference, self.precisions[component], difference)
        distance = np.sqrt(np.where(np.isfinite(square), square, np.inf))
        return np.asarray(softmax(-distance, axis=1))
