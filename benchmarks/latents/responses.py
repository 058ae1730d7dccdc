"""Collect the real responses for the surveys, and put them on the model's grid as ingest does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.ogip import Rmf
from raypipe.physics import energy
from raypipe.simulation.instrument import Instrument
from raypipe.simulation.populations import Sources, photon_flux
from raypipe.simulation.response_files import RESPONSE_NAME
from raypipe.simulation.responses import read_responses
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import GriddedResponse, overlap_shares, put_rmf_on_grid

log = logging.getLogger("benchmarks.latents")

FloatArray = npt.NDArray[np.float32]

GRID = EnergyGrid()
FINE = energy.EnergyGrid(0.2, 12.0, 2360)
"""Even bins of 5 eV, of which those of the model's grid consist."""
SAME_RESPONSE = 0.015
"""Responses count as equal if their spectra of the same source differ by less than this."""


def collect_responses(data: Sequence[Path], folder: Path) -> Path:
    """Link all distinct ARF/RMF pairs of ACIS below the folders `data` into one folder.

    Of equal ones the catalog's own are kept, of files of one name the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for path in (path for each in data for path in sorted(each.rglob("*"))):
        if not RESPONSE_NAME.fullmatch(path.name):
            continue
        if (folder / path.name).exists():
            log.warning("%s: passed over, there is another file of this name", path)
        else:
            (folder / path.name).symlink_to(path.resolve())
    kept: list[tuple[Instrument, FloatArray]] = []
    found = [instrument for instrument in read_responses(folder) if instrument.is_acis]
    for instrument in sorted(found, key=lambda each: each.vignettes):
        effective = area_on_grid(instrument)[:, None] * gridded(instrument).redistribution
        if all(_difference(effective, other) >= SAME_RESPONSE for _, other in kept):
            kept.append((instrument, effective))
    patterns = [f"{instrument.name.replace('_r', '*_r')}*" for instrument, _ in kept]
    for path in folder.iterdir():
        if not any(fnmatch(path.name, pattern) for pattern in patterns):
            path.unlink()
    log.info("%d responses: %s", len(kept), ", ".join(instrument.name for instrument, _ in kept))
    return folder


def _difference(one: FloatArray, other: FloatArray) -> float:
    """Share of the counts that two responses put elsewhere, for a hard or a soft power law."""
    middle, width = GRID.mid_kev[:, None], GRID.widths_kev[:, None]
    worst = 0.0
    for slope in 1.0, 3.0:
        spectra = [(middle**-slope * width * each).sum(0) for each in (one, other)]
        shares = [spectrum / spectrum.sum() for spectrum in spectra]
        worst = max(worst, 0.5 * float(np.abs(shares[0] - shares[1]).sum()))
    return worst


@lru_cache(maxsize=64)
def gridded(instrument: Instrument) -> GriddedResponse:
    """Put an instrument's redistribution on the model's grid, as ingest does."""
    edges, channels = instrument.energy_edges_kev, len(instrument.channel_energy_kev)
    rmf = Rmf(
        edges[:-1],
        edges[1:],
        instrument.first_channel + np.arange(channels),
        instrument.channel_energy_kev,
        instrument.redistribution,
        False,
        {"TELESCOP": instrument.telescope, "INSTRUME": instrument.camera},
    )
    return put_rmf_on_grid(rmf, GRID, instrument.name)


def area_on_grid(instrument: Instrument, area_cm2: npt.NDArray[Any] | None = None) -> FloatArray:
    """Put an area on the model's grid, cm2; by default the instrument's on-axis area."""
    area = instrument.area_cm2 if area_cm2 is None else area_cm2
    return np.asarray(_shares(instrument) @ area, dtype=np.float32)


@lru_cache(maxsize=64)
def _shares(instrument: Instrument) -> Any:
    edges = instrument.energy_edges_kev
    return overlap_shares(edges[:-1], edges[1:], GRID.edges_kev)


def flux_on_grid(sources: Sources) -> npt.NDArray[np.float64]:
    """Return the mean photon flux densities of sources in the bins of the model's grid."""
    parts = np.rint(GRID.widths_kev / FINE.width_kev).astype(int)
    starts = np.cumsum(parts) - parts
    mean: npt.NDArray[np.float64] = np.add.reduceat(photon_flux(sources, FINE), starts, axis=1)
    return mean / parts
