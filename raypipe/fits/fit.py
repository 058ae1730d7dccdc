"""Fit absorbed emission models to batches of spectra, through each detection's own response.

Counts, background and response are those of the latent model, so that Cash statistics compare. The
background's expectation is smoothed and fixed; its noise widens the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.fits.climb import descend
from raypipe.fits.data import Data, Fold, absorbed, fold
from raypipe.fits.intervals import Ends, find_ends
from raypipe.fits.models import (
    MODELS,
    NH_LIMITS_1E22,
    FitModel,
    cross_sections,
    require_known,
    tabulated,
)
from raypipe.fits.starts import choose_starts
from raypipe.fits.steps import Limits, free_inverse
from raypipe.model.features import Batch
from raypipe.physics.energy import BAND_KEV, ERG_PER_KEV
from raypipe.spectra.grid import EnergyGrid

Floats = npt.NDArray[np.float64]

LOG_COUNTS_LIMITS = (float(np.log(0.01)), 25.0)
"""Hard limits of the log of the expected source counts: a source has at least 0.01 of them."""


@dataclass(frozen=True)
class Fit:
    """Hold the fits of one model to n spectra.

    `value` (n,) is the parameter in its own unit, `nh_1e22` the column density in 10^22 cm^-2,
    `amplitude` in the model's unit, `flux` the absorbed energy flux from 0.5 to 7 keV, erg/cm2/s.
    `low` and `high` hold the ends of their 68% intervals under the same names, NaN where the
    statistic does not rise enough before a hard limit. `stat` is the Cash statistic and `mu`
    (n, bins) the expected counts, with the background. `flags` names parameters at a hard limit,
    and fits that have not converged.
    """

    model: FitModel
    value: Floats
    nh_1e22: Floats
    amplitude: Floats
    flux: Floats
    low: dict[str, Floats]
    high: dict[str, Floats]
    stat: Floats
    mu: npt.NDArray[np.float32]
    flags: npt.NDArray[np.object_]


@torch.no_grad()
def fit_model(batch: Batch, grid: EnergyGrid, name: str, apec_dir: str | None = None) -> Fit:
    """Fit the model of that name (`raypipe.fits.models.MODELS`) to each spectrum of a batch.

    Several starts per spectrum (`choose_starts`) are followed downhill, and the lowest is kept.
    Rows do not influence each other. `apec_dir` is a folder with the tables of AtomDB for the
    plasma, without which it is raypipe's own. Raises KeyError for a name that is not known.
    """
    require_known([name])
    model, spectra, sigmas = MODELS[name], tabulated(name, grid, apec_dir), cross_sections(grid)
    data, limits = Data.of(batch, grid), _limits(model)
    rows, starts = choose_starts(model, spectra, sigmas, data)
    places, objectives, arrived = descend(spectra, sigmas, starts, data, rows, limits)
    best = _lowest_of_rows(rows, objectives, len(data))
    place = places[best]
    here = fold(spectra, sigmas, place, data)
    ends = find_ends(spectra, sigmas, place, here.objective, data, limits)
    widened = _Widths.of(here, data, limits, place)
    log_flux, flux_error = _flux(absorbed(spectra, sigmas, place.float()), here, widened, grid)
    return _in_units(model, place, here, ends, widened, log_flux, flux_error, arrived[best], limits)


def _limits(model: FitModel) -> Limits:
    pairs = (model.fitted_limits, NH_LIMITS_1E22, LOG_COUNTS_LIMITS)
    low, high = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return Limits(low, high)


def _lowest_of_rows(rows: Tensor, objectives: Tensor, n: int) -> Tensor:
    """Return the index of the lowest objective of each of n rows, (n,)."""
    order = torch.argsort(objectives, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    counts = torch.bincount(rows, minlength=n)
    return order[counts.cumsum(0) - counts]


@dataclass(frozen=True)
class _Widths:
    """Hold the covariance (n, 3, 3) of repeated fits, and by how much it exceeds the profile's.

    The profile takes the background as known. `factor` (n, 3) is the ratio of the standard
    deviations with and without the noise of the measured background, for the fitted variable, the
    column density and the log amplitude; `deviations` (n, 3) are those with it.
    """

    covariance: Tensor
    factor: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, here: Fold, data: Data, limits: Limits, place: Tensor) -> _Widths:
        """Compute them from the Fisher information of the parameters that are not at a limit."""
        _, information = here.scores(data)
        held = (place <= limits.low) | (place >= limits.high)
        inverse = free_inverse(information, held)
        relative = (here.slopes / here.mu.clamp_min(1e-6)[:, None]).double()
        extra = (relative * data.noise[:, None].double()) @ relative.transpose(1, 2)
        covariance = inverse + inverse @ extra @ inverse
        along = torch.eye(3, dtype=torch.float64).repeat(len(place), 1, 1)
        along[:, 2] = here.amplitude_slopes
        wide, narrow = (
            torch.einsum("nij,njk,nik->ni", along, each, along) for each in (covariance, inverse)
        )
        factor = torch.where(narrow > 0, (wide / narrow).sqrt(), 1.0)
        return cls(covariance, factor, wide.clamp_min(0.0).sqrt())


def _flux(slopes: Tensor, here: Fold, widths: _Widths, grid: EnergyGrid) -> tuple[Tensor, Tensor]:
    """Return the log of the absorbed energy flux in the broad band and its standard deviation."""
    inside = (grid.mid_kev > BAND_KEV[0]) & (grid.mid_kev < BAND_KEV[1])
    per_flux = ERG_PER_KEV * grid.mid_kev * grid.widths_kev * inside
    sums = slopes.double() @ torch.tensor(per_flux)
    along = here.amplitude_slopes + torch.nn.functional.pad(sums[:, :2] / sums[:, 2:], (0, 1))
    variance = torch.einsum("ni,nij,nj->n", along, widths.covariance, along)
    return here.log_amplitude + torch.log(sums[:, 2]), variance.sqrt()


def _in_units(
    model: FitModel,
    place: Tensor,
    here: Fold,
    ends: Ends,
    widths: _Widths,
    log_flux: Tensor,
    flux_error: Tensor,
    arrived: Tensor,
    limits: Limits,
) -> Fit:
    best = torch.cat([place[:, :2], here.log_amplitude[:, None].double()], 1)
    low, high = (best + widths.factor * (each - best) for each in (ends.low, ends.high))
    # Of a model far from the counts, the profile may end on the wrong side of the best value.
    low = torch.where(low > best, best - widths.deviations, low)
    high = torch.where(high < best, best + widths.deviations, high)
    # Widened intervals end at the hard limits of the parameters; NaN stays NaN.
    low = torch.cat([torch.maximum(low[:, :2], limits.low[:2]), low[:, 2:]], 1)
    high = torch.cat([torch.minimum(high[:, :2], limits.high[:2]), high[:, 2:]], 1)
    flux = torch.stack([log_flux - flux_error, log_flux, log_flux + flux_error], 1)
    value, nh, amplitude = _by_quantity(model, best)
    lows, highs = (
        dict(zip(("value", "nh_1e22", "amplitude", "flux"), (*parts, end), strict=True))
        for parts, end in (
            (_by_quantity(model, low), torch.exp(flux[:, 0]).numpy()),
            (_by_quantity(model, high), torch.exp(flux[:, 2]).numpy()),
        )
    )
    return Fit(
        model=model,
        value=value,
        nh_1e22=nh,
        amplitude=amplitude,
        flux=torch.exp(flux[:, 1]).numpy(),
        low=lows,
        high=highs,
        stat=2.0 * here.objective.numpy(),
        mu=here.mu.numpy(),
        flags=_flags(model, place, limits, arrived),
    )


def _by_quantity(model: FitModel, values: Tensor) -> tuple[Floats, Floats, Floats]:
    variable, column, log_amplitude = values.unbind(1)
    parameter = torch.exp(variable) if model.by_ratio else variable
    return parameter.numpy(), column.numpy(), torch.exp(log_amplitude).numpy()


def _flags(
    model: FitModel, place: Tensor, limits: Limits, arrived: Tensor
) -> npt.NDArray[np.object_]:
    """Name what is at a hard limit, such as nh_at_min, separated by |, (n,)."""
    names = (model.parameter, "nh", model.amplitude)
    found = {}
    for column, name in enumerate(names):
        found[f"{name}_at_min"] = (place <= limits.low)[:, column]
        found[f"{name}_at_max"] = (place >= limits.high)[:, column]
    found["not_converged"] = ~arrived
    texts = [
        "|".join(name for name, rows in found.items() if bool(rows[row]))
        for row in range(len(place))
    ]
    return np.array(texts, dtype=object)
