"""Place latents on a plane, and measure how many neighbors a plane keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

from raypipe.evaluation.validation import fitting_threads, on_one_scale

Floats = npt.NDArray[np.float64]

LANDMARKS = 6_000
"""Most detections that t-SNE places itself; the others follow their nearest landmarks."""

NEIGHBORS = 15
"""Number of nearest neighbors in the share of kept ones."""

_TSNE_FEWEST = 50
_TSNE_STEPS = 500
_JUDGED = 2_000
_FOLLOWED = 3
_CHUNK = 100_000


@dataclass(frozen=True)
class LatentMap:
    """Hold a map of latents.

    `places` (n, 2); `method` says how it was made; `kept` is the share of the 15 nearest neighbors
    in latent space that are among the 15 nearest on the map, NaN for too few detections. `carry`
    maps latents (m, k) to their places (m, 2).
    """

    name: str
    method: str
    places: Floats
    kept: float
    carry: Callable[[Floats], Floats]

    def ellipses(self, z: Floats, covariance: Floats) -> Floats:
        """Carry posteriors of mean `z` (n, k) and `covariance` (n, k, k) to the map, (n, 3).

        Returns the variance of x, the covariance and the variance of y, NaN where unknown, by the
        unscented transform: Julier and Uhlmann 2004, Proc. IEEE 92, 401. The 2 k points z +-
        sqrt(k) L_j, where L_j are the columns of a factor L with L L^T = covariance, have the mean
        and the covariance of the posterior. Mean and covariance of their places approximate those
        of the posterior on the map, and are exact on a linear map.
        """
        latents = z.shape[1]
        known = np.asarray(np.isfinite(covariance).all(axis=(1, 2)))
        values, vectors = np.linalg.eigh(np.where(known[:, None, None], covariance, 0.0))
        # This factor exists even if rounding made an eigenvalue negative.
        factors = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        steps = np.sqrt(latents) * np.swapaxes(factors, 1, 2)
        points = np.concatenate([z[:, None] + steps, z[:, None] - steps], axis=1)
        places = self.carry(points.reshape(-1, latents)).reshape(len(z), 2 * latents, 2)
        off = places - places.mean(axis=1, keepdims=True)
        on_map = np.einsum("nsi,nsj->nij", off, off) / (2 * latents)
        on_map[~known] = np.nan
        return np.stack([on_map[:, 0, 0], on_map[:, 0, 1], on_map[:, 1, 1]], axis=1)


def make_maps(z: Floats, seed: int) -> list[LatentMap]:
    """Make maps of latents `z` (n, k), the one that keeps most neighbors first.

    The maps are principal components and, for at least 50 detections, t-SNE. There is no map for
    fewer than three detections or fewer than two latents.
    """
    if len(z) < 3 or z.shape[1] < 2:
        return []
    maps = [_principal(z, seed)]
    if len(z) >= _TSNE_FEWEST:
        maps.append(_tsne(z, seed))
    return sorted(maps, key=lambda each: -np.nan_to_num(each.kept))


def kept_neighbors(z: Floats, places: Floats, seed: int) -> float:
    """Return the share of the nearest neighbors in `z` (n, k) that `places` (n, 2) keep.

    It is the mean over 2,000 detections drawn at random, each compared with all; NaN for fewer than
    twice as many detections as neighbors, where chance alone keeps many.
    """
    if len(z) < 2 * NEIGHBORS:
        return float("nan")
    judged = np.random.default_rng(seed).permutation(len(z))[:_JUDGED]
    before, after = (_nearest(points, judged) for points in (z, places))
    both = [len(np.intersect1d(a, b)) for a, b in zip(before, after, strict=True)]
    return float(np.mean(both) / NEIGHBORS)


def _nearest(points: Floats, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the nearest neighbors of rows without the rows themselves, (rows, NEIGHBORS)."""
    found = (
        NearestNeighbors(n_neighbors=NEIGHBORS + 1)
        .fit(points)
        .kneighbors(points[rows], return_distance=False)
    )
    # Where points coincide, a row need not be its own first neighbor: leave it out by its number.
    order = np.argsort(found == rows[:, None], axis=1, kind="stable")
    return np.asarray(np.take_along_axis(found, order, axis=1)[:, :NEIGHBORS])


def _principal(z: Floats, seed: int) -> LatentMap:
    fitted = PCA(2, random_state=seed).fit(z)
    places = fitted.transform(z)
    share = fitted.explained_variance_ratio_.sum()
    method = f"first two principal components of the latents, {share:.0%} of their variance"
    return LatentMap("PCA", method, places, kept_neighbors(z, places, seed), fitted.transform)


def _tsne(z: Floats, seed: int) -> LatentMap:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(z))[:LANDMARKS])
    with fitting_threads(len(chosen)):
        placed = TSNE(2, init="pca", max_iter=_TSNE_STEPS, random_state=seed).fit_transform(
            on_one_scale(z)[chosen]
        )
    follow = KNeighborsRegressor(min(_FOLLOWED, len(chosen)), weights="distance")
    follow.fit(z[chosen], placed.astype(np.float64))

    def carry(points: Floats) -> Floats:
        pieces = range(0, len(points), _CHUNK)
        return np.concatenate([follow.predict(points[i : i + _CHUNK]) for i in pieces])

    method = "t-SNE of the latents"
    if len(chosen) < len(z):
        method += (
            f" of {len(chosen):,} detections drawn at random; each other one is at the mean of its "
            f"{_FOLLOWED} nearest of these, weighted by inverse distance"
        )
    places = carry(z)
    return LatentMap("t-SNE", method, places, kept_neighbors(z, places, seed), carry)
