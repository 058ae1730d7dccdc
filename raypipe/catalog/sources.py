"""Combine the latents of the detections of a source, and test whether they agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from raypipe.model.covariance import inverses

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MIN_INFORMATION = 1.0
"""Least information about a direction of latent space, in units of the prior's, to compare it."""


@dataclass(frozen=True)
class Combined:
    """Hold the latents of sources, combined from all their detections.

    `z`, `z_err`, `z_std` (s, k) and `z_cov` (s, k, k) mean the same as for a detection. `chi2`,
    `dof` and `p_value` (s,) test the hypothesis that all detections have the same latents; they are
    NaN, 0 and NaN if there is nothing to compare. `used` (n,) tells which detections have latents;
    sources without such a detection are NaN.
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
    """Combine the latents of detections; those of a source are contiguous from `starts` (s,).

    `z` (n, k) are the most probable latents and `z_cov` (n, k, k) their covariance. Both include
    the prior, a unit normal. The likelihood alone has the information F = z_cov^-1 - 1 and the
    maximum zhat with F zhat = z_cov^-1 z. Both are summed over the detections of a source, and the
    prior is added once: z = (1 + sum F)^-1 sum F zhat. Detections whose latents or covariance are
    not finite, or whose covariance is singular, are not used.
    """
    information, score, used = _likelihood(z, z_cov)
    # Posterior covariance C = (1 + sum F)^-1, posterior mean C sum(F zhat). Over repetitions of the
    # observations, the mean scatters with C (sum F) C, because sum(F zhat) scatters with sum F.
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


def _likelihood(
    z: FloatArray, z_cov: FloatArray
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Remove the prior: return information F (n, k, k), F times latents (n, k), and use (n,).

    Detections that are not used have zeros.
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
    """Return chi squared of detections about their source's latents, and degrees of freedom.

    Only those directions of a detection are compared in which it has more information than the
    prior, because its estimate is about normal only there. Sources of one detection have no degrees
    of freedom.
    """
    n = len(score)
    sizes = np.diff(np.append(starts, n))
    rows = np.flatnonzero(np.repeat(sizes > 1, sizes))
    statistic, dof = np.zeros(len(starts)), np.zeros(len(starts), np.int64)
    if not len(rows):
        return statistic, dof
    # Per detection, keep the eigenvectors of F with enough information: F' and s' = F' zhat.
    values, vectors = np.linalg.eigh(information[rows])
    informed = values > _MIN_INFORMATION
    values = np.where(informed, values, 0.0)
    along = np.einsum("nij,ni->nj", vectors, score[rows])
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=informed)
    kept = np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
    kept_score = np.einsum("nij,nj->ni", vectors, np.where(informed, along, 0.0))
    # Per source, the common latents that minimize chi squared: best = (sum F')^+ sum s', with the
    # pseudo-inverse over the directions that any detection informs.
    own = np.concatenate([[0], np.cumsum(sizes[sizes > 1])[:-1]])
    total, together = np.add.reduceat(kept, own), np.add.reduceat(kept_score, own)
    total_values, total_vectors = np.linalg.eigh(total)
    known = total_values > 0.5 * _MIN_INFORMATION
    weights = np.divide(1.0, total_values, out=np.zeros_like(total_values), where=known)
    best = np.einsum(
        "sij,sj,sj->si", total_vectors, weights, np.einsum("sij,si->sj", total_vectors, together)
    )
    # chi^2 = sum (zhat - best)^T F' (zhat - best) = sum zhat^T s' - best^T sum s'.
    separate = np.add.reduceat((along**2 * inverse).sum(1), own)
    several = np.flatnonzero(sizes > 1)
    statistic[several] = np.maximum(separate - (together * best).sum(1), 0.0)
    # Each informed direction of a detection is a measurement, each known one of the source a fit.
    dof[several] = np.add.reduceat(informed.sum(1), own) - known.sum(1)
    return statistic, dof


def _deviations(covariance: FloatArray) -> FloatArray:
    return np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).clip(0.0))
