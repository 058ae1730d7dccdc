"""Hold a random forest as arrays; predict, and say which groups of features decide.

scikit-learn grows the trees but can only store them as a pickle, which runs code when it is read.
Arrays are safe to load, and give the same probabilities as scikit-learn, as a test checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ARRAYS = ("feature", "threshold", "left", "right", "missing_left", "value", "roots")
"""Arrays of a forest, as they are stored."""

MOST_NODES = 5_000_000
"""Most nodes of a stored forest: they take some 250 MB."""


@dataclass(frozen=True)
class Forest:
    """Hold decision trees as arrays over all nodes.

    `roots` (trees,) are the first nodes of the trees. A node with `feature` -1 is a leaf. Other
    nodes send a row to `left` if its feature is at most `threshold`, else to `right`; rows that
    lack the feature go left where `missing_left` is set. Children have larger numbers than their
    parent. `value` (nodes, classes) are the shares of the classes among the training rows of a
    node.
    """

    feature: npt.NDArray[np.int32]
    threshold: FloatArray
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    missing_left: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float32]
    roots: npt.NDArray[np.int32]

    @classmethod
    def of(cls, fitted: Any, classes: int) -> Forest:
        """Take the trees of a RandomForestClassifier, fitted to codes below `classes`."""
        trees = [each.tree_ for each in fitted.estimators_]
        sizes = np.array([tree.node_count for tree in trees])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        value = np.zeros((int(sizes.sum()), classes))
        value[:, fitted.classes_.astype(np.int64)] = np.concatenate([t.value[:, 0] for t in trees])
        is_leaf = np.concatenate([tree.children_left < 0 for tree in trees])

        def nodes(name: str) -> npt.NDArray[np.int32]:
            moved = [getattr(tree, name) + start for tree, start in zip(trees, starts, strict=True)]
            return np.where(is_leaf, -1, np.concatenate(moved)).astype(np.int32)

        return cls(
            feature=np.where(is_leaf, -1, np.concatenate([t.feature for t in trees])).astype("i4"),
            threshold=np.concatenate([tree.threshold for tree in trees]),
            left=nodes("children_left"),
            right=nodes("children_right"),
            missing_left=np.concatenate([tree.missing_go_to_left for tree in trees]).astype(bool),
            value=(value / value.sum(axis=1, keepdims=True)).astype(np.float32),
            roots=starts.astype(np.int32),
        )

    @classmethod
    def joined(cls, forests: Sequence[Forest], columns: Sequence[IntArray]) -> Forest:
        """Join forests, each of which uses only some of the features, into one.

        For each forest, `columns` has the place of each of its features among all features.
        """
        starts = np.cumsum([0, *(len(each.feature) for each in forests)])[:-1]

        def moved(name: str) -> npt.NDArray[np.int32]:
            nodes = [
                np.where(getattr(each, name) < 0, -1, getattr(each, name) + start)
                for each, start in zip(forests, starts, strict=True)
            ]
            return np.concatenate(nodes).astype(np.int32)

        asked = [
            np.where(each.feature < 0, -1, place[each.feature])
            for each, place in zip(forests, columns, strict=True)
        ]
        return cls(
            feature=np.concatenate(asked).astype(np.int32),
            threshold=np.concatenate([each.threshold for each in forests]),
            left=moved("left"),
            right=moved("right"),
            missing_left=np.concatenate([each.missing_left for each in forests]),
            value=np.concatenate([each.value for each in forests]),
            roots=moved("roots"),
        )

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return int(self.value.shape[1])

    def predict(self, values: npt.NDArray[np.float32]) -> FloatArray:
        """Return class probabilities (n, classes) for features (n, d), NaN where missing."""
        return self.explain(values, np.zeros(values.shape[1], np.int64), 1)[0]

    def explain(
        self, values: npt.NDArray[np.float32], group: IntArray, groups: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return probabilities (n, classes), and what each group added, (n, groups, classes).

        `group` (d,) is the group of each feature. On its way down a tree a row changes its class
        shares at every node; the change is credited to the group of the feature that the node asks
        for (Saabas 2014; Palczewska et al. 2013). The probabilities are the shares at the roots
        plus what all groups added.
        """
        rows = len(values)
        shares = np.zeros((rows, self.classes))
        added = np.zeros((rows, groups, self.classes))
        for root in self.roots:
            node = np.full(rows, root, np.int64)
            going = np.flatnonzero(self.feature[node] >= 0)
            while len(going):
                here = node[going]
                asked = self.feature[here]
                value = values[going, asked]
                left = np.where(
                    np.isnan(value), self.missing_left[here], value <= self.threshold[here]
                )
                there = np.where(left, self.left[here], self.right[here])
                added[going, group[asked]] += self.value[there] - self.value[here]
                node[going] = there
                going = going[self.feature[there] >= 0]
            shares += self.value[node]
        return shares / len(self.roots), added / len(self.roots)

    def problem(self, features: int) -> str | None:
        """Say what is wrong with arrays from a file, given the number of features; None if sound.

        In a sound forest every path ends in a leaf: children exist and have larger numbers.
        """
        n = len(self.feature)
        shapes = {"threshold": (n,), "left": (n,), "right": (n,), "missing_left": (n,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                return f"its arrays of nodes differ in length ({name})"
        if self.value.ndim != 2 or len(self.value) != n or not len(self.roots):
            return "it has no trees, or nodes without shares of the classes"
        if not ((self.roots >= 0) & (self.roots < n)).all():
            return "a tree begins at a node that does not exist"
        inner = np.flatnonzero(self.feature >= 0)
        for child in (self.left[inner], self.right[inner]):
            if not ((child > inner) & (child < n)).all():
                return "a node leads back, or to a node that does not exist"
        if (self.feature >= features).any():
            return "a node asks for a feature that does not exist"
        sums = self.value.sum(axis=1)
        # A threshold is infinite where a node asks only whether the feature is there.
        if np.isnan(self.threshold[inner]).any() or not (np.abs(sums - 1) < 1e-3).all():
            return "its numbers are impossible"
        return None


def grow(
    values: npt.NDArray[np.float32],
    codes: IntArray,
    weights: FloatArray,
    classes: int,
    *,
    trees: int,
    seed: int,
) -> Forest:
    """Grow a forest on features (n, d), class codes (n,) and weights (n,) of the rows.

    Leaves hold at least LEAF_ROWS rows and LEAF_SHARE of all weight, so that no leaf is a single
    source with many detections.
    """
    from sklearn.ensemble import RandomForestClassifier

    fitted = RandomForestClassifier(
        trees,
        min_samples_leaf=min(LEAF_ROWS, max(1, len(codes) // 20)),
        min_weight_fraction_leaf=LEAF_SHARE,
        random_state=seed,
    ).fit(values, codes, sample_weight=weights)
    return Forest.of(fitted, classes)


LEAF_ROWS = 10
LEAF_SHARE = 0.005
"""Fewest rows per leaf, and least share of the weight; docs/classifying.md has the measurements."""


def balanced_weights(codes: IntArray, sources: IntArray, classes: int) -> FloatArray:
    """Return weights (n,) that are equal in sum for all classes, and for all sources of a class.

    However many detections a source has, together they count as one.
    """
    weights = source_weights(sources)
    total = np.bincount(codes, weights, minlength=classes)
    return np.asarray(weights / total[codes] * len(codes) / (total > 0).sum())


def source_weights(sources: IntArray) -> FloatArray:
    """Return weights (n,) that are 1 divided by the number of rows of the source."""
    _, inverse, counts = np.unique(sources, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[inverse])
