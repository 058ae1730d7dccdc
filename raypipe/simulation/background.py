"""Provide a spectrum's background: the one that a telescope measured, or a built-in one.

The built-in background of ACIS holds particles, fluorescence of the camera and the sky; that of any
other camera is flat in energy and small.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from raypipe.physics.absorption import transmission
from raypipe.physics.components import power_law
from raypipe.physics.energy import EnergyGrid, FloatArray
from raypipe.physics.plasma import thermal_plasma
from raypipe.simulation.instrument import Instrument, fold

FRONT_CONTINUUM = (
    (0.12, 5.0),
    (0.3, 200.0),
    (0.5, 190.0),
    (0.8, 140.0),
    (1.2, 110.0),
    (2.0, 100.0),
    (3.0, 83.0),
    (5.0, 80.0),
    (7.0, 82.0),
    (9.0, 120.0),
    (12.0, 190.0),
    (14.0, 100.0),
    (14.9, 5.0),
)
BACK_CONTINUUM = (
    (0.12, 300.0),
    (0.3, 1500.0),
    (0.4, 900.0),
    (0.5, 600.0),
    (0.9, 350.0),
    (1.5, 330.0),
    (2.0, 340.0),
    (3.0, 205.0),
    (4.5, 185.0),
    (6.0, 320.0),
    (7.0, 750.0),
    (8.0, 1300.0),
    (9.0, 1750.0),
    (10.0, 2150.0),
    (12.0, 2000.0),
    (14.9, 1400.0),
)
"""Particle continua of front- and back-illuminated chips: energy (keV) and counts per keV, drawn by
eye from background spectra of the Chandra Source Catalog. Bartalucci et al. (2014, A&A 566, A25)
fitted a model to the particle background."""

FLUORESCENCE = (
    (1.487, 8.0, 10.0),
    (1.740, 10.0, 40.0),
    (2.123, 28.0, 35.0),
    (7.478, 45.0, 60.0),
    (8.265, 7.0, 9.0),
    (9.713, 80.0, 60.0),
)
"""Lines of Al, Si, Au M, Ni K alpha, Ni K beta and Au L: energy (keV; X-ray Data Booklet, LBNL) and
counts on front- and back-illuminated chips on the scale of the continua, also drawn by eye."""
FLUORESCENCE_SIGMA_KEV = 0.06
"""Width of the lines, about the resolution of ACIS."""

SKY_PLASMA_KEV = 0.2
SKY_PHOTON_INDEX = 1.4
SKY_PLASMA_SHARE = 0.35
SKY_NH_1E22 = 0.02
"""The sky: a Galactic plasma, and the unresolved power law of De Luca & Molendi (2004, A&A 419,
837). The plasma's fraction of the photons and the column density were chosen."""

BACK_RATE = 55.0
FRONT_RATE = 14.0
"""Background counts/s from 0.5 to 7 keV per unit of BACKSCAL, which is 1 for the whole 8192 x 8192
detector plane: typical values."""


FLAT_RATE = 2e-3
"""Counts/s from 0.5 to 7 keV of a camera whose background is not known, for a BACKSCAL of 1."""
FLAT_BACKSCAL = (0.01, 1.0)

ACIS_BACKSCAL = (2e-7, 1e-3)
"""Area of the source region on the detector plane: of a point source at the aim point, and of a
wide region far off axis; as in the Chandra Source Catalog."""
MEASURED_BACKSCAL = (0.1, 10.0)
"""Area of the source region in units of that of the spectrum whose background was measured."""


def background_rate(instrument: Instrument) -> float:
    """Return the usual background counts/s, 0.5-7 keV, per unit of BACKSCAL."""
    if instrument.background is not None:
        return float(instrument.background.rate[instrument.channels_in_band].sum())
    if not instrument.is_acis:
        return FLAT_RATE
    return BACK_RATE if instrument.back_illuminated else FRONT_RATE


def backscal_range(instrument: Instrument) -> tuple[float, float]:
    """Return the smallest and the largest BACKSCAL of a source region."""
    if instrument.is_acis:
        return ACIS_BACKSCAL
    if instrument.background is None:
        return FLAT_BACKSCAL
    smallest, largest = MEASURED_BACKSCAL
    measured = instrument.background.source_backscal
    return smallest * measured, largest * measured


def background_shape(instrument: Instrument, grid: EnergyGrid, sky_share: FloatArray) -> FloatArray:
    """Return the expected background per channel (B, n), normalized to one count in 0.5-7 keV.

    `sky_share` (B,) is the part of those counts that came through the mirror of ACIS; backgrounds
    that were measured, and flat ones, do not depend on it.
    """
    if instrument.background is not None:
        one = _one_count(instrument.background.rate, instrument)
        return np.broadcast_to(one, (len(sky_share), len(one)))
    if not instrument.is_acis:
        flat = _one_count(np.diff(instrument.channel_energy_kev, axis=1)[:, 0], instrument)
        return np.broadcast_to(flat, (len(sky_share), len(flat)))
    share = sky_share[:, None]
    return share * _sky(instrument, grid) + (1 - share) * _particles(instrument)


@lru_cache(maxsize=64)
def _particles(instrument: Instrument) -> FloatArray:
    table = BACK_CONTINUUM if instrument.back_illuminated else FRONT_CONTINUUM
    energies, densities = np.transpose(table)
    edges = instrument.channel_energy_kev
    middle = edges.mean(axis=1)
    width = edges[:, 1] - edges[:, 0]
    density = np.interp(middle, energies, densities, left=0.0, right=0.0)
    for energy, front, back in FLUORESCENCE:
        z = (middle - energy) / FLUORESCENCE_SIGMA_KEV
        counts = back if instrument.back_illuminated else front
        density += counts * np.exp(-0.5 * z**2) / (FLUORESCENCE_SIGMA_KEV * np.sqrt(2 * np.pi))
    return _one_count(density * width, instrument)


@lru_cache(maxsize=64)
def _sky(instrument: Instrument, grid: EnergyGrid) -> FloatArray:
    one = np.ones(1)
    flux = SKY_PLASMA_SHARE * thermal_plasma(SKY_PLASMA_KEV * one, one, grid)
    flux += (1 - SKY_PLASMA_SHARE) * power_law(SKY_PHOTON_INDEX * one, grid)
    flux *= transmission(SKY_NH_1E22 * one, grid)
    area = instrument.area_cm2[None, :].astype(np.float32)
    return _one_count(fold(instrument, grid, flux, area)[0], instrument)


def _one_count(expected: FloatArray, instrument: Instrument) -> FloatArray:
    return expected / expected[instrument.channels_in_band].sum()
