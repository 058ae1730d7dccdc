"""Place latents on a plane, and measure how many neighbors a plane keeps."""

from __future__ import annotations

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

    `places` (n, 2); `ellipses` (n, 3): variance of x, covariance, variance of y of the posterior on
    the map, NaN where unknown; `method` says how it was made; `kept` is the share of the 15 nearest
    neighbors in latent space that are among the 15 nearest on the map, NaN for too few detections.
    """

    name: str
    method: str
    places: Floats
    ellipses: Floats
    kept: float


def make_maps(z: Floats, covariance: Floats, seed: int) -> list[LatentMap]:
    """Make maps of latents `z` (n, k) with covariances (n, k, k), the best at neighbors first.

    They are principal components, and t-SNE if there are at least 50 detections. Returns no map for
    fewer than three detections or fewer than two latents.
    """
    if len(z) < 3 or z.shape[1] < 2:
        return []
    maps = [_principal(z, covariance, seed)]
    if len(z) >= _TSNE_FEWEST:
        maps.append(_tsne(z, covariance, seed))
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


def _principal(z: Floats, covariance: Floats, seed: int) -> LatentMap:
    fitted = PCA(2, random_state=seed).fit(z)
    places, axes = fitted.transform(z), fitted.components_
    # Under a linear map x = A z, the covariance becomes A C A^T.
    on_map = np.einsum("ij,njk,lk->nil", axes, covariance, axes)
    share = fitted.explained_variance_ratio_.sum()
    method = f"first two principal components of the latents, {share:.0%} of their variance"
    return LatentMap("PCA", method, places, _three(on_map), kept_neighbors(z, places, seed))


def _tsne(z: Floats, covariance: Floats, seed: int) -> LatentMap:
    scaled = on_one_scale(z)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(z))[:LANDMARKS])
    with fitting_threads(len(chosen)):
        placed = TSNE(2, init="pca", max_iter=_TSNE_STEPS, random_state=seed).fit_transform(
            scaled[chosen]
        )
    follow = KNeighborsRegressor(min(_FOLLOWED, len(chosen)), weights="distance")
    follow.fit(scaled[chosen], placed.astype(np.float64))
    places = _in_chunks(follow, scaled)
    method = "t-SNE of the latents"
    if len(chosen) < len(z):
        method += (
            f" of {len(chosen):,} detections drawn at random; each other one is at the mean of its "
            f"{_FOLLOWED} nearest of these, weighted by inverse distance"
        )
    # The scale is one number: it is how much shorter the scaled latents are than the centered ones.
    spread = np.sqrt(((z - z.mean(axis=0)) ** 2).mean())
    ellipses = _followed(follow, scaled, covariance / (spread if spread > 0 else 1.0) ** 2)
    return LatentMap("t-SNE", method, places, ellipses, kept_neighbors(z, places, seed))


def _followed(follow: KNeighborsRegressor, z: Floats, covariance: Floats) -> Floats:
    """Carry posteriors to a map that is not linear by the unscented transform, (n, 3).

    Julier and Uhlmann 2004, Proc. IEEE 92, 401: the 2 k points z +- sqrt(k) L_j, where L_j are the
    columns of the covariance's Cholesky factor, have the posterior's mean and covariance; those of
    their places on the map approximate the posterior's there.
    """
    latents = z.shape[1]
    values, vectors = np.linalg.eigh(np.nan_to_num(covariance))
    # Any factor with L L^T = C will do; this one exists even if rounding made an eigenvalue
    # negative.
    factors = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    steps = np.sqrt(latents) * np.swapaxes(factors, 1, 2)
    points = np.concatenate([z[:, None] + steps, z[:, None] - steps], axis=1)
    places = _in_chunks(follow, points.reshape(-1, latents)).reshape(len(z), 2 * latents, 2)
    off = places - places.mean(axis=1, keepdims=True)
    on_map = np.einsum("nsi,nsj->nij", off, off) / (2 * latents)
    on_map[~np.isfinite(covariance).all(axis=(1, 2))] = np.nan
    return _three(on_map)


def _in_chunks(follow: KNeighborsRegressor, points: Floats) -> Floats:
    pieces = range(0, len(points), _CHUNK)
    return np.concatenate([follow.predict(points[i : i + _CHUNK]) for i in pieces])


def _three(matrices: Floats) -> Floats:
    return np.stack([matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]], axis=1)
