"""Collect the real responses for the surveys, and put them on the model's grid as ingest does."""

from __future__ import annotations

import logging
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.ogip import Rmf
from raypipe.simulation.instrument import Instrument
from raypipe.simulation.responses import RESPONSE_NAME, read_responses
from raypipe.spectra.grid import NATIVE_CHANNELS, Grid
from raypipe.spectra.responses import overlap_shares, redistribution_on_grid

log = logging.getLogger("benchmarks.latents")

FloatArray = npt.NDArray[np.float32]

GRID = Grid()
SAME_RESPONSE = 0.015
"""Responses count as equal if their spectra of the same source differ by less than this."""


def collect_responses(data: Path, folder: Path) -> Path:
    """Link all distinct ARF/RMF pairs below `data` into one folder.

    Of equal ones the catalog's own are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    files = [path for path in sorted(data.rglob("*")) if RESPONSE_NAME.fullmatch(path.name)]
    for path in files:
        (folder / path.name).symlink_to(path.resolve())
    kept: list[tuple[Instrument, FloatArray]] = []
    for instrument in sorted(read_responses(folder), key=lambda each: each.vignettes):
        effective = area_on_grid(instrument)[:, None] * redistribution(instrument)
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
    energy = GRID.energy_mid_kev[:, None]
    worst = 0.0
    for slope in 1.0, 3.0:
        spectra = [(energy**-slope * each).sum(0) for each in (one, other)]
        shares = [spectrum / spectrum.sum() for spectrum in spectra]
        worst = max(worst, 0.5 * float(np.abs(shares[0] - shares[1]).sum()))
    return worst


@lru_cache(maxsize=64)
def redistribution(instrument: Instrument) -> FloatArray:
    """An instrument's redistribution on the model's grid, as ingest makes it."""
    edges = instrument.energy_edges_kev
    rmf = Rmf(
        edges[:-1],
        edges[1:],
        np.arange(1, NATIVE_CHANNELS + 1),
        instrument.channel_energy_kev,
        instrument.redistribution,
        False,
        {},
    )
    return redistribution_on_grid(rmf, GRID, instrument.name)


def area_on_grid(instrument: Instrument, area_cm2: npt.NDArray[Any] | None = None) -> FloatArray:
    """Put an area on the model's grid, cm2; by default the instrument's on-axis area."""
    area = instrument.area_cm2 if area_cm2 is None else area_cm2
    return np.asarray(_shares(instrument) @ area, dtype=np.float32)


@lru_cache(maxsize=64)
def _shares(instrument: Instrument) -> Any:
    edges = instrument.energy_edges_kev
    return overlap_shares(edges[:-1], edges[1:], GRID.energy_edges_kev)
