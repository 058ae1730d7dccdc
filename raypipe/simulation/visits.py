"""Choose which telescopes and which of their responses look at which sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raypipe.physics.energy import BAND_KEV, ERG_PER_KEV, EnergyGrid, FloatArray
from raypipe.simulation.instrument import Instrument, vignetting
from raypipe.simulation.populations import Sources, photon_flux

SEEN_SHARE = 0.01
"""Share of a source's photons from 0.5 to 7 keV that an instrument has to have area for."""
USABLE_AREA = 0.05
"""Energies count as seen where the area is at least this share of its maximum from 0.5 to 7 keV."""
COARSE = EnergyGrid(0.3, 10.0, 194)
TYPICAL_KEV = 1.5
"""Energy of a typical photon, by which areas off axis are compared."""
_SOURCES_AT_ONCE = 4096


def seen_shares(
    sources: Sources, instruments: Sequence[Instrument], apec_dir: str | None = None
) -> FloatArray:
    """Return the share of each source's photons, 0.5-7 keV, at energies an instrument sees: (K, I).

    NuSTAR, whose area begins at 2.4 keV, sees nothing of a cool star; a CCD sees all of everything.
    `apec_dir` is that of `photon_flux`.
    """
    seen = np.stack([_sees(each) for each in instruments], axis=1)
    shares = np.empty((len(sources), len(instruments)))
    for start in range(0, len(sources), _SOURCES_AT_ONCE):
        rows = np.arange(start, min(start + _SOURCES_AT_ONCE, len(sources)))
        flux = photon_flux(sources.take(rows), COARSE, apec_dir)[:, COARSE.in_band]
        shares[rows] = (flux @ seen) / flux.sum(axis=1, keepdims=True)
    return shares


def count_rates(
    sources: Sources, instruments: Sequence[Instrument], apec_dir: str | None = None
) -> FloatArray:
    """Return counts per second of each source at a flux of 1 erg/cm2/s, 0.5-7 keV, on axis: (K, I).

    Redistribution is ignored, which changes some percent. `apec_dir` is that of `photon_flux`.
    """
    energies = COARSE.mid_kev[COARSE.in_band]
    area = np.stack(
        [
            np.interp(energies, each.energy_mid_kev, each.area_cm2, left=0.0, right=0.0)
            for each in instruments
        ],
        axis=1,
    )
    rates = np.empty((len(sources), len(instruments)))
    for start in range(0, len(sources), _SOURCES_AT_ONCE):
        rows = np.arange(start, min(start + _SOURCES_AT_ONCE, len(sources)))
        flux = photon_flux(sources.take(rows), COARSE, apec_dir)[:, COARSE.in_band]
        rates[rows] = (flux @ area) / (flux @ energies * ERG_PER_KEV)[:, None]
    return rates


def fitting_instruments(
    drawn: npt.NDArray[np.intp], exposures_s: FloatArray, limits_s: tuple[float, float]
) -> npt.NDArray[np.intp]:
    """Replace drawn instruments (N,) that would need an exposure beyond the limits.

    `exposures_s` (N, I) is what each instrument needs, NaN if nothing is asked of a detection. Its
    instrument is kept then, and wherever its exposure is possible. Otherwise the detection gets the
    instrument whose exposure is nearest to the limits, which may still lie beyond them.
    """
    low, high = limits_s
    beyond = np.maximum(np.log(exposures_s / high), np.log(low / exposures_s))
    beyond = np.maximum(np.nan_to_num(beyond), 0.0)
    possible = beyond[np.arange(len(drawn)), drawn] == 0
    return np.where(possible, drawn, beyond.argmin(axis=1))


def off_axis_shares(off_axis_arcmin: FloatArray) -> FloatArray:
    """Return the share of the on-axis area that is left at each angle (N,), at `TYPICAL_KEV`."""
    return vignetting(np.array([TYPICAL_KEV]), off_axis_arcmin)[:, 0]


def _sees(instrument: Instrument) -> FloatArray:
    """Return 1 for the bins of the coarse grid's band that the instrument sees, 0 for others."""
    middle = instrument.energy_mid_kev
    in_band = (middle >= BAND_KEV[0]) & (middle < BAND_KEV[1])
    energies = COARSE.mid_kev[COARSE.in_band]
    area = np.interp(energies, middle, instrument.area_cm2, left=0.0, right=0.0)
    sees: FloatArray = (area >= USABLE_AREA * instrument.area_cm2[in_band].max()).astype(float)
    return sees


def choose_instruments(
    rng: np.random.Generator,
    source: npt.NDArray[np.intp],
    instruments: Sequence[Instrument],
    shares: FloatArray,
) -> npt.NDArray[np.intp]:
    """Choose an instrument for each detection: indices (N,) of `instruments`.

    `source` (N,) is the source of each detection, `shares` (K, I) what `seen_shares` returns. A
    telescope comes up in proportion to the square root of the number of its responses, so that
    one with many of them leaves room for others. The detections of a source go through the
    telescopes that see at least `SEEN_SHARE` of its photons, each once before one has a second
    turn, then with its next response. A source that none of them sees so well goes to the one that
    sees most of it.
    """
    missions = sorted({each.mission for each in instruments})
    members = [
        np.flatnonzero([each.mission == mission for each in instruments]) for mission in missions
    ]
    best = np.stack([shares[:, rows].max(axis=1) for rows in members], axis=1)
    seen = best >= SEEN_SHARE
    lost = ~seen.any(axis=1)
    seen[lost, best[lost].argmax(axis=1)] = True
    # Sorting by log weight + Gumbel noise draws without replacement by those weights.
    log_weight = 0.5 * np.log([len(rows) for rows in members])
    keys = log_weight + rng.gumbel(size=seen.shape)
    order = np.argsort(np.where(seen, -keys, np.inf), axis=1)
    offset = rng.integers(0, 1 << 30, size=(len(seen), len(members)))
    visit = _places_in_runs(source)
    available = seen.sum(axis=1)[source]
    turn, place = np.divmod(visit, available)
    mission = order[source, place]
    sizes = np.array([len(rows) for rows in members])
    member = (offset[source, mission] + turn) % sizes[mission]
    chosen = [members[m][i] for m, i in zip(mission, member, strict=True)]
    return np.array(chosen, dtype=np.intp)


def _places_in_runs(values: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the place of each value among its equals, in order: (N,)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])
    first = np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))
    places = np.empty(len(values), dtype=np.intp)
    places[order] = np.arange(len(values)) - first
    return places
