"""Integrate posterior draws of the photon flux over energy bands: fluxes with limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.model.band_sums import BandIntegrals, Bands, BandSums
from raypipe.model.features import Batch
from raypipe.model.flux_errors import Floats, FluxErrors, widened
from raypipe.model.folding import cash_per_bin, redistribute
from raypipe.model.log_shapes import LogShapes
from raypipe.model.presets import Folded
from raypipe.model.seen_energies import seen_shares
from raypipe.model.statistics import MU_MIN
from raypipe.model.weighted_quantiles import ONE_SIGMA, kish, weighted_quantiles
from raypipe.spectra.band_counts import BANDS_KEV

if TYPE_CHECKING:
    from raypipe.model.posterior import Draws

HARDNESS = {"hard_hs": ("h", "s"), "hard_hm": ("h", "m"), "hard_ms": ("m", "s")}
"""Bands of each hardness ratio: hard_xy is (x - y) / (x + y)."""

DETECTED = 9.0
"""Least test statistic of a band in which a source counts as detected: that of 3 sigma."""
UPPER_LIMIT = 0.9
"""Probability of an upper limit."""
LEAST_SEEN = 2 / 3
"""Least share of a band, in the logarithm of energy, that must be seen to give its flux."""

_LEAST_FLUX = 1e-37
_DRAWS_AT_ONCE = 512
"""Draws that are decoded together: 1.7 MB of fluxes, which the cache of a core holds in part."""


@dataclass(frozen=True)
class Estimate:
    """Hold values and limits, (n, bands) each, NaN where the instrument sees too little of a band.

    `value` is the median of the posterior, `lolim` and `hilim` enclose 68% of it, and the error of
    the model is added to them in quadrature. Where the source is not detected in the band,
    `upper_limit` is its 90% upper limit, `lolim` is 0 and `hilim` is the upper limit; elsewhere
    `upper_limit` is NaN.
    """

    value: npt.NDArray[np.float32]
    lolim: npt.NDArray[np.float32]
    hilim: npt.NDArray[np.float32]
    upper_limit: npt.NDArray[np.float32]

    def where(self, rows: npt.NDArray[np.bool_]) -> Estimate:
        """Return the estimates with NaN where `rows` (n, bands) is false."""
        return Estimate(
            *(np.where(rows, getattr(self, each.name), np.nan) for each in fields(self))
        )


@dataclass(frozen=True)
class BandFluxes:
    """Hold draws from the posterior of the fluxes of n spectra in bands.

    `photons` (n, draws, bands), photon/cm2/s, and `energy` (n, draws, bands), erg/cm2/s, with the
    `weights` (n, draws) of the draws, whose sum is one, and their effective number `ess` (n,).
    `seen` (n, bands) is the share of each band that the instrument sees, in the logarithm of
    energy. `test_statistic` (n, bands) says how much the counts favor photons in the band; see
    `_test_statistics`. Limits are widened by `errors`, those of the model, if these are known.
    """

    bands: Bands
    photons: Tensor
    energy: Tensor
    weights: Tensor
    ess: Tensor
    seen: Tensor
    test_statistic: Tensor
    errors: FluxErrors | None = None

    @property
    def is_detected(self) -> npt.NDArray[np.bool_]:
        """Tell in which bands each source is detected, (n, bands)."""
        return np.asarray((self.test_statistic >= DETECTED).cpu().numpy())

    @property
    def is_seen(self) -> npt.NDArray[np.bool_]:
        """Tell of which bands each instrument sees enough to measure a flux, (n, bands)."""
        return np.asarray((self.seen >= LEAST_SEEN).cpu().numpy())

    @property
    def photon_flux(self) -> Estimate:
        """Return the photon fluxes, photon/cm2/s."""
        return self._estimate(self.photons, self._photon_errors)

    @property
    def energy_flux(self) -> Estimate:
        """Return the energy fluxes, erg/cm2/s."""
        if self.errors is None:
            return self._estimate(self.energy)
        errors = self.errors.of_energy(self.bands, self.seen.cpu().numpy())
        return self._estimate(self.energy, errors)

    def hardness(self, harder: str, softer: str) -> Estimate:
        """Return (x - y) / (x + y) of the photon fluxes in two bands, (n, 1); no upper limits.

        The catalog of Chandra defines its hardness ratios so (Evans et al. 2010, ApJS 189, 37).
        """
        names = list(self.bands)
        places = [names.index(harder), names.index(softer)]
        x, y = self.photons[..., places].clamp_min(_LEAST_FLUX).log().split(1, -1)
        errors = self._photon_errors
        both = None if errors is None else np.linalg.norm(errors[:, places], axis=1)[:, None]
        lolim, value, hilim = np.tanh(0.5 * self._quantiles(x - y, both))
        estimate = Estimate(value, lolim, hilim, np.full_like(value, np.nan))
        return estimate.where(self.is_seen[:, places].min(1, keepdims=True))

    @property
    def _photon_errors(self) -> Floats | None:
        if self.errors is None:
            return None
        return self.errors.of_photons(self.bands, self.seen.cpu().numpy())

    def _estimate(self, draws: Tensor, errors: Floats | None = None) -> Estimate:
        logs = draws.clamp_min(_LEAST_FLUX).log()
        lolim, value, hilim = np.exp(self._quantiles(logs, errors))
        # The posterior has a prior flat in log flux. An upper limit takes the prior that is flat in
        # flux, as is usual (Kraft, Burrows & Nousek 1991, ApJ 374, 344): each draw weighs as much
        # more as its flux is larger. Each band has weights of its own.
        flat = self.weights[..., None] * (draws / draws.amax(1, keepdim=True))
        effective = self.ess[:, None] * (kish(flat) / kish(self.weights)[:, None]).clamp_max(1.0)
        (limit,) = weighted_quantiles(logs, flat, effective, (UPPER_LIMIT,)).exp().cpu().numpy()
        found = self.is_detected
        return Estimate(
            value=value,
            lolim=np.where(found, lolim, 0.0),
            hilim=np.where(found, hilim, limit),
            upper_limit=np.where(found, np.nan, limit),
        ).where(self.is_seen)

    def _quantiles(self, logs: Tensor, errors: Floats | None) -> npt.NDArray[np.float32]:
        """Return lower limit, median and upper limit of logarithms, (3, n, quantities)."""
        weights = self.weights[..., None].expand_as(logs)
        effective = self.ess[:, None].expand(-1, logs.shape[-1])
        limits = weighted_quantiles(logs, weights, effective, ONE_SIGMA).cpu().numpy()
        return limits if errors is None else widened(limits, errors).astype(np.float32)


@torch.no_grad()
def band_fluxes(model: Folded, batch: Batch, draws: Draws, bands: Bands = BANDS_KEV) -> BandFluxes:
    """Integrate the fluxes of posterior draws over bands.

    Raises UsageError for a band outside the grid.
    """
    widths = model.energy_widths_kev
    integrals = BandIntegrals(model.grid, bands, widths)
    shapes, parts = LogShapes.of(model), []
    rows_at_once = max(1, _DRAWS_AT_ONCE // draws.z.shape[1])
    for rows in torch.arange(len(draws.z)).split(rows_at_once):
        density = shapes(draws.z[rows].to(widths.dtype)).exp_()
        parts.append(integrals.of(density, draws.weights[rows], draws.log_amplitude[rows]))
    return fluxes_of(model, batch, draws, integrals, BandSums.joined(parts))


def fluxes_of(
    model: Folded, batch: Batch, draws: Draws, integrals: BandIntegrals, sums: BandSums
) -> BandFluxes:
    """Return the fluxes of draws from their sums, which `integrals` made."""
    widths = model.energy_widths_kev
    return BandFluxes(
        bands=integrals.bands,
        photons=sums.photons,
        energy=sums.energy,
        weights=draws.weights.to(widths.dtype),
        ess=draws.ess,
        seen=seen_shares(model.grid, batch, integrals.bands),
        test_statistic=_test_statistics(sums.mean * widths, integrals.share, batch),
        errors=model.flux_errors,
    )


def flux_columns(fluxes: BandFluxes) -> dict[str, npt.NDArray[np.float32]]:
    """Return the catalog's columns of fluxes and hardness ratios, (n,) each.

    For each band they are flux_<band>, erg/cm2/s, and photflux_<band>, photon/cm2/s, then
    `HARDNESS`, all with _lolim and _hilim.
    """
    columns: dict[str, npt.NDArray[np.float32]] = {}
    kinds = {"flux": fluxes.energy_flux, "photflux": fluxes.photon_flux}
    for kind, estimate in kinds.items():
        for place, band in enumerate(fluxes.bands):
            columns |= _with_limits(f"{kind}_{band}", estimate, place)
    for name, pair in HARDNESS.items():
        columns |= _with_limits(name, fluxes.hardness(*pair), 0)
    return columns


def _test_statistics(photons: Tensor, share: Tensor, batch: Batch) -> Tensor:
    """Return by how much the Cash statistic rises without the photons of each band, (n, bands).

    `photons` (n, n_energy) are the posterior mean of the photons per bin, photon/cm2/s, and `share`
    (n_energy, bands) the share of each bin in each band. The statistic is reduced by what the noise
    of the measured background adds to that of the counts. For an empty band it would be chi squared
    of one degree of freedom in half of all cases, and zero in the other half.
    """
    detected = photons * batch.arf_cm2 * batch.exposure_s[:, None]
    parts = torch.cat([torch.ones_like(share[:, :1]), share], 1).T
    counts = redistribute(detected[:, None] * parts, batch.response_index, batch.responses)
    mu = (counts[:, 0] + batch.background).clamp_min(MU_MIN)
    source = counts[:, 1:]
    observed = batch.counts[:, None]
    with_band = cash_per_bin(observed, mu[:, None])
    without = cash_per_bin(observed, (mu[:, None] - source).clamp_min(MU_MIN))
    rise = (without - with_band).sum(-1)
    # Noise of the counts, mu, and of the expected background, with the weights of a matched filter.
    slope = source / mu[:, None]
    counted = (slope**2 * mu[:, None]).sum(-1)
    measured = mu + batch.background_scale * batch.background
    noise = (slope**2 * measured[:, None]).sum(-1)
    return rise * counted / noise.clamp_min(1e-30)


def _with_limits(name: str, estimate: Estimate, place: int) -> dict[str, npt.NDArray[np.float32]]:
    ends = {"": estimate.value, "_lolim": estimate.lolim, "_hilim": estimate.hilim}
    return {f"{name}{end}": values[:, place].astype(np.float32) for end, values in ends.items()}
