"""Hold a trained classifier, and apply it to the features of detections and sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from raypipe.classifying.calibration import Calibration
from raypipe.classifying.conformal import Conformal, nonconformity
from raypipe.classifying.features import GROUPS, Context, Features
from raypipe.classifying.forest import Forest
from raypipe.classifying.likeness import ClassDensities, Strangeness, strangeness

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """Hold the calibrations for one kind of rows: detections or sources."""

    calibration: Calibration
    conformal: Conformal
    strange: Strangeness

    @classmethod
    def fit(
        cls, votes: FloatArray, scores: FloatArray, codes: IntArray, weights: FloatArray
    ) -> Judgement:
        """Calibrate on votes (n, classes) and strangeness (n,) of labeled rows not trained on."""
        calibration = Calibration.fit(votes, codes, weights)
        probabilities = calibration.apply(votes)
        own = nonconformity(probabilities)[np.arange(len(codes)), codes]
        return cls(
            calibration,
            Conformal.fit(own, codes, weights, votes.shape[1]),
            Strangeness.fit(scores, weights),
        )


@dataclass(frozen=True)
class Raw:
    """Hold the answers of forests and densities for rows, before calibration.

    `votes` (n, classes) are those with equal weight of all classes, `added` (n, groups, classes)
    the contribution of each group of features to them, and `strange` (n,) is NaN without latents.
    """

    votes: FloatArray
    added: FloatArray
    strange: FloatArray

    def averaged(self, starts: IntArray) -> Raw:
        """Average over the rows of sources, which are contiguous from `starts` (s,)."""
        sizes = np.diff(np.append(starts, len(self.votes)))
        seen = np.isfinite(self.strange)
        with np.errstate(invalid="ignore"):
            strange = np.add.reduceat(np.where(seen, self.strange, 0.0), starts)
            strange = strange / np.add.reduceat(seen.astype(float), starts)
        return Raw(
            np.add.reduceat(self.votes, starts) / sizes[:, None],
            np.add.reduceat(self.added, starts) / sizes[:, None, None],
            strange,
        )


@dataclass(frozen=True)
class Answers:
    """Hold the classification of rows.

    `probabilities` (n, classes) hold for a population with the class shares of the prior; `best`
    (n,) is the most probable class if all were equally frequent; `in_set` (n, classes) marks the
    classes of the set; `unlike_p` (n,) is small for rows that are unlike all labeled sources;
    `rests_on` (n, groups) are the shares of the groups of features in the decision for `best`.
    """

    probabilities: FloatArray
    best: IntArray
    in_set: npt.NDArray[np.bool_]
    unlike_p: FloatArray
    rests_on: FloatArray

    def take(self, rows: IntArray) -> Answers:
        """Return the answers for these rows, in this order."""
        return Answers(*(getattr(self, each.name)[rows] for each in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Join the answers for several blocks of rows."""
        names = [each.name for each in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Classifier:
    """Hold forests, one per fold of the labeled sources, with their calibrations.

    The forest of a fold has not seen the fold's sources. A labeled source, whose key is among
    `known` (m,), sorted, is judged by the forest of its fold, `fold_of` (m,), so that no source
    votes on itself; any other source by the mean of all forests. `densities` belong to the same
    folds. `features` and `groups` name the features in the order of the columns of the forests. The
    classifier is valid only for latents by the model `model_id`.
    """

    model_id: str
    classes: tuple[str, ...]
    context: Context
    features: tuple[str, ...]
    groups: tuple[str, ...]
    forests: tuple[Forest, ...]
    densities: tuple[ClassDensities, ...]
    known: IntArray
    fold_of: npt.NDArray[np.int32]
    detections: Judgement
    sources: Judgement

    @property
    def latents(self) -> int:
        """Return the number of latents of the densities."""
        return int(self.densities[0].means.shape[1])

    def raw(self, features: Features, z: FloatArray, sources: IntArray) -> Raw:
        """Ask the forests and densities about rows: features, latents (n, k), keys (n,)."""
        return ask(
            self.forests, self.densities, features.select(self.features), z, self.folds_of(sources)
        )

    def folds_of(self, sources: IntArray) -> IntArray:
        """Return the fold of each source (n,), -1 for those that were not among the labeled."""
        place = np.searchsorted(self.known, sources).clip(max=max(len(self.known) - 1, 0))
        found = self.known[place] == sources
        return np.where(found, self.fold_of[place], -1).astype(np.int64)


def ask(
    forests: tuple[Forest, ...],
    densities: tuple[ClassDensities, ...],
    features: Features,
    z: FloatArray,
    fold: IntArray,
) -> Raw:
    """Ask the forest of each row's `fold` (n,), or all of them where it is -1."""
    group = np.array([GROUPS.index(name) for name in features.groups], dtype=np.int64)
    n, classes = len(features.values), forests[0].classes
    votes, added = np.zeros((n, classes)), np.zeros((n, len(GROUPS), classes))
    strange, asked = np.zeros(n), np.zeros(n)
    for number, (forest, density) in enumerate(zip(forests, densities, strict=True)):
        rows = np.flatnonzero((fold == number) | (fold == -1))
        if not len(rows):
            continue
        shares, more = forest.explain(features.values[rows], group, len(GROUPS))
        votes[rows] += shares
        added[rows] += more
        strange[rows] += strangeness(density.log_densities(z[rows]), shares)
        asked[rows] += 1
    return Raw(votes / asked[:, None], added / asked[:, None, None], strange / asked)


def judge(judgement: Judgement, raw: Raw, prior: FloatArray, coverage: float) -> Answers:
    """Calibrate the answers of the forests.

    `prior` (classes,) are the class shares of the population for which the probabilities hold.
    """
    labeled = judgement.calibration.apply(raw.votes)
    n, classes = labeled.shape
    equal = judgement.calibration.for_shares(labeled, np.full(classes, 1 / classes))
    best = equal.argmax(axis=1)
    p_values = judgement.conformal.p_values(nonconformity(labeled))
    return Answers(
        probabilities=judgement.calibration.for_shares(labeled, prior),
        best=best,
        in_set=p_values > 1 - coverage,
        unlike_p=judgement.strange.p_values(raw.strange),
        rests_on=shares_of_groups(raw.added[np.arange(n), :, best]),
    )


def shares_of_groups(added: FloatArray) -> FloatArray:
    """Return the share of each group of features in what speaks for a class, (n, groups).

    `added` (n, groups) is what the groups added to the votes for the class. A group that speaks
    against the class has the share 0; if no group speaks for it, all shares are 0.
    """
    support = np.maximum(added, 0.0)
    total = support.sum(axis=1, keepdims=True)
    return np.divide(support, total, out=np.zeros_like(support), where=total > 0)
