"""Columns of the catalog from fits of physical models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.fits.fit import Fit, fit_model
from raypipe.model.features import Batch, prepare
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid


def add_fits(
    measured: pd.DataFrame,
    spectra: SpectraBatch,
    models: Sequence[str],
    apec_dir: str | None = None,
) -> pd.DataFrame:
    """Add the columns of fits, and `latent_gain`, to what a model has measured of the same spectra.

    Beside those of `fit_columns`, they are <model>_flags, which names parameters at a hard limit
    and fits that have not converged; `best_fit`, the model with the lowest Cash statistic; and
    `latent_gain`, that statistic minus `cash`, which is that of the latents. A row without a
    likelihood has no value in any of them.
    """
    rows = np.flatnonzero(spectra.is_measurable)
    fits = _fit_all(prepare(spectra.take(rows)), EnergyGrid(), models, apec_dir)
    columns = _numbers(fits) | {f"{each.model.name}_flags": each.flags for each in fits}
    stats = np.stack([each.stat for each in fits])
    columns["best_fit"] = _names_of_lowest(stats, models)
    fitted = pd.DataFrame(columns, index=rows).reindex(np.arange(len(spectra)))
    best = fitted[[f"{name}_stat" for name in models]].min(axis=1)
    fitted["latent_gain"] = best.to_numpy() - measured["cash"].to_numpy()
    return pd.concat([measured, fitted], axis=1)


def fit_columns(
    batch: Batch, grid: EnergyGrid, models: Sequence[str], apec_dir: str | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Fit models to a batch, and return the numbers that the catalog has of them, (n,) each.

    For a power law they are powlaw_gamma, powlaw_nh (10^20 cm^-2), powlaw_ampl and flux_powlaw,
    each with _lolim and _hilim, and powlaw_stat, the Cash statistic. A limit is NaN where the
    statistic does not rise by one between the best value and a hard limit of the parameter.
    """
    return _numbers(_fit_all(batch, grid, models, apec_dir))


def _fit_all(
    batch: Batch, grid: EnergyGrid, models: Sequence[str], apec_dir: str | None
) -> list[Fit]:
    return [fit_model(batch, grid, name, apec_dir) for name in models]


def _numbers(fits: Sequence[Fit]) -> dict[str, npt.NDArray[np.float64]]:
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for each in fits:
        model = each.model
        quantities = {
            "value": (f"{model.name}_{model.parameter}", 1.0),
            "nh_1e22": (f"{model.name}_nh", 100.0),
            "amplitude": (f"{model.name}_{model.amplitude}", 1.0),
            "flux": (f"flux_{model.name}", 1.0),
        }
        for quantity, (column, factor) in quantities.items():
            columns[column] = factor * getattr(each, quantity)
            columns[f"{column}_lolim"] = factor * each.low[quantity]
            columns[f"{column}_hilim"] = factor * each.high[quantity]
        columns[f"{model.name}_stat"] = each.stat
    return columns


def _names_of_lowest(
    stats: npt.NDArray[np.float64], models: Sequence[str]
) -> npt.NDArray[np.object_]:
    """Name the model with the lowest of statistics (models, n), None where none is finite, (n,)."""
    named: npt.NDArray[np.object_] = np.empty(stats.shape[1], dtype=object)
    known = np.isfinite(stats).any(0)
    lowest = np.where(np.isfinite(stats), stats, np.inf).argmin(0)
    named[known] = np.array(models, dtype=object)[lowest[known]]
    return named
