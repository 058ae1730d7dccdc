"""The population a model was trained on: how dense each place of latent space is, and with whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

FloatArray = npt.NDArray[np.float64]

_COMPONENTS = 16
_ROWS_PER_COMPONENT = 40
_FIT_ROWS = 50_000
_NEIGHBORS = 30


@dataclass(frozen=True)
class Population:
    """A Gaussian mixture over the training latents, and labelled training latents.

    `weights` (m,), `means` (m, latents), `precisions_cholesky` (m, latents, latents);
    `reference_z` (r, latents) with `reference_class` (r,), indices into `classes`, and
    `reference_source` (r,), keys of their sources (`raypipe.model.split.source_keys`).
    """

    weights: FloatArray
    means: FloatArray
    precisions_cholesky: FloatArray
    reference_z: FloatArray
    reference_class: npt.NDArray[np.int64]
    reference_source: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.reference_z)

    @classmethod
    def fit(
        cls,
        z: FloatArray,
        labels: npt.NDArray[np.object_],
        sources: npt.NDArray[np.int64],
        references: int,
        seed: int,
    ) -> Population:
        """Fit to training latents (n, latents).

        `labels` (n,) hold a class name or None, `sources` (n,) the keys of the rows' sources; at
        most `references` labelled rows are kept.
        """
        rng = np.random.default_rng(seed)
        sample = z[rng.permutation(len(z))[:_FIT_ROWS]]
        components = int(np.clip(len(sample) // _ROWS_PER_COMPONENT, 1, _COMPONENTS))
        mixture = GaussianMixture(components, reg_covar=1e-3, random_state=seed).fit(sample)
        labelled = np.array([i for i, label in enumerate(labels) if label], dtype=np.int64)
        labelled = np.sort(rng.permutation(labelled)[:references])
        names = [str(labels[i]) for i in labelled]
        classes = tuple(sorted(set(names)))
        index = {name: i for i, name in enumerate(classes)}
        return cls(
            weights=mixture.weights_,
            means=mixture.means_,
            precisions_cholesky=mixture.precisions_cholesky_,
            reference_z=z[labelled],
            reference_class=np.array([index[name] for name in names], dtype=np.int64),
            reference_source=sources[labelled],
            classes=classes,
        )

    def anomaly_score(self, z: FloatArray) -> FloatArray:
        """Minus the log density of the training population at `z` (n, latents); (n,), nats."""
        whitened = np.einsum("nml,mlk->nmk", z[:, None] - self.means, self.precisions_cholesky)
        log_det = np.log(np.diagonal(self.precisions_cholesky, axis1=1, axis2=2)).sum(-1)
        log_parts = (
            np.log(self.weights)
            + log_det
            - 0.5 * (whitened**2).sum(-1)
            - 0.5 * z.shape[1] * np.log(2 * np.pi)
        )
        return np.asarray(-logsumexp(log_parts, axis=1))

    def class_probabilities(
        self, z: FloatArray, sources: npt.NDArray[np.int64] | None = None
    ) -> FloatArray:
        """Share of each class, (n, classes), among the nearest labelled training latents.

        Neighbors count in inverse proportion to how often their class was in training, so that
        every class starts equal. Where `sources` (n,) are given, a source's own training
        detections have no vote on it.
        """
        n_classes = len(self.classes)
        if n_classes == 0:
            return np.zeros((len(z), 0))
        neighbors = min(_NEIGHBORS, len(self.reference_z))
        _, index = self._tree.query(z, k=neighbors)
        index = index.reshape(len(z), neighbors)
        frequency = np.bincount(self.reference_class, minlength=n_classes) / len(self.reference_z)
        votes = (1.0 / frequency)[self.reference_class[index]]
        if sources is not None:
            votes = np.where(self.reference_source[index] == sources[:, None], 0.0, votes)
        shares = np.full((len(z), n_classes), 1.0 / n_classes)
        np.add.at(shares, (np.arange(len(z))[:, None], self.reference_class[index]), votes)
        return np.asarray(shares / shares.sum(1, keepdims=True))
