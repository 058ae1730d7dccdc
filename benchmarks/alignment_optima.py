"""Rank views as well as is possible: by density of a view given a spectrum, or Bayes factors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logsumexp

from raypipe.aligning.pairs import Pairs
from raypipe.model.covariance import pack
from raypipe.searching.batched_gaussians import Posteriors
from raypipe.searching.neighbors import Posterior, log_bayes_factors

Floats = npt.NDArray[np.float64]

NOISE = 0.3
"""Noise of the first view of case truth, in units of latents."""
VIEWED = 4
"""Latents that are in it."""
TRUE_NOISE = {"log_nh": 0.2, "photon_index": 0.2, "log_kt": 0.1}
"""Noise of the true parameters: decades of N_H, of the index, and decades of temperature."""


def normal_log_density(values: Floats, pairs: Pairs) -> Floats:
    """Return ln p(view j | spectrum i), (spectra, views), for normal posteriors and noise."""
    factors = pairs.posteriors.factors[:, :VIEWED]
    covariance = factors @ np.swapaxes(factors, 1, 2) + NOISE**2 * np.eye(VIEWED)
    inverse, determinant = np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]
    mean = pairs.posteriors.mean[:, :VIEWED]
    rows = []
    for center, precision, log_det in zip(mean, inverse, determinant, strict=True):
        off = values - center
        rows.append(-0.5 * (np.einsum("mi,ij,mj->m", off, precision, off) + log_det))
    return np.array(rows)


def marginal(values: Floats, train: Pairs) -> Floats:
    """Return ln p(view j) up to a constant: the mean over the spectra of training."""
    return np.asarray(logsumexp(normal_log_density(values, train), axis=0))


def noisy_parameters(catalog: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the true parameters of simulated detections, and the same in noise as a view."""
    kt = catalog["kt_kev"].astype(float)
    truth = pd.DataFrame(
        {
            "log_nh": catalog["log_nh"].astype(float),
            "photon_index": catalog["photon_index"].astype(float),
            "log_kt": np.log10(kt.where(kt > 0)),
        }
    )
    rng = np.random.default_rng(2)
    return truth, truth + rng.standard_normal(truth.shape) * np.array(list(TRUE_NOISE.values()))


def by_bayes(y: Floats, theta: Floats, judged: Pairs, train: Pairs) -> Floats:
    """Return ln p(y_j | x_i) - ln p(y_j), (spectra, views); see `truth_of_sources`."""
    sigma = np.array(list(TRUE_NOISE.values()))
    likelihood = np.zeros((len(theta), len(y)))
    for k, width in enumerate(sigma):
        there, given = np.isfinite(theta[:, k])[:, None], np.isfinite(y[:, k])[None, :]
        off = np.nan_to_num((theta[:, k][:, None] - y[:, k][None, :]) / width)
        likelihood += np.where(there & given, -0.5 * off**2, np.where(there == given, 0.0, -20.0))
    known = _as_posteriors(train)
    weights = np.array(
        [
            log_bayes_factors(Posterior(mean, factor @ factor.T), known)
            for mean, factor in zip(judged.posteriors.mean, judged.posteriors.factors, strict=True)
        ]
    )
    weights = np.nan_to_num(weights, nan=-np.inf)
    given_x = np.array([logsumexp(each[:, None] + likelihood, axis=0) for each in weights])
    given_x -= logsumexp(weights, axis=1)[:, None]
    return np.asarray(given_x - logsumexp(likelihood, axis=0)[None, :])


def _as_posteriors(pairs: Pairs) -> Posteriors:
    factors = pairs.posteriors.factors
    triangles = pack(factors @ np.swapaxes(factors, 1, 2))
    return Posteriors(pairs.posteriors.mean.T.astype(np.float32), triangles.T.copy())


def posteriors_of(frame: pd.DataFrame) -> Posteriors:
    z = frame[[f"z{i}" for i in range(8)]].to_numpy(np.float32)
    return Posteriors(z.T.copy(), np.stack(frame["z_cov"].to_list()).T.astype(np.float32))


def all_pairs(mine: Posteriors, yours: Posteriors) -> Floats:
    covariance = mine.covariance
    return np.array(
        [
            log_bayes_factors(Posterior(mine.z[:, i].astype(float), covariance[i]), yours)
            for i in range(len(mine))
        ]
    )
