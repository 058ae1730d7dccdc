"""Plan a survey: draw which sources are observed, through which instruments, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raypipe.errors import UsageError
from raypipe.physics.energy import EnergyGrid, FloatArray, source_grids
from raypipe.physics.plasma import emissivities
from raypipe.simulation.acis import acis_instruments
from raypipe.simulation.background import background_rate
from raypipe.simulation.catalog_population import catalog_targets
from raypipe.simulation.instrument import Instrument
from raypipe.simulation.responses import read_responses
from raypipe.simulation.targets import Targets, population_targets
from raypipe.simulation.visits import (
    COARSE,
    SEEN_SHARE,
    choose_instruments,
    count_rates,
    fitting_instruments,
    off_axis_shares,
    seen_shares,
)

BATCH = 256
"""Number of detections that share a random stream. Another number changes the result of a seed."""

EXPOSURE_RANGE_S = (1e3, 250e3)
"""Limits of the exposures of ACIS. They were chosen."""
TYPICAL_EXPOSURE_S = 25e3
EXPOSURE_DEX = 0.4
"""Exposures for which counts are planned are log-normal. The values were chosen."""
ERG_PER_COUNT = 1.2e-11
"""Approximate flux, erg/cm2, per count from 0.5 to 7 keV at the aim point. It sets the brightness
of sources."""
VARIABILITY_DEX = 0.1
"""Scatter of the flux of a source between its detections."""
BACKGROUND_SHARE = (3e-3, 2.0)
"""Background counts in the source region per source count: log-uniform, limited by `BACKSCAL`."""
BACKGROUND_AREA = (15.0, 25.0)
"""Area of the background region per area of the source region."""
BACKGROUND_RATE_DEX = 0.15
SKY_SHARE = (0.1, 0.5)
PSF_FRACTION = (0.85, 0.97)
HIGHEST_OFF_AXIS_ARCMIN = 12.0
LEAST_COUNTS = 0.1
"""Fewest expected counts of a source of which an instrument sees nothing."""

Responses = str | Path | Sequence[str | Path] | None
"""A folder of response files, several folders, or None for the built-in instruments."""


@dataclass(frozen=True)
class Plan:
    """Hold N planned observations, drawn for all detections of a survey together.

    `flux` (erg/cm2/s, 0.5-7 keV) and `background_share` are what is aimed at: the limits of
    exposures and regions may ask for others. `background_rate` is in counts/s per unit of BACKSCAL.
    `grids` are the energies at which spectra are computed for each of the `instruments`, with the
    emissivities in the folder `apec_dir` or, if it is None, raypipe's own.
    """

    instruments: Sequence[Instrument]
    grids: Sequence[EnergyGrid]
    targets: Targets
    seed: int
    instrument: npt.NDArray[np.intp]
    flux: FloatArray
    off_axis_arcmin: FloatArray
    psf_fraction: FloatArray
    background_share: FloatArray
    background_area: FloatArray
    background_rate: FloatArray
    sky_share: FloatArray
    apec_dir: str | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def channels(self) -> int:
        """Return the largest number of channels among the instruments."""
        return max(len(each.channel_energy_kev) for each in self.instruments)

    @property
    def is_mixed(self) -> bool:
        """Tell whether another telescope than ACIS takes part."""
        return not all(each.is_acis for each in self.instruments)

    @property
    def batches(self) -> int:
        """Return the number of batches of the survey."""
        return -(-len(self) // BATCH)


def plan_survey(
    detections: int,
    seed: int = 0,
    *,
    counts_min: float = 50.0,
    counts_max: float = 5000.0,
    catalog: str | Path | None = None,
    responses: Responses = None,
    visits: int = 1,
    apec_dir: str | Path | None = None,
) -> Plan:
    """Draw the targets and instruments of a survey.

    Sources come from the built-in population, or from the table `catalog`; instruments are the
    built-in ones, or the responses of any telescopes in the folder, or the folders, `responses`.
    A detection of a table keeps its counts and its flux: that decides its exposure, and its
    response where another would need an impossible exposure.
    Each source is observed `visits` times, through different telescopes as far as there are any;
    with 1 visit some sources are observed again by chance. Plasmas are raypipe's own, or made from
    the tables of AtomDB in the folder `apec_dir`. The same arguments give the same plan. Raises
    UsageError for impossible numbers, a table without the columns needed, and a folder without
    responses or without the tables.
    """
    if visits < 1:
        raise UsageError(f"visits must be at least 1, not {visits}")
    if detections < 1:
        raise UsageError(f"detections must be at least 1, not {detections}")
    if seed < 0:
        raise UsageError(f"seed must not be negative, but is {seed}")
    if not 0 < counts_min <= counts_max:
        raise UsageError(
            f"counts_min {counts_min}, counts_max {counts_max}: expected 0 < min <= max"
        )
    instruments = _instruments(responses)
    grids = source_grids([each.energy_edges_kev for each in instruments])
    tables = None if apec_dir is None else str(apec_dir)
    for grid in {COARSE, *grids}:
        emissivities(grid, tables)  # Once here, not in each thread that draws; broken tables raise.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    targets = _targets(rng, detections, counts_min, counts_max, catalog, visits)
    typical = _dex(rng, TYPICAL_EXPOSURE_S, EXPOSURE_DEX, detections)
    first = np.unique(targets.source, return_index=True)[1]
    source_flux = (targets.counts / typical * ERG_PER_COUNT)[first]
    source_row = np.unique(targets.source, return_inverse=True)[1]
    instrument = rng.integers(len(instruments), size=detections)
    is_chandra = all(each.is_acis for each in instruments)
    if visits > 1 or not is_chandra:
        instrument, targets = _observed(seed, targets, instruments, tables)
    scatter = _dex(rng, 1.0, VARIABILITY_DEX, detections)
    off_axis = HIGHEST_OFF_AXIS_ARCMIN * np.sqrt(rng.uniform(0, 1, detections))
    psf_fraction = rng.uniform(*PSF_FRACTION, detections)
    if visits == 1 and is_chandra and np.isfinite(targets.flux).any():
        shares = off_axis_shares(off_axis) * psf_fraction
        exposures = _needed_exposures(targets, instruments, shares, tables)
        instrument = fitting_instruments(instrument, exposures, EXPOSURE_RANGE_S)
    usual_rate = np.array([background_rate(each) for each in instruments])
    return Plan(
        instruments=instruments,
        grids=grids,
        targets=targets,
        seed=seed,
        instrument=instrument,
        flux=np.where(np.isfinite(targets.flux), targets.flux, source_flux[source_row] * scatter),
        off_axis_arcmin=off_axis,
        psf_fraction=psf_fraction,
        background_share=_log_uniform(rng, BACKGROUND_SHARE, detections),
        background_area=rng.uniform(*BACKGROUND_AREA, detections),
        background_rate=_dex(rng, 1.0, BACKGROUND_RATE_DEX, detections) * usual_rate[instrument],
        sky_share=rng.uniform(*SKY_SHARE, detections),
        apec_dir=tables,
    )


def _observed(
    seed: int, targets: Targets, instruments: Sequence[Instrument], apec_dir: str | None
) -> tuple[npt.NDArray[np.intp], Targets]:
    """Choose instruments, and expect fewer counts of sources that they hardly see.

    Otherwise a handful of photons at the edge of a telescope's band would stand for a source far
    brighter than any.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    shares = seen_shares(targets.sources, instruments, apec_dir)
    instrument = choose_instruments(rng, targets.source, instruments, shares)
    seen = np.minimum(shares[targets.source, instrument] / SEEN_SHARE, 1.0)
    counts = np.maximum(targets.counts * seen, LEAST_COUNTS)
    return instrument, replace(targets, counts=counts)


