"""What no model can beat: the least excess of Cash statistic that the photons allow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from benchmarks.latents.networks import BATCH_ROWS
from benchmarks.latents.responses import GRID
from benchmarks.latents.surveys import Sample
from raypipe.model.features import prepare
from raypipe.model.folding import fold
from raypipe.simulation.energy import EnergyGrid
from raypipe.simulation.sources import PARAMETERS, Sources, photon_flux

FloatArray = npt.NDArray[np.float64]

LOGARITHMIC = ("nh_1e22", "nh_foreground_1e22", "kt_kev", "kt2_kev", "abundance", "redshift")
"""Parameters taken in logarithm, in which their population is closest to normal."""
STEP_IN_SIGMA = 0.02
_GRID = EnergyGrid(GRID.energy_lo_kev, GRID.energy_hi_kev, GRID.n_energy)
_LEAST_OF_A_KIND = 30


def least_excess(sample: Sample, population: pd.DataFrame) -> FloatArray:
    """Least expected excess over the truth's Cash statistic, on new counts, of each row: (n,).

    Whoever predicts the expected counts of a source from one observation of it pays for what that
    observation left open. With the right parametric family known, parameters theta, Fisher
    information F of the observation, amplitude profiled out, and a normal population of inverse
    covariance P, the posterior mean misses theta with covariance (F + P)^-1 at best (van Trees
    1968), and the Cash statistic of other counts of the same source is higher than the truth's by
    tr(F (F + P)^-1), and by one for the amplitude: the effective number of parameters measured.
    To second order; the family, the population and the background are taken as known, so that a
    model which has to learn them pays a little more. Where the population is not normal, P says
    less than is known: that is a little too high then. Maximum-posterior fits of the true family
    to simulated HMXB, YSO and LM-STAR came to it within their errors of 20%. NaN for rare kinds of
    source.

    `population` has the parameters of the training sources, a row a detection.
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
    """Which family each row is of: its model and the parameters it has."""
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
        flux = photon_flux(Sources(table["model"].to_numpy(str), parameters), _GRID)
        return fold(torch.tensor(flux, dtype=torch.float32), batch, GRID.energy_width_kev).numpy()

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
