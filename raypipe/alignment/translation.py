"""Predict the view of a spectrum, and the spectrum of a view, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from raypipe.alignment.bundle import Alignment, view_tensors
from raypipe.alignment.spectrum_inputs import LatentPosteriors
from raypipe.alignment.views import ScaledColumn, ViewInputs, from_scores
from raypipe.errors import UsageError
from raypipe.model.bundle import Model
from raypipe.model.features import prepare
from raypipe.model.presets import Folded
from raypipe.model.weighted_quantiles import ONE_SIGMA
from raypipe.spectra.batch import SpectraBatch

Floats = npt.NDArray[np.float64]

NORM_KEV = 0.5, 7.0
"""Band in which the photon flux of a predicted spectrum is 1."""


@dataclass(frozen=True)
class PredictedSpectra:
    """Hold photon flux densities predicted from views, with a band of 68%.

    `energy_kev` is (n_energy,). `value` (the median), `lolim` and `hilim` (n, n_energy) are per
    keV, in units of the photon flux in 0.5-7 keV, because the view does not say how bright the
    detection is.
    """

    energy_kev: Floats
    value: Floats
    lolim: Floats
    hilim: Floats


@dataclass(frozen=True)
class PredictedCounts:
    """Hold the counts of a detection, and those expected from the spectrum predicted from a view.

    `edges_kev` (bins + 1,) are the edges of the channel bins; `draws` (draws, bins) the expected
    counts of source and background for each drawn spectrum; `counts` (bins,) those observed, and
    `background` (bins,) the expected background. The draws have no Poisson noise.
    """

    edges_kev: Floats
    draws: Floats
    counts: Floats
    background: Floats
    exposure_s: float

    def limits(self, first_bins: npt.NDArray[np.int64] | None = None) -> Floats:
        """Return lower limit, median and upper limit of 68% of the expected counts, (3, bins).

        With `first_bins`, they are the limits of groups of bins that begin at these bins, (3,
        groups).
        """
        draws = self.draws
        if first_bins is not None:
            draws = np.add.reduceat(draws, first_bins, axis=1)
        return np.asarray(np.quantile(draws, ONE_SIGMA, axis=0))


def view_scores(made: Alignment, posteriors: LatentPosteriors) -> tuple[Floats, Floats]:
    """Predict the scaled inputs of the views of spectra: means and widths, (n, inputs) each."""
    features = torch.from_numpy(posteriors.features())
    with torch.no_grad():
        hidden = made.network.embed_spectra(features)[0]
        mean, log_width = made.network.predict_view(hidden)
    return mean.double().numpy(), np.exp(log_width.double().numpy())


def predict_views(made: Alignment, posteriors: LatentPosteriors) -> pd.DataFrame:
    """Predict numbers and categories of the views of spectra, one row per spectrum.

    A number is predicted by its median, with 68% limits <name>_lolim and <name>_hilim; a category
    by its most probable word, with the probability <name>_p. Vectors and light curves are not
    predicted.
    """
    mean, width = view_scores(made, posteriors)
    found: dict[str, npt.NDArray[np.generic]] = {}
    for column, place in zip(made.view.columns, made.view.slices(), strict=True):
        if column.kind == "number":
            found |= _number(column, mean[:, place.start], width[:, place.start])
        elif column.kind == "category":
            logits = mean[:, place]
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            best = share.argmax(axis=1)
            found[column.name] = np.array(column.categories, dtype=object)[best]
            found[f"{column.name}_p"] = share[np.arange(len(best)), best]
    return pd.DataFrame(found)


def predict_latents(made: Alignment, view: ViewInputs) -> tuple[Floats, Floats]:
    """Predict the latents of views: means (n, latents) and covariances (n, latents, latents)."""
    with torch.no_grad():
        hidden = made.network.embed_views(view_tensors(view))[0]
        mean, factor = made.network.predict_latents(hidden)
        covariance = torch.cholesky_inverse(factor.double())
    return mean.double().numpy(), covariance.numpy()


def predict_spectra(
    mean: Floats, covariance: Floats, model: Model, draws: int = 256, seed: int = 0
) -> PredictedSpectra:
    """Decode the predicted latents of views, (n, latents) with covariances, to flux densities.

    Value and limits are quantiles of draws. Raises UsageError for preset paper.
    """
    network = folded_network(model)
    z = _draw(mean, covariance, draws, seed)
    energy = model.grid.mid_kev
    inside = (energy >= NORM_KEV[0]) & (energy < NORM_KEV[1])
    widths = np.diff(model.grid.edges_kev)
    limits = np.empty((3, len(mean), len(energy)))
    with torch.no_grad():
        for row in range(len(mean)):
            flux = torch.exp(network.log_shape(torch.from_numpy(z[row]))).double().numpy()
            flux /= (flux * widths * inside).sum(axis=1, keepdims=True)
            limits[:, row] = np.quantile(flux, ONE_SIGMA, axis=0)
    low, middle, high = limits
    return PredictedSpectra(energy, middle, low, high)


@torch.no_grad()
def predict_counts(
    mean: Floats,
    covariance: Floats,
    model: Model,
    spectra: SpectraBatch,
    draws: int = 256,
    seed: int = 0,
) -> PredictedCounts:
    """Fold the spectrum predicted from one view through the response of one detection.

    `mean` (latents,) and `covariance` are the predicted latents. Each draw is scaled to the
    brightness that makes the counts of the detection most likely, because the view does not say how
    bright the detection is. Raises UsageError for preset paper, and for a detection whose
    likelihood cannot be computed.
    """
    network = folded_network(model)
    if not spectra.is_measurable.all():
        raise UsageError("no counts can be predicted for a detection that cannot be measured")
    batch = prepare(spectra.take(np.zeros(draws, np.int64)))
    z = torch.from_numpy(_draw(mean[None], covariance[None], draws, seed)[0])
    bins = spectra.bins[int(spectra.response_index[0])]
    kept = slice(0, len(bins))
    return PredictedCounts(
        edges_kev=np.append(bins.lo_kev, bins.hi_kev[-1]),
        draws=network.expected_counts(z, batch)[:, kept].double().numpy(),
        counts=batch.counts[0, kept].double().numpy(),
        background=batch.background[0, kept].double().numpy(),
        exposure_s=float(spectra.exposure_s[0]),
    )


def folded_network(model: Model) -> Folded:
    """Return the network of a model that predicts fluxes; raises UsageError for preset paper."""
    if not isinstance(model.network, Folded):
        raise UsageError(f"{model.model_id}: preset {model.preset} has no flux; use folded")
    return model.network


def _draw(mean: Floats, covariance: Floats, draws: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw latents (n, draws, latents) from normal distributions."""
    root = np.linalg.cholesky(covariance)
    noise = np.random.default_rng(seed).standard_normal((len(mean), draws, mean.shape[1]))
    return (mean[:, None] + np.einsum("nij,ndj->ndi", root, noise)).astype(np.float32)


def _number(column: ScaledColumn, mean: Floats, width: Floats) -> dict[str, Floats]:
    return {
        column.name: from_scores(column, mean),
        f"{column.name}_lolim": from_scores(column, mean - width),
        f"{column.name}_hilim": from_scores(column, mean + width),
    }
