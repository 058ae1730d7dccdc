"""Measure how unusual detections are: far from the population in latent space, or badly fit.

Both are significances: standard deviations (sigmas) of a normal distribution with the same tail
probability. They account for noise, so that a faint detection, whose few counts prove little, does
not rank high. Search and report both use them, in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import gammaincc, log_ndtr, ndtri, ndtri_exp

from raypipe.model.covariance import triangles_in
from raypipe.model.latent_population import Population
from raypipe.searching.batched_gaussians import Float64, Posteriors, Rows, log_determinant_and_chi2

FAR, BADLY_FIT = "far", "badly fit"
"""The two rankings: by the place of the latents, and by the fit of the counts."""

RANKINGS = {
    FAR: "latents far from those of the training spectra",
    BADLY_FIT: "counts that the model does not reproduce",
}
"""Meaning of each ranking."""

UNUSUAL_CHANCE = 0.01
"""A detection is unusual if noise alone makes one like it in fewer than 1 of 100 catalogs."""

_LEAST_CHANCE = 1e-6
"""Smallest chance that is worth its digits."""

MOST_SIGMAS = 37.0
"""Largest value reported: beyond it the tail probability underflows in double precision."""


@dataclass(frozen=True)
class Significances:
    """Hold the significances of the n detections of a catalog in one ranking; NaN if unknown."""

    ranking: str
    sigmas: Float64

    @property
    def searched(self) -> int:
        """Return the number of detections that have a significance."""
        return int(np.isfinite(self.sigmas).sum())

    @property
    def chance(self) -> Float64:
        """Compute the probability that noise makes at least one of all this unusual, (n,)."""
        # The tail probability p of one detection is 1 - Phi(sigmas). That none of N independent
        # detections reaches it has probability (1 - p)^N, in logarithms N ln Phi(sigmas).
        return np.asarray(-np.expm1(self.searched * log_ndtr(self.sigmas)))

    @property
    def beyond_chance(self) -> npt.NDArray[np.bool_]:
        """Mark detections that chance does not explain in a catalog of this size, (n,)."""
        return self.chance < UNUSUAL_CHANCE

    def most(self, k: int, score: Float64) -> Rows:
        """Return the rows of the k largest sigmas, ties ordered by `score`, NaN last."""
        keys = (-np.nan_to_num(each, nan=-np.inf) for each in (score, self.sigmas))
        return np.lexsort(tuple(keys))[:k].astype(np.int64)

    def remark(self) -> str:
        """State how many detections are unusual, or that the largest significance is expected."""
        number = f"{self.searched:,} detection{'s' if self.searched != 1 else ''}"
        if not self.searched:
            return "no detection has a significance"
        if unusual := int(self.beyond_chance.sum()):
            verb = "is" if unusual == 1 else "are"
            return f"{unusual:,} of {number} {verb} unusual (chance below {UNUSUAL_CHANCE:g})"
        row = int(np.nanargmax(self.sigmas))
        return (
            f"none is unusual: the largest, {self.sigmas[row]:.1f} sigma, is expected by chance "
            f"among {number} (chance {format_chance(self.chance[row])})"
        )


def format_chance(chance: float) -> str:
    """Format a probability with two digits, and only its power of ten if it is small."""
    if chance < _LEAST_CHANCE:
        return f"<{_LEAST_CHANCE:.0e}"
    if chance < 0.01:
        return f"{chance:.0e}"
    return f"{chance:.2f}" if chance < 0.995 else ">0.99"


def measure_significances(
    catalog: pd.DataFrame, population: Population | None
) -> dict[str, Significances]:
    """Measure how unusual each row of a catalog is in each ranking; NaN where that is unknown.

    That is so for rows without latents, and without a `population` for the ranking by latents.
    """
    latents = 0
    while f"z{latents}" in catalog:
        latents += 1
    z = catalog[[f"z{i}" for i in range(latents)]].to_numpy(dtype=np.float64)
    measured = np.isfinite(z).all(axis=1)
    rows = catalog.loc[measured]
    far, fit = np.full(len(catalog), np.nan), np.full(len(catalog), np.nan)
    cash, expected, zscore = (
        rows[name].to_numpy(dtype=np.float64) for name in ("cash", "cash_expected", "fit_zscore")
    )
    fit[measured] = fit_sigmas(cash, expected, zscore)
    if population is not None and len(rows):
        cells = rows["z_cov"] if "z_cov" in rows else [None] * len(rows)
        triangles = triangles_in(cells, latents).T.astype(np.float32)
        known = Posteriors(z[measured].T.astype(np.float32), triangles)
        far[measured] = far_sigmas(known, population)
    return {FAR: Significances(FAR, far), BADLY_FIT: Significances(BADLY_FIT, fit)}


def far_sigmas(known: Posteriors, population: Population) -> Float64:
    """Compute the significance with which detections lie outside the population, (n,), in sigmas.

    The squared distance to the nearest component of the population's mixture, in units of the
    component's covariance plus the detection's posterior one, is chi-squared distributed, with as
    many degrees of freedom as latents, for spectra of that component. Taking the nearest component
    makes the distance smaller and the significance conservative. Latents without errors count as
    exact.
    """
    if not np.isfinite(known.triangles).all():
        exact = np.where(np.isfinite(known.triangles).all(axis=0), known.triangles, 0.0)
        known = Posteriors(known.z, exact.astype(np.float32))
    nearest = np.full(len(known), np.inf, np.float32)
    for mean, factor in zip(population.means, population.precisions_cholesky, strict=True):
        _, squares = log_determinant_and_chi2(known, factor, factor.T @ mean)
        np.minimum(nearest, squares, out=nearest)
    return sigmas_of(_log_gamma_tail(0.5 * nearest.astype(np.float64), 0.5 * len(known.z)))


def fit_sigmas(cash: Float64, cash_expected: Float64, fit_zscore: Float64) -> Float64:
    """Compute the significance with which the fit is bad, (n,), in sigmas.

    The Cash statistic of few counts is skewed: its tail is taken from the gamma distribution with
    its expectation and variance, which follows from `fit_zscore` = (cash - expected) / deviation.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = ((cash - cash_expected) / fit_zscore) ** 2
        # A gamma distribution of mean m and variance v has shape m^2 / v and scale v / m.
        tail = _log_gamma_tail(cash * cash_expected / variance, cash_expected**2 / variance)
    usable = np.isfinite(variance) & (variance > 0) & (cash_expected > 0)
    return np.where(usable, sigmas_of(tail), fit_zscore)


def _log_gamma_tail(x: Float64, shape: Float64 | float) -> Float64:
    """Compute the log tail probability at `x` of a gamma distribution of this shape and scale 1.

    Chi-squared of k degrees of freedom at y is the one of shape k / 2 at y / 2. `scipy.stats` has
    both, but takes most of a second to import.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(gammaincc(shape, x)))


def sigmas_of(log_tail: Float64) -> Float64:
    """Convert the logarithm of a tail probability to standard deviations of a normal."""
    # A tail probability of 1 would give minus infinity: keep its logarithm just below 0.
    return np.minimum(-ndtri_exp(np.minimum(log_tail, -1e-300)), MOST_SIGMAS)


def unusual_sigmas(n: int) -> float:
    """Compute the significance above which a detection among n is unusual."""
    # Solve (1 - p)^n = 1 - UNUSUAL_CHANCE for the tail probability p of one detection.
    return float(-ndtri(-np.expm1(np.log1p(-UNUSUAL_CHANCE) / max(n, 1))))
