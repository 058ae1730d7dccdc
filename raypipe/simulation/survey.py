"""Draw a survey: plan detections, fold spectra, and draw counts, for arrays of detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import UsageError
from raypipe.physics.energy import ERG_PER_KEV, EnergyGrid, FloatArray, source_grids
from raypipe.simulation.acis import acis_instruments
from raypipe.simulation.background import background_rate, background_shape, backscal_range
from raypipe.simulation.catalog_population import catalog_targets
from raypipe.simulation.instrument import Instrument, effective_area, fold
from raypipe.simulation.mission_products import FILE_PREFIX, mission_stem
from raypipe.simulation.populations import PARAMETERS, photon_flux
from raypipe.simulation.responses import read_responses
from raypipe.simulation.targets import Targets, population_targets
from raypipe.simulation.visits import SEEN_SHARE, choose_instruments, seen_shares

BATCH = 256
"""Number of detections that share a random stream. Another number changes the result of a seed."""
RELEASE = "sim"
OBI = 0
REGION_ID = 1

TYPICAL_EXPOSURE_S = 25e3
EXPOSURE_DEX = 0.4
EXPOSURE_RANGE_S = (1e3, 250e3)
"""Exposures are log-normal around a typical value, within limits. The values were chosen."""
SHORTEST_S = 20.0
"""Shortest exposure of another telescope than ACIS: some have ten times its area."""
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
class Survey:
    """Hold N observed detections and their true parameters.

    `table` holds (N,) columns: identity, class, parameters, and what the headers need. `counts` and
    `background_counts` (N, n) are what was drawn in the source and background region,
    `model_counts` and `background_model_counts` (N, n) what was expected in the source region: all
    of it, and the background alone. n is the largest number of channels of the survey's
    instruments, 1024 for ACIS; beyond those of a detection's own instrument all are 0. `instrument`
    (N,) indexes `instruments`; `area_cm2` has each detection's effective area on its instrument's
    energy bins.
    """

    instruments: Sequence[Instrument]
    instrument: npt.NDArray[np.intp]
    table: dict[str, npt.NDArray[Any]]
    counts: npt.NDArray[np.int32]
    background_counts: npt.NDArray[np.int32]
    model_counts: npt.NDArray[np.float32]
    background_model_counts: npt.NDArray[np.float32]
    area_cm2: list[npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.instrument)

    def native_counts(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return counts and background counts of a detection on its instrument's channels."""
        channels = len(self.instruments[self.instrument[i]].channel_energy_kev)
        return self.counts[i, :channels], self.background_counts[i, :channels]


@dataclass(frozen=True)
class Plan:
    """Hold N planned observations, drawn for all detections of a survey together.

    `flux` (erg/cm2/s, 0.5-7 keV) and `background_share` are what is aimed at: the limits of
    exposures and regions may ask for others. `background_rate` is in counts/s per unit of BACKSCAL.
    `grids` are the energies at which spectra are computed for each of the `instruments`.
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
) -> Plan:
    """Draw the targets and instruments of a survey.

    Sources come from the built-in population, or from the table `catalog`; instruments are the
    built-in ones, or the responses of any telescopes in the folder, or the folders, `responses`.
    Each source is observed `visits` times, through different telescopes as far as there are any;
    with 1 visit some sources are observed again by chance. The same arguments give the same plan.
    Raises UsageError for impossible numbers, a table without the columns needed, and a folder
    without responses.
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
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    targets = _targets(rng, detections, counts_min, counts_max, catalog, visits)
    typical = _dex(rng, TYPICAL_EXPOSURE_S, EXPOSURE_DEX, detections)
    first = np.unique(targets.source, return_index=True)[1]
    source_flux = (targets.counts / typical * ERG_PER_COUNT)[first]
    source_row = np.unique(targets.source, return_inverse=True)[1]
    instrument = rng.integers(len(instruments), size=detections)
    if visits > 1 or not all(each.is_acis for each in instruments):
        instrument, targets = _observed(seed, targets, instruments)
    usual_rate = np.array([background_rate(each) for each in instruments])
    return Plan(
        instruments=instruments,
        grids=source_grids([each.energy_edges_kev for each in instruments]),
        targets=targets,
        seed=seed,
        instrument=instrument,
        flux=source_flux[source_row] * _dex(rng, 1.0, VARIABILITY_DEX, detections),
        off_axis_arcmin=HIGHEST_OFF_AXIS_ARCMIN * np.sqrt(rng.uniform(0, 1, detections)),
        psf_fraction=rng.uniform(*PSF_FRACTION, detections),
        background_share=_log_uniform(rng, BACKGROUND_SHARE, detections),
        background_area=rng.uniform(*BACKGROUND_AREA, detections),
        background_rate=_dex(rng, 1.0, BACKGROUND_RATE_DEX, detections) * usual_rate[instrument],
        sky_share=rng.uniform(*SKY_SHARE, detections),
    )


