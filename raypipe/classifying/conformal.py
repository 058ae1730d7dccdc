"""Make sets of classes that hold the true one with a stated probability, class by class.

Conformal prediction with one calibration per class (Mondrian; Vovk et al. 2005) holds for each
class by itself, however rare it is. `crepes` computes the same p-values where every source has one
row, which a test checks; here the rows of one source count as one, because they are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Conformal:
    """Hold calibration scores, sorted per class, with their cumulative weights.

    A score says how little a row conforms to its class. `scores` (m,) has the classes one after the
    other, and `starts` (classes + 1,) says where each begins; `weights` (m,) sum to 1 per source.
    """

    scores: FloatArray
    weights: FloatArray
    starts: IntArray

    @classmethod
    def fit(
        cls, scores: FloatArray, codes: IntArray, weights: FloatArray, classes: int
    ) -> Conformal:
        """Keep the scores (n,) that rows have for their true class `codes` (n,)."""
        order = np.lexsort((scores, codes))
        starts = np.searchsorted(codes[order], np.arange(classes + 1))
        return cls(scores[order], weights[order], starts.astype(np.int64))

    def p_values(self, scores: FloatArray) -> FloatArray:
        """Return p-values (n, classes) of `scores` (n, classes), one column per class.

        A p-value is the share of the class's calibration sources, and of the row itself, that
        conform no better: (sum of weights with a score at least as high + 1) / (their sum + 1).
        """
        answer = np.ones_like(scores)
        for k in range(scores.shape[1]):
            own = slice(self.starts[k], self.starts[k + 1])
            below = np.concatenate([[0.0], np.cumsum(self.weights[own])])
            place = np.searchsorted(self.scores[own], scores[:, k], side="left")
            answer[:, k] = (below[-1] - below[place] + 1.0) / (below[-1] + 1.0)
        return answer


def nonconformity(probabilities: FloatArray) -> FloatArray:
    """Return how little rows conform to each class, (n, classes), from their probabilities.

    It is the largest probability of another class minus that of the class.
    """
    n, k = probabilities.shape
    order = np.sort(probabilities, axis=1)
    best = np.repeat(order[:, -1:], k, axis=1)
    rows = np.arange(n)
    best[rows, probabilities.argmax(axis=1)] = order[:, -2] if k > 1 else 0.0
    return np.asarray(best - probabilities)
