"""Compute a `Sky` from the built-in population, a table of fitted sources and real responses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.latents.responses import area_on_grid, flux_on_grid, gridded
from raypipe.physics.energy import ERG_PER_KEV, source_grids
from raypipe.simulation.background import background_rate, background_shape, backscal_range
from raypipe.simulation.catalog_population import catalog_targets
from raypipe.simulation.instrument import Instrument, effective_area
from raypipe.simulation.populations import Sources
from raypipe.simulation.responses import read_responses
from raypipe.simulation.survey import SHORTEST_S
from raypipe.simulation.survey_plan import (
    EXPOSURE_RANGE_S,
    HIGHEST_OFF_AXIS_ARCMIN,
    PSF_FRACTION,
    SKY_SHARE,
)
from raypipe.simulation.targets import population_targets
from raypipe.simulation.visits import seen_shares
from raypipe.spectra.batch import stack_responses
from raypipe.spectra.channel_bins import MOST_BINS
from raypipe.spectra.grid import EnergyGrid
from recipes.any_telescope.sky import FLOOR, Sky

log = logging.getLogger("recipes.any_telescope")

KINDS = 16
"""Areas and backgrounds of each instrument: off-axis angles and sky shares drawn at random."""
SOURCES_AT_ONCE = 1024
GRID = EnergyGrid()


def prepare(
    folders: list[Path], catalog: Path | None, population: int, fitted: int, seed: int
) -> Sky:
    """Draw sources and put all responses of the `folders` on the model's grid.

    `population` sources are of the eight built-in classes; `fitted` are drawn from the fits in the
    table `catalog`.
    """
    rng = np.random.default_rng(seed)
    drawn = [population_targets(rng, population, counts_min=1, counts_max=2, repeats=0).sources]
    if catalog is not None and fitted:
        drawn.append(catalog_targets(rng, catalog, fitted, counts_min=1, counts_max=2).sources)
    return sky_of(drawn, read_responses(*folders), rng)


def sky_of(
    drawn: Sequence[Sources], instruments: Sequence[Instrument], rng: np.random.Generator
) -> Sky:
    """Put sources and instruments on the model's grid."""
    log.info("%d instruments: %s", len(instruments), ", ".join(each.name for each in instruments))
    flux, seen = [], []
    for sources in drawn:
        seen.append(seen_shares(sources, instruments))
        for rows in np.array_split(np.arange(len(sources)), -(-len(sources) // SOURCES_AT_ONCE)):
            flux.append(_normalized(sources.take(rows)))
    density = np.concatenate(flux)
    scale = density.max(axis=1)
    with np.errstate(divide="ignore"):
        log_flux = np.maximum(np.log(density / scale[:, None]), FLOOR)
    responses = [gridded(each) for each in instruments]
    areas, backgrounds = zip(*(_kinds(each, rng) for each in instruments), strict=True)
    acis = np.array([each.is_acis for each in instruments])
    return Sky(
        log_flux=log_flux.astype(np.float16),
        scale=scale.astype(np.float32),
        seen=np.concatenate(seen).astype(np.float32),
        responses=stack_responses(responses),
        areas=np.stack(areas),
        backgrounds=np.stack(backgrounds),
        rate=np.array([background_rate(each) for each in instruments], np.float32),
        backscal=np.array([backscal_range(each) for each in instruments], np.float32),
        shortest_s=np.where(acis, EXPOSURE_RANGE_S[0], SHORTEST_S).astype(np.float32),
        bins=tuple(each.bins for each in responses),
        missions=tuple(each.telescope for each in instruments),
        names=tuple(each.name for each in instruments),
    )


def _normalized(sources: Sources) -> npt.NDArray[np.float64]:
    """Return fluxes on the grid, photon/cm2/s/keV, of 1 erg/cm2/s from 0.5 to 7 keV."""
    flux = flux_on_grid(sources)
    inside = (GRID.mid_kev >= 0.5) & (GRID.mid_kev < 7.0)
    energy = (flux * GRID.widths_kev * GRID.mid_kev)[:, inside].sum(axis=1) * ERG_PER_KEV
    normalized: npt.NDArray[np.float64] = flux / energy[:, None]
    return normalized


def _kinds(
    instrument: Instrument, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return areas (K, n_energy), cm2, and shapes of the background (K, bins) of an instrument."""
    off_axis = HIGHEST_OFF_AXIS_ARCMIN * np.sqrt(rng.uniform(0, 1, KINDS))
    areas = effective_area(instrument, off_axis, rng.uniform(*PSF_FRACTION, KINDS))
    grid = source_grids([instrument.energy_edges_kev])[0]
    native = background_shape(instrument, grid, rng.uniform(*SKY_SHARE, KINDS))
    bins = gridded(instrument).bins
    shapes = np.zeros((KINDS, MOST_BINS), np.float32)
    shapes[:, : len(bins)] = bins.bin_counts(np.ascontiguousarray(native)[:, : bins.n_channels])
    return np.stack([area_on_grid(instrument, each) for each in areas]), shapes
