"""Compute the least excess of the Cash statistic that photon noise allows any model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from benchmarks.latents.networks import BATCH_ROWS
from benchmarks.latents.responses import GRID, flux_on_grid
from benchmarks.latents.samples import Sample
from raypipe.model.features import prepare
from raypipe.model.folding import fold
from raypipe.simulation.populations import PARAMETERS, Sources

FloatArray = npt.NDArray[np.float64]

LOGARITHMIC = ("nh_1e22", "nh_foreground_1e22", "kt_kev", "kt2_kev", "abundance", "redshift")
"""Parameters that enter by their logarithm, in which their distribution is closest to normal."""
STEP_IN_SIGMA = 0.02
_LEAST_OF_A_KIND = 30


def least_excess(sample: Sample, population: pd.DataFrame) -> FloatArray:
    """Least expected excess over the truth's Cash statistic, on new counts, of each row: (n,).

    A prediction of a source's expected counts from one observation is limited by the noise of that
    observation. Let theta be the parameters of the right family, F the Fisher information of the
    observation with the amplitude profiled out, and P the inverse covariance of a normal
    population. The posterior mean then misses theta with covariance (F + P)^-1 at best (van Trees
    1968), and the Cash statistic of other counts of the same source exceeds the truth's by tr(F (F
    + P)^-1), plus one for the amplitude: the effective number of measured parameters.

    This holds to second order. Family, population and background are taken as known; a model that
    has to learn them does a little worse. For a population that is not normal, P states less than
    is known, so that the limit is a little too high. Maximum-posterior fits of the true family to
    simulated HMXB, YSO and LM-STAR agreed with it within their errors of 20%. NaN for rare kinds of
    source.

    `population` has the parameters of the training sources, one row per detection.
    """
    out = np.full(len(sample), np.nan)
    names = [name for name in PARAMETERS if name != "log_nh"]
    kinds, known = _kinds(sample.table, names), _kinds(population, names)
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        theta = _coordinates(population[known == kind].drop_duplicates("name"), names)
        theta = theta.loc[:, theta.notna().all() & (theta.std() > 1e-6)]
        if len(theta) < _LEAST_OF_A_KIND:
            continue
        covariance = np.atleast_2d(np.cov(theta.to_numpy().T))
        for part in np.array_split(rows, -(-len(rows) // BATCH_ROWS)):
            out[part] = _effective_parameters(sample.take(part), list(theta.columns), covariance)
    return out


def _kinds(table: pd.DataFrame, names: list[str]) -> npt.NDArray[np.object_]:
    """Return the family of each row: its model and its parameters."""
    has = table[names].notna().to_numpy()
    patterns = ["".join("x" if each else "-" for each in row) for row in has]
    return table["model"].to_numpy(object) + np.array(patterns, dtype=object)


def _coordinates(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    values = table[names].astype(float)
    for name in LOGARITHMIC:
        values[name] = np.log(values[name].where(values[name] > 0))
    return values


def _effective_parameters(sample: Sample, names: list[str], covariance: FloatArray) -> FloatArray:
    table, batch = sample.table, prepare(sample.spectra)

    def folded(values: pd.DataFrame) -> FloatArray:
        parameters = {name: values[name].to_numpy(float) for name in PARAMETERS}
        flux = flux_on_grid(Sources(table["model"].to_numpy(str), parameters))
        widths = torch.tensor(GRID.widths_kev, dtype=torch.float32)
        return fold(torch.tensor(flux, dtype=torch.float32), batch, widths).numpy()

    at = folded(table)
    amplitude = (sample.truth - sample.truth_background).sum(1) / at.sum(1)
    slopes = []
    for name, sigma in zip(names, np.sqrt(np.diag(covariance)), strict=True):
        moved, step = table.copy(), STEP_IN_SIGMA * sigma
        moved[name] = moved[name] * np.exp(step) if name in LOGARITHMIC else moved[name] + step
        slopes.append((folded(moved) - at) / step)
    jacobian = np.stack([*slopes, at], 1).astype(np.float64) * amplitude[:, None, None]
    information = (jacobian / sample.truth[:, None]) @ jacobian.transpose(0, 2, 1)
    with_amplitude = information[:, :-1, -1:]
    shape = information[:, :-1, :-1] - (
        with_amplitude @ with_amplitude.transpose(0, 2, 1) / information[:, -1:, -1:]
    )
    share = shape @ np.linalg.inv(shape + np.linalg.inv(covariance))
    effective: FloatArray = 1.0 + np.trace(share, axis1=1, axis2=2)
    return effective
