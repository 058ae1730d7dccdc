"""Hold what fits need of a batch, and compute expected counts of a model with their slopes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raypipe.fits.models import Spectra
from raypipe.model.features import Batch
from raypipe.model.folding import cash_per_bin, redistribute
from raypipe.model.statistics import MU_MIN
from raypipe.spectra.grid import EnergyGrid

_LOWEST_EXPONENT = -80.0
"""Exponents of fluxes are limited to this, far above the slow denormal numbers."""
_FEWEST = 1e-30


@dataclass(frozen=True)
class Data:
    """Hold the rows of a batch that are fitted.

    `to_photons` (n, n_energy) gives the detected photons for a photon/cm2/s/keV in each energy bin;
    the other fields are those of `Batch`, with `noise` (n, bins) the variance that the measured
    background adds to the counts.
    """

    to_photons: Tensor
    counts: Tensor
    background: Tensor
    noise: Tensor
    response_index: Tensor
    responses: Tensor

    @classmethod
    def of(cls, batch: Batch, grid: EnergyGrid) -> Data:
        """Take the rows of a batch on `grid`."""
        widths = torch.tensor(grid.widths_kev, dtype=torch.float32, device=batch.counts.device)
        return cls(
            to_photons=batch.arf_cm2 * batch.exposure_s[:, None] * widths,
            counts=batch.counts,
            background=batch.background,
            noise=batch.background_scale * batch.background,
            response_index=batch.response_index,
            responses=batch.responses,
        )

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, rows: Tensor) -> Data:
        """Select rows by index (k,); an index may occur several times."""
        return Data(
            self.to_photons[rows],
            self.counts[rows],
            self.background[rows],
            self.noise[rows],
            self.response_index[rows.cpu()],
            self.responses,
        )


@dataclass(frozen=True)
class Fold:
    """Hold the expected counts of a model, with their slopes, at one place per row.

    A place (n, 3) is the fitted variable, the column density in 10^22 cm^-2 and the logarithm of
    the expected source counts. `mu` (n, bins) includes the background; `slopes` (n, 3, bins) are
    its derivatives; `objective` (n,) is half the Cash statistic; `log_amplitude` (n,) is the
    logarithm of the model's amplitude and `amplitude_slopes` (n, 3) its derivatives.
    """

    mu: Tensor
    slopes: Tensor
    objective: Tensor
    log_amplitude: Tensor
    amplitude_slopes: Tensor

    def scores(self, data: Data) -> tuple[Tensor, Tensor]:
        """Return the gradient (n, 3) of the objective and its Fisher information (n, 3, 3)."""
        mu = self.mu.clamp_min(MU_MIN)
        gradient = (self.slopes @ (1.0 - data.counts / mu)[..., None])[..., 0]
        information = (self.slopes / mu[:, None]) @ self.slopes.transpose(1, 2)
        return gradient.double(), information.double()


def absorbed(spectra: Spectra, sigmas: tuple[Tensor, Tensor], place: Tensor) -> Tensor:
    """Return slopes of the absorbed flux, (n, 3, n_energy), for an amplitude of one.

    They are in the order of places: by the fitted variable, by the column, and by the log
    amplitude, which is the flux itself.
    """
    log_flux, slope = spectra(place[:, 0])
    column = place[:, 1:2]
    thin, thick = (
        0.5 * torch.exp((log_flux - column * sigma).clamp_min(_LOWEST_EXPONENT)) for sigma in sigmas
    )
    flux = thin + thick
    return torch.stack([slope * flux, -(thin * sigmas[0] + thick * sigmas[1]), flux], 1)


def fold(spectra: Spectra, sigmas: tuple[Tensor, Tensor], place: Tensor, data: Data) -> Fold:
    """Fold the model at `place` (n, 3) through the response of each row."""
    place = place.float()
    photons = absorbed(spectra, sigmas, place) * data.to_photons[:, None]
    counts = redistribute(photons, data.response_index, data.responses)
    totals = counts.sum(-1)
    total = totals[:, 2:].clamp_min(_FEWEST)
    # The amplitude is profiled through the source's total: mu = exp(c) shape / sum(shape).
    scale = torch.exp(place[:, 2:3]) / total
    source = counts[:, 2] * scale
    relative = totals[:, :2] / total
    slopes = torch.cat(
        [
            counts[:, :2] * scale[..., None] - relative[..., None] * source[:, None],
            source[:, None],
        ],
        1,
    )
    mu = source + data.background
    objective = 0.5 * cash_per_bin(data.counts, mu).double().sum(-1)
    ones = torch.ones_like(total)
    return Fold(
        mu,
        slopes,
        objective,
        (place[:, 2:3] - torch.log(total))[:, 0],
        torch.cat([-relative, ones], 1).double(),
    )
