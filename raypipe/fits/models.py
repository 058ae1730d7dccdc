"""Define the models that are fitted: one shape parameter, an absorbing column and an amplitude."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.physics import energy
from raypipe.physics.absorption import cross_section
from raypipe.physics.components import black_body_flux, bremsstrahlung_flux, power_law_flux
from raypipe.physics.plasma import plasma_flux
from raypipe.spectra.grid import EnergyGrid

FloatArray = npt.NDArray[np.float64]

FINEST_KEV = 0.005
"""Width of the sub-bins over which a spectrum is averaged in each energy bin."""
PLASMA_ABUNDANCE = 0.3
"""Abundance of metals of the fitted plasma, solar; it is not fitted."""
NH_LIMITS_1E22 = (0.0, 50.0)
"""Hard limits of the absorbing column density, 10^22 cm^-2."""
_TYPICAL_SLOPE = -2.0
"""Power of energy that weighs the cross-sections in a bin; it matters little."""
_LOWEST_LOG = -90.0
_NODES = 161


@dataclass(frozen=True)
class FitModel:
    """Describe a model: its flux, and its parameters under the names of the catalog's columns.

    `flux` takes (B,) values of the parameter and an even grid, and returns photon/cm2/s/keV for an
    amplitude of one, (B, n); that of the plasma also takes a folder with AtomDB's tables. `limits`
    are hard limits of the parameter. `by_ratio` says whether it is a temperature, which is fitted
    as its logarithm. `starts` is the number of its values where fits may start.
    """

    name: str
    title: str
    parameter: str
    amplitude: str
    limits: tuple[float, float]
    by_ratio: bool
    starts: int
    flux: Callable[..., FloatArray]

    @property
    def fitted_limits(self) -> tuple[float, float]:
        """Return the limits of the fitted variable: the parameter or its natural logarithm."""
        low, high = self.limits
        return (float(np.log(low)), float(np.log(high))) if self.by_ratio else (low, high)


def _plasma(kt_kev: FloatArray, grid: energy.EnergyGrid, apec_dir: str | None = None) -> FloatArray:
    return plasma_flux(kt_kev, np.full(len(kt_kev), PLASMA_ABUNDANCE), grid, apec_dir)


MODELS = {
    each.name: each
    for each in (
        FitModel("powlaw", "power law", "gamma", "ampl", (-3.0, 10.0), False, 12, power_law_flux),
        FitModel("bb", "black body", "kt", "ampl", (0.02, 20.0), True, 12, black_body_flux),
        FitModel(
            "brems", "bremsstrahlung", "kt", "norm", (0.05, 100.0), True, 12, bremsstrahlung_flux
        ),
        FitModel("plasma", "thermal plasma", "kt", "norm", (0.06, 60.0), True, 20, _plasma),
    )
}
"""The models by the prefix of their columns, which are those of the Chandra Source Catalog except
for `plasma`."""


@dataclass(frozen=True)
class Spectra:
    """Compute the log flux of a model and its slope by interpolation in a table.

    `log_flux` (nodes, n_energy) are logarithms of the flux averaged over each energy bin, at
    `nodes` even steps of the fitted variable between its `limits`.
    """

    log_flux: Tensor
    limits: tuple[float, float]

    @classmethod
    def of(cls, model: FitModel, grid: EnergyGrid, apec_dir: str | None = None) -> Spectra:
        """Tabulate a model on an energy grid, with averages over sub-bins of 5 eV."""
        nodes = np.linspace(*model.fitted_limits, _NODES)
        values = np.exp(nodes) if model.by_ratio else nodes
        tables = {} if apec_dir is None or model.name != "plasma" else {"apec_dir": apec_dir}
        averages = _bin_averages(model.flux(values, _fine_grid(grid), **tables), grid)
        logs = np.log(np.maximum(averages, 1e-300)).clip(_LOWEST_LOG)
        return cls(torch.tensor(logs, dtype=torch.float32), model.fitted_limits)

    def __call__(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return log flux and its slope (n, n_energy) at values (n,) of the fitted variable.

        The interpolation is a cubic through four nodes whose slope is continuous (Catmull-Rom).
        """
        low, high = self.limits
        last = len(self.log_flux) - 1
        step = (high - low) / last
        position = ((value - low) / step).clamp(0.0, float(last))
        node = position.long().clamp(0, last - 1)
        t = (position - node)[:, None]
        before, after = (node - 1).clamp_min(0), (node + 2).clamp_max(last)
        # At the ends of the table the slope is that of the last interval.
        weights = (
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (-(t**2) + t**3) / 2,
        )
        slopes = (
            (-1 + 4 * t - 3 * t**2) / 2,
            (-10 * t + 9 * t**2) / 2,
            (1 + 8 * t - 9 * t**2) / 2,
            (-2 * t + 3 * t**2) / 2,
        )
        rows = [self.log_flux[place] for place in (before, node, node + 1, after)]
        log_flux, slope = weights[0] * rows[0], slopes[0] * rows[0]
        for row, weight, along in zip(rows[1:], weights[1:], slopes[1:], strict=True):
            log_flux = torch.addcmul(log_flux, weight, row)
            slope = torch.addcmul(slope, along, row)
        return log_flux, slope / step


@cache
def tabulated(name: str, grid: EnergyGrid, apec_dir: str | None = None) -> Spectra:
    """Return the table of the model of that name, made once per process."""
    return Spectra.of(MODELS[name], grid, apec_dir)


@cache
def cross_sections(grid: EnergyGrid) -> tuple[Tensor, Tensor]:
    """Return two cross-sections (n_energy,) per energy bin, 10^-22 cm2 per hydrogen atom.

    Mean and variance of the cross-section inside the bin are those of the two, so that the mean of
    the two transmissions is right to the second order, also in bins with an absorption edge.
    """
    fine = _fine_grid(grid)
    sigma = 1e22 * cross_section(fine.mid_kev)
    weights = fine.mid_kev**_TYPICAL_SLOPE
    mean = _bin_averages(weights * sigma, grid) / _bin_averages(weights, grid)
    square = _bin_averages(weights * sigma**2, grid) / _bin_averages(weights, grid)
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    return (
        torch.tensor(mean - spread, dtype=torch.float32),
        torch.tensor(mean + spread, dtype=torch.float32),
    )


def _fine_grid(grid: EnergyGrid) -> energy.EnergyGrid:
    low, high = float(grid.edges_kev[0]), float(grid.edges_kev[-1])
    return energy.EnergyGrid(low, high, round((high - low) / FINEST_KEV))


def _bin_averages(fine: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Average values in sub-bins (..., n_fine) over the energy bins, (..., n_energy)."""
    parts = np.rint(grid.widths_kev / FINEST_KEV).astype(int)
    starts = np.cumsum(parts) - parts
    averages: FloatArray = np.add.reduceat(fine, starts, axis=-1) / parts
    return averages


def require_known(names: Sequence[str]) -> None:
    """Raise KeyError naming the first model that is not known."""
    for name in names:
        if name not in MODELS:
            raise KeyError(f"no model {name!r}: models are {', '.join(MODELS)}")
