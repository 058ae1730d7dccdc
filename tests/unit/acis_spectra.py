"""Spectra of an ACIS-like telescope, made in memory, for the tests of ingestion."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from raypipe.ogip import Arf, Rmf, Spectrum
from raypipe.spectra.channel_bins import ACIS_CHANNELS, ACIS_WIDTH_KEV

EDGES_KEV = np.linspace(0.3, 9.3, 901)
CHANNELS = np.arange(1, ACIS_CHANNELS + 1)
CHANNEL_EDGES_KEV = ACIS_WIDTH_KEV * np.column_stack([CHANNELS - 1, CHANNELS])


def matrix(sigma_kev: float = 0.06, shift_kev: float = 0.0) -> np.ndarray:
    """Gaussian peaks (900, 1024), each row of them with the sum 1."""
    middle = 0.5 * (EDGES_KEV[1:] + EDGES_KEV[:-1])[:, None] + shift_kev
    peaks = np.exp(-0.5 * ((CHANNEL_EDGES_KEV.mean(1) - middle) / sigma_kev) ** 2)
    peaks[peaks < 1e-6] = 0
    normalized: np.ndarray = peaks / peaks.sum(1, keepdims=True)
    return normalized


def rmf(values: np.ndarray | None = None, *, includes_area: bool = False) -> Rmf:
    native = sparse.csr_array((matrix() if values is None else values).astype(np.float32))
    low, high = EDGES_KEV[:-1], EDGES_KEV[1:]
    return Rmf(low, high, CHANNELS, CHANNEL_EDGES_KEV, native, includes_area, {})


def arf(area_cm2: Any = 300.0) -> Arf:
    low, high = EDGES_KEV[:-1], EDGES_KEV[1:]
    return Arf(low, high, np.broadcast_to(np.asarray(area_cm2, float), low.shape).copy(), {})


def spectrum(**changes: Any) -> Spectrum:
    """A spectrum with a background and a whole response, but for `changes` of its attributes."""
    made: dict[str, Any] = {
        "path": "mine.pi",
        "channels": CHANNELS,
        "counts": np.full(ACIS_CHANNELS, 2.0),
        "background_counts": np.full(ACIS_CHANNELS, 1.0),
        "background_scale": 0.1,
        "exposure_s": 3e4,
        "channel_energy_kev": CHANNEL_EDGES_KEV,
        "arf": arf(),
        "rmf": rmf(),
        "header": {},
        "warnings": (),
        "areascal": 1.0,
    }
    return Spectrum(**(made | changes))
