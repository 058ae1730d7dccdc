"""Find clusters among the members of a catalog, and assign every row to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.clustering.members import Members, Space
from raypipe.config import ClusterConfig
from raypipe.errors import UsageError
from raypipe.latents.deconvolution import (
    ROWS_PER_COMPONENT,
    Likelihoods,
    choose_mixture,
    fit_mixture,
)
from raypipe.latents.look_alikes import graph_clusters

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST_ROWS = 2 * ROWS_PER_COMPONENT
"""Fewest rows with latents among which clusters are looked for."""


@dataclass(frozen=True)
class Found:
    """Hold the probability of each cluster for detections (n, k) and sources (s, k).

    No cluster is empty: each is the most probable one of at least one detection.
    """

    detections: FloatArray
    sources: FloatArray

    @property
    def clusters(self) -> int:
        """Return the number of clusters."""
        return int(self.detections.shape[1])


class TooFewRowsError(UsageError):
    """Report that a catalog has too few detections with latents to find clusters."""


def require_rows(rows: int, config: ClusterConfig, where: str) -> None:
    """Raise UsageError if there are too few rows with latents for the clusters asked for."""
    if rows < LEAST_ROWS:
        raise TooFewRowsError(
            f"{where}: {rows} detections have latents; clusters need {LEAST_ROWS}"
        )
    most = min(rows, config.fit_rows) // ROWS_PER_COMPONENT
    if config.method == "mixture" and config.clusters is not None and config.clusters > most:
        raise UsageError(
            f"--clusters {config.clusters}: {where} has {rows} detections with latents; at most "
            f"{most} clusters can be fitted to {min(rows, config.fit_rows)} of them "
            f"({ROWS_PER_COMPONENT} detections per cluster)"
        )


def find_clusters(
    space: Space, detections: Members, sources: Members, config: ClusterConfig
) -> Found:
    """Find clusters of detections without their classes, and assign detections and sources."""
    if config.method == "graph":
        found = _communities(detections, sources, config)
    else:
        found = _mixture(space, detections, sources, config)
    used = np.unique(found.detections.argmax(axis=1))
    return Found(_scaled(found.detections[:, used]), _scaled(found.sources[:, used]))


def draw(rows: int, wanted: int, seed: int) -> IntArray:
    """Draw `wanted` of n rows at random, in order; all if there are no more."""
    if rows <= wanted:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:wanted])


def _mixture(space: Space, detections: Members, sources: Members, config: ClusterConfig) -> Found:
    fitted = _likelihoods(
        space, detections.take(draw(len(detections), config.fit_rows, config.seed))
    )
    if config.clusters is None:
        mixture = choose_mixture(fitted, config.most_clusters, config.seed, config.starts)
    else:
        mixture = fit_mixture(fitted, config.clusters, config.seed, config.starts)

    def assign(members: Members) -> FloatArray:
        blocks = [mixture.responsibilities(_likelihoods(space, some)) for some in members.blocks()]
        return np.concatenate(blocks)

    return Found(assign(detections), assign(sources))


def _communities(detections: Members, sources: Members, config: ClusterConfig) -> Found:
    """Find communities of all detections; a source has the mean shares of its detections.

    Neighbors are found among latents and not among flux shapes, because on a simulated population
    the communities then agreed better with classes.
    """
    shares = graph_clusters(detections.z, detections.sources, config.resolution, config.seed)
    keys, inverse = np.unique(detections.sources, return_inverse=True)
    sums = np.zeros((len(keys), shares.shape[1]))
    np.add.at(sums, inverse, shares)
    return Found(shares, sums[np.searchsorted(keys, sources.sources)])


def _likelihoods(space: Space, members: Members) -> Likelihoods:
    return Likelihoods.of_measurements(space.values(members), space.covariance(members))


def _scaled(shares: FloatArray) -> FloatArray:
    """Divide by the sum over the clusters, (n, k)."""
    return np.asarray(shares / shares.sum(axis=1, keepdims=True).clip(1e-300))