def _observed(
    seed: int, targets: Targets, instruments: Sequence[Instrument]
) -> tuple[npt.NDArray[np.intp], Targets]:
    """Choose instruments, and expect fewer counts of sources that they hardly see.

    Otherwise a handful of photons at the edge of a telescope's band would stand for a source far
    brighter than any.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    shares = seen_shares(targets.sources, instruments)
    instrument = choose_instruments(rng, targets.source, instruments, shares)
    seen = np.minimum(shares[targets.source, instrument] / SEEN_SHARE, 1.0)
    counts = np.maximum(targets.counts * seen, LEAST_COUNTS)
    return instrument, replace(targets, counts=counts)


def draw_survey(detections: int, seed: int = 0, **options: Any) -> Survey:
    """Draw a whole survey in memory, which takes 20 KB per detection with ACIS.

    The options are those of `plan_survey`.
    """
    return _joined(list(draw_batches(plan_survey(detections, seed, **options))))


def draw_batches(plan: Plan) -> Iterator[Survey]:
    """Yield the survey in batches of `BATCH` detections."""
    for batch in range(plan.batches):
        yield draw_batch(plan, batch)


def draw_batch(plan: Plan, batch: int) -> Survey:
    """Draw one batch of a plan, independently of other batches."""
    rows = np.arange(batch * BATCH, min((batch + 1) * BATCH, len(plan)))
    rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(1, batch)))
    targets = plan.targets
    source = targets.source[rows]
    rate, band_rate, background, area = _through_instruments(plan, rows)

    # The wanted counts and the flux determine the exposure, and the wanted background determines
    # BACKSCAL; both are limited. Source counts are then scaled to the wanted number, so that where
    # a limit applies it is the flux or the background that differs from the plan.
    wanted = targets.counts[rows]
    is_acis = np.array([each.is_acis for each in plan.instruments])[plan.instrument[rows]]
    shortest, longest = EXPOSURE_RANGE_S
    shortest_s = np.where(is_acis, shortest, SHORTEST_S)
    exposure = np.round(np.clip(wanted / (plan.flux[rows] * band_rate), shortest_s, longest), 3)
    background_per_area = plan.background_rate[rows] * exposure
    limits = np.array([backscal_range(each) for each in plan.instruments])[plan.instrument[rows]]
    backscal = np.clip(wanted * plan.background_share[rows] / background_per_area, *limits.T)
    background *= (backscal * background_per_area)[:, None]
    model = rate * (wanted / band_rate)[:, None] + background
    in_background_region = background * plan.background_area[rows][:, None]
    table = {
        **_identity(plan, rows),
        "name": targets.name[source],
        "ra": targets.ra[source],
        "dec": targets.dec[source],
        "class": targets.label[source],
        "model": targets.sources.model[source],
        "instrument": np.array([plan.instruments[i].name for i in plan.instrument[rows]]),
        **_mission(plan, rows),
        "off_axis_arcmin": plan.off_axis_arcmin[rows],
        "psf_fraction": plan.psf_fraction[rows],
        "exposure_s": exposure,
        "backscal": backscal,
        "background_backscal": backscal * plan.background_area[rows],
        "source_counts": wanted,
        "background_share": backscal * background_per_area / wanted,
        "flux_b": wanted / (exposure * band_rate),
        "catalog_detection": targets.origin[rows],
        **{name: targets.sources.parameters[name][source] for name in PARAMETERS},
    }
    return Survey(
        instruments=plan.instruments,
        instrument=plan.instrument[rows],
        table=table,
        counts=rng.poisson(model).astype(np.int32),
        background_counts=rng.poisson(in_background_region).astype(np.int32),
        model_counts=model.astype(np.float32),
        background_model_counts=background.astype(np.float32),
        area_cm2=area,
    )


def _through_instruments(
    plan: Plan, rows: npt.NDArray[np.intp]
) -> tuple[FloatArray, FloatArray, FloatArray, list[npt.NDArray[np.float32]]]:
    """Fold the spectra of detections, of 1 erg/cm2/s from 0.5 to 7 keV, each with its instrument.

    Returns counts per second and channel (B, n), their sum from 0.5 to 7 keV (B,), the background's
    shape (B, n) with one count there, and the effective areas.
    """
    rate = np.zeros((len(rows), plan.channels))
    background = np.zeros((len(rows), plan.channels))
    band_rate = np.empty(len(rows))
    area = [np.empty(0, np.float32)] * len(rows)
    of_grid = np.array([plan.grids.index(grid) for grid in plan.grids])[plan.instrument[rows]]
    for first in np.unique(of_grid):
        grid, on_grid = plan.grids[first], np.flatnonzero(of_grid == first)
        flux = photon_flux(plan.targets.sources.take(plan.targets.source[rows[on_grid]]), grid)
        flux /= _energy_flux(flux, grid)[:, None]
        for index in np.unique(plan.instrument[rows[on_grid]]):
            among = np.flatnonzero(plan.instrument[rows[on_grid]] == index)
            here = on_grid[among]
            instrument, seen = plan.instruments[index], rows[here]
            areas = effective_area(instrument, plan.off_axis_arcmin[seen], plan.psf_fraction[seen])
            channels = len(instrument.channel_energy_kev)
            folded = fold(instrument, grid, flux[among], areas)
            rate[here, :channels] = folded
            band_rate[here] = folded[:, instrument.channels_in_band].sum(axis=1)
            shape = background_shape(instrument, grid, plan.sky_share[seen])
            background[here, :channels] = shape
            for row, values in zip(here, areas, strict=True):
                area[row] = values
    return rate, band_rate, background, area


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
        targets, source=targets.source[again], counts=counts, origin=targets.origin[again]
    )


def _dex(rng: np.random.Generator, center: float, dex: float, n: int) -> FloatArray:
    values: FloatArray = center * 10 ** rng.normal(0.0, dex, n)
    return values


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], n: int) -> FloatArray:
    values: FloatArray = np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), n))
    return values


def _energy_flux(flux: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return the energy flux of photon flux densities (B, n), erg/cm2/s between 0.5 and 7 keV."""
    per_bin = grid.mid_kev[grid.in_band] * grid.width_kev * ERG_PER_KEV
    energy: FloatArray = (flux[:, grid.in_band] * per_bin).sum(axis=1)
    return energy


