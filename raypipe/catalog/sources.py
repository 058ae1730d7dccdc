"""From the detections of a source to the source: combined latents, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from raypipe.model.covariance import inverses

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_TOLD = 1.0
"""Information about a direction of latent space, in units of the prior's, that counts as told."""


@dataclass(frozen=True)
class Combined:
    """Latents of sources, from all their detections.

    `z`, `z_err`, `z_std` (s, latents) and `z_cov` (s, latents, latents) as those of a detection;
    `chi2`, `dof` and `p_value` (s,) of the hypothesis that all detections have the same latents,
    NaN, 0 and NaN where there is nothing to compare. `used` (n,) says which detections had latents
    to combine; sources without any are NaN throughout.
    """

    z: FloatArray
    z_err: FloatArray
    z_std: FloatArray
    z_cov: FloatArray
    chi2: FloatArray
    dof: IntArray
    p_value: FloatArray
    used: npt.NDArray[np.bool_]


def combine(z: FloatArray, z_cov: FloatArray, starts: IntArray) -> Combined:
    """Combine the latents of detections; those of a source follow each other from `starts` (s,).

    `z` (n, k) are the most probable latents and `z_cov` (n, k, k) their covariance, both with the
    prior, a unit normal: the counts alone say F = z_cov^-1 - 1 and F zhat = z_cov^-1 z. The sums
    of these are what all detections say together: each counts by the inverse of its variance, and
    the prior enters once. A detection whose latents or covariance are not finite, or whose
    covariance is singular, says nothing.
    """
    information, score, used = _say(z, z_cov)
    total, together = (np.add.reduceat(each, starts) for each in (information, score))
    covariance = inverses(total + np.eye(z.shape[1]))
    covariance[np.add.reduceat(used.astype(np.int64), starts) == 0] = np.nan
    combined = np.einsum("sij,sj->si", covariance, together)
    repeated: FloatArray = np.einsum("sij,sjk,skl->sil", covariance, total, covariance)
    statistic, dof = _disagreement(information, score, starts)
    return Combined(
        z=combined,
        z_err=_deviations(repeated),
        z_std=_deviations(covariance),
        z_cov=covariance,
        chi2=np.where(dof > 0, statistic, np.nan),
        dof=dof,
        p_value=np.where(dof > 0, chi2.sf(statistic, np.maximum(dof, 1)), np.nan),
        used=used,
    )


def _say(z: FloatArray, z_cov: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """What the counts alone say: information (n, k, k), and information times latents (n, k).

    Both are zero for detections that say nothing, and the last (n,) is false.
    """
    precision = inverses(z_cov)
    score = np.einsum("nij,nj->ni", precision, z)
    used = np.isfinite(precision).all(axis=(1, 2)) & np.isfinite(score).all(axis=1)
    information = precision - np.eye(z.shape[1])
    return (
        np.where(used[:, None, None], information, 0.0),
        np.where(used[:, None], score, 0.0),
        used,
    )


def _disagreement(
    information: FloatArray, score: FloatArray, starts: IntArray
) -> tuple[FloatArray, IntArray]:
    """Chi squared of the detections about their source's best latents, and degrees of freedom.

    Only directions in which a detection says more than the prior are compared: there its estimate
    is normal. Sources of one detection have none.
    """
    n = len(score)
    sizes = np.diff(np.append(starts, n))
    rows = np.flatnonzero(np.repeat(sizes > 1, sizes))
    statistic, dof = np.zeros(len(starts)), np.zeros(len(starts), np.int64)
    if not len(rows):
        return statistic, dof
    values, vectors = np.linalg.eigh(information[rows])
    told = values > _TOLD
    values = np.where(told, values, 0.0)
    along = np.einsum("nij,ni->nj", vectors, score[rows])
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=told)
    kept = np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
    kept_score = np.einsum("nij,nj->ni", vectors, np.where(told, along, 0.0))
    own = np.concatenate([[0], np.cumsum(sizes[sizes > 1])[:-1]])
    total, together = np.add.reduceat(kept, own), np.add.reduceat(kept_score, own)
    total_values, total_vectors = np.linalg.eigh(total)
    known = total_values > 0.5 * _TOLD
    weights = np.divide(1.0, total_values, out=np.zeros_like(total_values), where=known)
    best = np.einsum(
        "sij,sj,sj->si", total_vectors, weights, np.einsum("sij,si->sj", total_vectors, together)
    )
    separate = np.add.reduceat((along**2 * inverse).sum(1), own)
    several = np.flatnonzero(sizes > 1)
    statistic[several] = np.maximum(separate - (together * best).sum(1), 0.0)
    dof[several] = np.add.reduceat(told.sum(1), own) - known.sum(1)
    return statistic, dof


def _deviations(covariance: FloatArray) -> FloatArray:
    return np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).clip(0.0))
