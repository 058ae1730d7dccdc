"""Describe the population of the training spectra: the density of latents, and their classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from raypipe.config import ClassScheme
from raypipe.model.class_density import ComponentClasses

FloatArray = npt.NDArray[np.float64]

_COMPONENTS = 16
"""Most components of the mixture."""
_ROWS_PER_COMPONENT = 40
"""Fewest spectra per component: more than the 36 elements of a covariance of 8 latents."""
_FIT_ROWS = 50_000
"""Most spectra for the fit of the mixture: 3,000 per component."""
_RIDGE = 1e-3
"""Added to variances, which are 1 for all latents together, so that no component collapses."""
_NEIGHBORS = 30
"""Neighbors that vote on a class; the temperature calibrates their votes."""
_TEMPERATURES = 0.2, 5.0
"""Range in which the temperature is searched."""
_JUDGED_MEMBERS = 10
"""Fewest labeled members with which a class takes part in calibration and cross-validation."""


@dataclass(frozen=True)
class Population:
    """Hold a Gaussian mixture over the training latents, and the labeled training latents.

    `weights` (m,), `means` (m, latents), `precisions_cholesky` (m, latents, latents);
    `reference_z` (r, latents) with `reference_class` (r,), indices into `classes`, and
    `reference_source` (r,), keys of their sources (`raypipe.identity.source_keys`);
    `reference_names` (r,) the names of these, empty for models that were saved without them.
    `temperature` makes probabilities of classes sharper (below one) or flatter.
    """

    weights: FloatArray
    means: FloatArray
    precisions_cholesky: FloatArray
    reference_z: FloatArray
    reference_class: npt.NDArray[np.int64]
    reference_source: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    temperature: float = 1.0
    reference_names: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        z: FloatArray,
        labels: npt.NDArray[np.object_],
        sources: npt.NDArray[np.int64],
        references: int,
        seed: int,
        names: npt.ArrayLike | None = None,
    ) -> Population:
        """Fit the mixture to training latents (n, latents), and keep labeled ones.

        `labels` (n,) are class names or None, `sources` (n,) the keys of the rows' sources; at most
        `references` labeled rows are kept, with the `names` (n,) of their sources if these are
        given.
        """
        from sklearn.mixture import GaussianMixture

        rng = np.random.default_rng(seed)
        sample = z[rng.permutation(len(z))[:_FIT_ROWS]]
        components = int(np.clip(len(sample) // _ROWS_PER_COMPONENT, 1, _COMPONENTS))
        mixture = GaussianMixture(components, reg_covar=_RIDGE, random_state=seed).fit(sample)
        labeled = np.array([i for i, label in enumerate(labels) if label], dtype=np.int64)
        labeled = np.sort(rng.permutation(labeled)[:references])
        of_class = [str(labels[i]) for i in labeled]
        classes = tuple(sorted(set(of_class)))
        index = {name: i for i, name in enumerate(classes)}
        return cls(
            weights=mixture.weights_,
            means=mixture.means_,
            precisions_cholesky=mixture.precisions_cholesky_,
            reference_z=z[labeled],
            reference_class=np.array([index[name] for name in of_class], dtype=np.int64),
            reference_source=sources[labeled],
            classes=classes,
            reference_names=() if names is None else tuple(map(str, np.asarray(names)[labeled])),
        ).calibrated()

    def anomaly_score(self, z: FloatArray) -> FloatArray:
        """Compute minus the log density of the population at `z` (n, latents); (n,), in nats."""
        return np.asarray(-logsumexp(self._log_parts(z), axis=1))

    def _log_parts(self, z: FloatArray) -> FloatArray:
        """Compute the log of weight times normal density per component, (n, m)."""
        # With precision P = L L^T: (z - m)^T P (z - m) = |(z - m) L|^2 and ln|P| / 2 = sum ln L_ii.
        whitened = np.einsum("nml,mlk->nmk", z[:, None] - self.means, self.precisions_cholesky)
        log_det = np.log(np.diagonal(self.precisions_cholesky, axis1=1, axis2=2)).sum(-1)
        norm = 0.5 * z.shape[1] * np.log(2 * np.pi)
        return np.asarray(np.log(self.weights) + log_det - 0.5 * (whitened**2).sum(-1) - norm)

    def class_probabilities(
        self,
        z: FloatArray,
        sources: npt.NDArray[np.int64] | None = None,
        scheme: ClassScheme = "neighbors",
    ) -> FloatArray:
        """Compute the probability of each class, (n, classes), for equal prior probabilities.

        Rows whose latents are not finite have NaN. If `sources` (n,) are given, the training
        detections of a source have no vote on it. Schemes: "neighbors" takes the votes of the
        nearest labeled training latents, sharpened by `temperature`; "density" is that of
        `raypipe.model.class_density`, which does not exclude the source itself.
        """
        if not self.classes:
            return np.zeros((len(z), 0))
        known = np.isfinite(z).all(axis=1)
        if not known.all():
            shares = np.full((len(z), len(self.classes)), np.nan)
            own = None if sources is None else sources[known]
            shares[known] = self.class_probabilities(z[known], own, scheme)
            return shares
        if scheme == "density":
            return self._densities.class_probabilities(z)
        return sharpened(self._votes(z, sources), self.temperature)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.reference_z)

    @cached_property
    def _densities(self) -> ComponentClasses:
        component = self.components(self.reference_z)
        return ComponentClasses.of(
            self.reference_z, self.reference_class, component, len(self.classes), self.components
        )

    def components(self, z: FloatArray) -> npt.NDArray[np.int64]:
        """Return the most probable component of the mixture for each of `z` (n, latents), (n,)."""
        return np.asarray(self._log_parts(z).argmax(axis=1), dtype=np.int64)

    def _votes(self, z: FloatArray, sources: npt.NDArray[np.int64] | None) -> FloatArray:
        """Compute the share of each class among the nearest references, over its frequency."""
        n_classes = len(self.classes)
        neighbors = min(_NEIGHBORS, len(self.reference_z))
        _, index = self._tree.query(z, k=neighbors)
        index = index.reshape(len(z), neighbors)
        frequency = np.bincount(self.reference_class, minlength=n_classes) / len(self.reference_z)
        votes = (1.0 / frequency)[self.reference_class[index]]
        if sources is not None:
            votes = np.where(self.reference_source[index] == sources[:, None], 0.0, votes)
        # Sum the votes of each row and class in one pass: number the cells of (n, classes).
        cell = np.arange(len(z))[:, None] * n_classes + self.reference_class[index]
        sums = np.bincount(cell.ravel(), votes.ravel(), minlength=len(z) * n_classes)
        # A weight of 1, at most that of one vote, is spread over the classes: none has zero.
        shares = sums.reshape(len(z), n_classes) + 1.0 / n_classes
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def calibrated(self) -> Population:
        """Choose the temperature that minimizes the Brier score of the references.

        The score is the mean squared difference of probabilities and truth (Brier 1950, Monthly
        Weather Review 78, 1). Every class has the same weight; those with few members are left out.
        Only references of other sources vote on each.
        """
        counts = np.bincount(self.reference_class, minlength=len(self.classes))
        judged = counts >= _JUDGED_MEMBERS
        if judged.sum() < 2:
            return self
        votes = self._votes(self.reference_z, self.reference_source)
        # Each row weighs 1 / (members of its class), so that every class has the same weight.
        weights = (judged / counts.clip(1))[self.reference_class]
        truth = np.eye(len(self.classes))[self.reference_class]

        def loss(log_temperature: float) -> float:
            shares = sharpened(votes, float(np.exp(log_temperature)))
            return float(np.average(((shares - truth) ** 2).sum(axis=1), weights=weights))

        from scipy.optimize import minimize_scalar

        best = minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
        return replace(self, temperature=float(np.exp(best.x)))

    def balanced_accuracy(self) -> float | None:
        """Cross-validate the most probable class on the labeled training latents.

        Each is judged by the votes of other sources alone. Returns the mean recall of the classes
        that have enough members, None if there are fewer than two such classes.
        """
        counts = np.bincount(self.reference_class, minlength=len(self.classes))
        judged = counts >= _JUDGED_MEMBERS
        if judged.sum() < 2:
            return None
        votes = self._votes(self.reference_z, self.reference_source)
        right = votes.argmax(axis=1) == self.reference_class
        recalls = np.bincount(self.reference_class, right, len(counts))[judged] / counts[judged]
        return float(recalls.mean())


def sharpened(shares: FloatArray, temperature: float) -> FloatArray:
    """Raise shares (n, classes) to the power 1 / temperature, and normalize their sum to 1."""
    powers = shares ** (1.0 / temperature)
    return np.asarray(powers / powers.sum(1, keepdims=True))