def _identity(plan: Plan, rows: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
    obsid = rows.astype(np.int64) + 1
    instruments = [plan.instruments[index] for index in plan.instrument[rows]]
    ids = [
        f"{RELEASE}:{number}.{OBI}.{REGION_ID}"
        if instrument.is_acis
        else FILE_PREFIX + mission_stem(instrument, int(number))
        for number, instrument in zip(obsid, instruments, strict=True)
    ]
    return {
        "detection_id": np.array(ids),
        "obsid": obsid,
        "obi": np.full(len(rows), OBI, np.int64),
        "region_id": np.full(len(rows), REGION_ID, np.int64),
    }


def _mission(plan: Plan, rows: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
    """Name the telescope of each detection, if there are any besides ACIS."""
    if not plan.is_mixed:
        return {}
    return {"telescope": np.array([plan.instruments[i].mission for i in plan.instrument[rows]])}


def _joined(batches: list[Survey]) -> Survey:
    columns = batches[0].table
    return Survey(
        instruments=batches[0].instruments,
        instrument=np.concatenate([batch.instrument for batch in batches]),
        table={name: np.concatenate([batch.table[name] for batch in batches]) for name in columns},
        counts=np.concatenate([batch.counts for batch in batches]),
        background_counts=np.concatenate([batch.background_counts for batch in batches]),
        model_counts=np.concatenate([batch.model_counts for batch in batches]),
        background_model_counts=np.concatenate([b.background_model_counts for b in batches]),
        area_cm2=[area for batch in batches for area in batch.area_cm2],
    )