def _needed_exposures(
    targets: Targets, instruments: Sequence[Instrument], shares: FloatArray, apec_dir: str | None
) -> FloatArray:
    """Return the exposure (s) that gives counts and flux of each detection: (N, I), NaN if unknown.

    `shares` (N,) of the area on axis are left where the detection lies.
    """
    rates = count_rates(targets.sources, instruments, apec_dir)[targets.source] * shares[:, None]
    return np.asarray((targets.counts / targets.flux)[:, None] / rates)


def _instruments(responses: Responses) -> Sequence[Instrument]:
    if responses is None:
        return acis_instruments()
    folders = [responses] if isinstance(responses, str | Path) else responses
    return read_responses(*map(Path, folders))


def _targets(
    rng: np.random.Generator,
    detections: int,
    counts_min: float,
    counts_max: float,
    catalog: str | Path | None,
    visits: int,
) -> Targets:
    sources = -(-detections // visits)
    limits = {"counts_min": counts_min, "counts_max": counts_max}
    if catalog is not None:
        targets = catalog_targets(rng, catalog, sources, **limits)
    elif visits > 1:
        targets = population_targets(rng, sources, repeats=0.0, **limits)
    else:
        targets = population_targets(rng, sources, **limits)
    return targets if visits == 1 else _repeated(rng, targets, visits, detections, **limits)


def _repeated(
    rng: np.random.Generator,
    targets: Targets,
    visits: int,
    detections: int,
    *,
    counts_min: float,
    counts_max: float,
) -> Targets:
    """Return targets with `visits` detections in place of each; the last may have fewer.

    The counts of a detection beyond the first are drawn log-uniformly.
    """
    again = np.repeat(np.arange(len(targets)), visits)[:detections]
    counts = np.exp(rng.uniform(np.log(counts_min), np.log(counts_max), detections))
    counts[::visits] = targets.counts
    return replace(
        targets,
        source=targets.source[again],
        counts=counts,
        origin=targets.origin[again],
        flux=targets.flux[again],
    )


def _dex(rng: np.random.Generator, center: float, dex: float, n: int) -> FloatArray:
    values: FloatArray = center * 10 ** rng.normal(0.0, dex, n)
    return values


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], n: int) -> FloatArray:
    values: FloatArray = np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), n))
    return values
