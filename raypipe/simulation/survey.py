"""Draw a survey: plan detections, fold spectra, and draw counts, for arrays of detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import UsageError
from raypipe.simulation.acis import acis_instruments
from raypipe.simulation.background import background_rate, background_shape
from raypipe.simulation.catalog_population import catalog_targets
from raypipe.simulation.energy import ERG_PER_KEV, EnergyGrid, FloatArray
from raypipe.simulation.instrument import Instrument, effective_area, fold
from raypipe.simulation.populations import PARAMETERS, photon_flux
from raypipe.simulation.responses import read_responses
from raypipe.simulation.targets import Targets, population_targets

BATCH = 256
"""Number of detections that share a random stream. Another number changes the result of a seed."""
RELEASE = "sim"
OBI = 0
REGION_ID = 1

TYPICAL_EXPOSURE_S = 25e3
EXPOSURE_DEX = 0.4
EXPOSURE_RANGE_S = (1e3, 250e3)
"""Exposures are log-normal around a typical value, within limits. The values were chosen."""
ERG_PER_COUNT = 1.2e-11
"""Approximate flux, erg/cm2, per count from 0.5 to 7 keV at the aim point. It sets the brightness
of sources."""
VARIABILITY_DEX = 0.1
"""Scatter of the flux of a source between its detections."""
BACKGROUND_SHARE = (3e-3, 2.0)
"""Background counts in the source region per source count: log-uniform, limited by `BACKSCAL`."""
BACKSCAL = (2e-7, 1e-3)
"""Smallest and largest fraction of the detector plane in the source region: of a point source at
the aim point, and of a wide region far off axis, as in the Chandra Source Catalog."""
BACKGROUND_AREA = (15.0, 25.0)
"""Area of the background region per area of the source region."""
BACKGROUND_RATE_DEX = 0.15
SKY_SHARE = (0.1, 0.5)
PSF_FRACTION = (0.85, 0.97)
HIGHEST_OFF_AXIS_ARCMIN = 12.0


@dataclass(frozen=True)
class Survey:
    """N observed detections and their true parameters.

    `table` has columns (N,): identity, class, parameters, and values for the headers. `counts` and
    `background_counts` (N, 1024) are the counts drawn in the source region and the background
    region. `model_counts` and `background_model_counts` (N, 1024) are the expected counts in the
    source region, in total and from the background. `instrument` (N,) are indices into
    `instruments`; `area_cm2` has the effective area of each detection on the energy bins of its
    instrument.
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


@dataclass(frozen=True)
class Plan:
    """N planned observations, drawn for all detections of a survey together.

    `flux` (erg/cm2/s, 0.5-7 keV) and `background_share` are target values, which the limits of
    exposures and regions may change. `background_rate` is in counts/s per unit of BACKSCAL.
    """

    instruments: Sequence[Instrument]
    grid: EnergyGrid
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
    responses: str | Path | None = None,
) -> Plan:
    """Draw the targets and instruments of a survey.

    Sources come from the built-in population, or from the table `catalog`; instruments are the
    built-in ones, or the ARF/RMF pairs in the folder `responses`. The same arguments give the same
    plan. Raises UsageError for impossible numbers, a table without the columns needed, and a
    folder without responses.
    """
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
    targets = _targets(rng, detections, counts_min, counts_max, catalog)
    typical = _dex(rng, TYPICAL_EXPOSURE_S, EXPOSURE_DEX, detections)
    first = np.unique(targets.source, return_index=True)[1]
    source_flux = (targets.counts / typical * ERG_PER_COUNT)[first]
    source_row = np.unique(targets.source, return_inverse=True)[1]
    instrument = rng.integers(len(instruments), size=detections)
    usual_rate = np.array([background_rate(each) for each in instruments])
    return Plan(
        instruments=instruments,
        grid=EnergyGrid.covering(each.energy_edges_kev for each in instruments),
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


def draw_survey(detections: int, seed: int = 0, **options: Any) -> Survey:
    """Draw a survey in memory (20 kB per detection); `options` are those of `plan_survey`."""
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
    flux = photon_flux(targets.sources.take(source), plan.grid)
    flux /= _energy_flux(flux, plan.grid)[:, None]

    rate, background, area = _through_instruments(plan, rows, flux)

    # The wanted counts and the flux determine the exposure, and the wanted background determines
    # BACKSCAL; both are limited. Source counts are then scaled to the wanted number, so that where
    # a limit applies it is the flux or the background that differs from the plan.
    wanted = targets.counts[rows]
    band_rate = rate[:, plan.instruments[0].channels_in_band].sum(axis=1)
    exposure = np.round(np.clip(wanted / (plan.flux[rows] * band_rate), *EXPOSURE_RANGE_S), 3)
    background_per_area = plan.background_rate[rows] * exposure
    backscal = np.clip(wanted * plan.background_share[rows] / background_per_area, *BACKSCAL)
    background *= (backscal * background_per_area)[:, None]
    model = rate * (wanted / band_rate)[:, None] + background
    in_background_region = background * plan.background_area[rows][:, None]
    table = {
        **_identity(rows),
        "name": targets.name[source],
        "ra": targets.ra[source],
        "dec": targets.dec[source],
        "class": targets.label[source],
        "model": targets.sources.model[source],
        "instrument": np.array([plan.instruments[i].name for i in plan.instrument[rows]]),
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
    plan: Plan, rows: npt.NDArray[np.intp], flux: FloatArray
) -> tuple[FloatArray, FloatArray, list[npt.NDArray[np.float32]]]:
    """Fold the flux (B, n) of detections, each with its instrument.

    Returns counts per second in each channel (B, 1024), the background normalized to one count
    between 0.5 and 7 keV (B, 1024), and the effective areas.
    """
    channels = len(plan.instruments[0].channel_energy_kev)
    rate = np.empty((len(rows), channels))
    background = np.empty((len(rows), channels))
    area = [np.empty(0, np.float32)] * len(rows)
    for index in np.unique(plan.instrument[rows]):
        here = np.flatnonzero(plan.instrument[rows] == index)
        instrument, seen = plan.instruments[index], rows[here]
        areas = effective_area(instrument, plan.off_axis_arcmin[seen], plan.psf_fraction[seen])
        rate[here] = fold(instrument, plan.grid, flux[here], areas)
        background[here] = background_shape(instrument, plan.grid, plan.sky_share[seen])
        for row, values in zip(here, areas, strict=True):
            area[row] = values
    return rate, background, area


def _instruments(responses: str | Path | None) -> Sequence[Instrument]:
    return acis_instruments() if responses is None else read_responses(Path(responses))


def _targets(
    rng: np.random.Generator,
    detections: int,
    counts_min: float,
    counts_max: float,
    catalog: str | Path | None,
) -> Targets:
    if catalog is None:
        return population_targets(rng, detections, counts_min=counts_min, counts_max=counts_max)
    return catalog_targets(rng, catalog, detections, counts_min=counts_min, counts_max=counts_max)


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


def _identity(rows: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
    obsid = rows.astype(np.int64) + 1
    ids = [f"{RELEASE}:{each}.{OBI}.{REGION_ID}" for each in obsid]
    return {
        "detection_id": np.array(ids),
        "obsid": obsid,
        "obi": np.full(len(rows), OBI, np.int64),
        "region_id": np.full(len(rows), REGION_ID, np.int64),
    }


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
