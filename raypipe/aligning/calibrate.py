"""Calibrate the widths of predictions on sources to which an alignment was not fitted.

Split conformal prediction (Lei et al. 2018, JASA 113, 1094) multiplies widths by the quantile at
68.27% of |truth - prediction| / width among held-out sources. With few sources this factor is
noisy, and would spoil widths that are right. Its logarithm l, with variance v by bootstraps over
sources, is therefore multiplied by max(0, 1 - v / l²) (James & Stein 1961).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from raypipe.aligning.pairs import Pairs
from raypipe.alignment.bundle import Alignment
from raypipe.alignment.translation import predict_latents, view_scores

Floats = npt.NDArray[np.float64]

ONE_SIGMA_SHARE = math.erf(math.sqrt(0.5))
_FEWEST_SOURCES = 20
_BOOTSTRAPS = 100
_WIDENING = 0.2, 5.0
"""Range of factors."""


def calibrate(made: Alignment, held_out: Pairs, seed: int) -> None:
    """Scale the predicted widths of an alignment so that 68% of held-out truths are within them.

    All detections of the pairs are used, with a total weight of 1 per source. A column with fewer
    than 20 sources keeps its widths.
    """
    network = made.network
    weight = source_weights(held_out.source)
    found = [
        widening(pulls, weight, held_out.source, seed) for pulls in view_pulls(made, held_out).T
    ]
    latents = [
        widening(pulls, weight, held_out.source, seed) for pulls in latent_pulls(made, held_out).T
    ]
    network.view_widening.mul_(torch.tensor(found, dtype=torch.float32))
    network.latent_widening.mul_(torch.tensor(latents, dtype=torch.float32))


def view_pulls(made: Alignment, pairs: Pairs) -> Floats:
    """Return (truth - prediction) / width of the numbers of views, (n, inputs); NaN elsewhere."""
    mean, width = view_scores(made, pairs.posteriors)
    view = pairs.views()
    pulls = np.full(mean.shape, np.nan)
    for number, (column, place) in enumerate(
        zip(made.view.columns, made.view.slices(), strict=True)
    ):
        if column.kind == "number":
            known = view.known[:, number]
            pulls[known, place] = ((view.values - mean) / width)[known, place]
    return pulls


def latent_pulls(made: Alignment, pairs: Pairs) -> Floats:
    """Return (truth - prediction) / width of the latents predicted from views, (n, latents).

    The truth is a draw from the posterior of each detection.
    """
    center, covariance = predict_latents(made, pairs.views())
    widths = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return (drawn_latents(pairs) - center) / widths


def drawn_latents(pairs: Pairs) -> Floats:
    """Draw latents from the posterior of each detection, (n, latents); the same in each call."""
    noise = np.random.default_rng(0).standard_normal(pairs.posteriors.mean.shape)
    return pairs.posteriors.mean + np.einsum("nij,nj->ni", pairs.posteriors.factors, noise)


def source_weights(source: npt.NDArray[np.int64]) -> Floats:
    """Return weights of detections (n,) that sum to 1 for each source."""
    _, inverse, counts = np.unique(source, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[inverse])


def widening(pulls: Floats, weight: Floats, source: npt.NDArray[np.int64], seed: int) -> float:
    """Return the factor by which to multiply widths, from pulls (n,) with NaN where unknown."""
    known = np.isfinite(pulls)
    sources, inverse = np.unique(source[known], return_inverse=True)
    if len(sources) < _FEWEST_SOURCES:
        return 1.0
    size = np.abs(pulls[known]).clip(1e-6)
    order = np.argsort(size)
    size, inverse, base = size[order], inverse[order], weight[known][order]
    estimate = math.log(_quantile(size, base, len(sources)))
    rng = np.random.default_rng(seed)
    again = []
    for _ in range(_BOOTSTRAPS):
        times = np.bincount(rng.integers(0, len(sources), len(sources)), minlength=len(sources))
        again.append(math.log(_quantile(size, base * times[inverse], len(sources))))
    shrunk = estimate * max(0.0, 1.0 - float(np.var(again)) / max(estimate**2, 1e-12))
    return float(np.clip(math.exp(shrunk), *_WIDENING))


def _quantile(ascending: Floats, weight: Floats, sources: int) -> float:
    """Return the weighted quantile at 68%, with one source more than `sources` infinitely far."""
    share = np.cumsum(weight) / weight.sum() * sources / (sources + 1)
    return float(ascending[min(int(np.searchsorted(share, ONE_SIGMA_SHARE)), len(share) - 1)])
