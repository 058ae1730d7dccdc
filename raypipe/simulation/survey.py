"""Draw a survey: fold the spectra of a plan and draw counts, for arrays of detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.physics.energy import ERG_PER_KEV, EnergyGrid, FloatArray
from raypipe.simulation.background import background_shape, backscal_range
from raypipe.simulation.instrument import Instrument, effective_area, fold
from raypipe.simulation.mission_products import FILE_PREFIX, mission_stem
from raypipe.simulation.populations import PARAMETERS, photon_flux
from raypipe.simulation.survey_plan import BATCH, EXPOSURE_RANGE_S, Plan, plan_survey

RELEASE = "sim"
OBI = 0
REGION_ID = 1

SHORTEST_S = 20.0
"""Shortest exposure of another telescope than ACIS: some have ten times its area."""


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
        sources = plan.targets.sources.take(plan.targets.source[rows[on_grid]])
        flux = photon_flux(sources, grid, plan.apec_dir)
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
