"""Draw the sources that a survey observes, and how often it observes each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.physics.energy import FloatArray
from raypipe.simulation.populations import Sources, draw_population

REPEATS = 0.3
"""Mean number of further detections of a source after its first."""


@dataclass(frozen=True)
class Targets:
    """Hold K sources and N detections of them.

    Per source (K,): `sources` (parameters), `label` (class or None), `name`, `ra`, `dec` (deg).
    Per detection (N,): `source` (index of the source), `counts` (expected source counts, 0.5-7
    keV), `origin` (the detection of a real catalog whose counts it has, or None), `flux` (that
    detection's flux, erg/cm2/s, 0.5-7 keV, NaN if unknown).
    """

    sources: Sources
    label: npt.NDArray[np.object_]
    name: npt.NDArray[np.str_]
    ra: FloatArray
    dec: FloatArray
    source: npt.NDArray[np.intp]
    counts: FloatArray
    origin: npt.NDArray[np.object_]
    flux: FloatArray

    def __len__(self) -> int:
        return len(self.source)


def population_targets(
    rng: np.random.Generator,
    detections: int,
    *,
    counts_min: float,
    counts_max: float,
    repeats: float = REPEATS,
) -> Targets:
    """Draw `detections` of sources of the eight classes, each 1 + `repeats` times on average.

    Counts are log-uniform from `counts_min` to `counts_max`; positions are uniform on the sphere.
    """
    # 1 + Poisson(repeats) detections per source; sources beyond the number of detections are cut
    # off.
    times = 1 + rng.poisson(repeats, detections)
    source = np.repeat(np.arange(detections), times)[:detections]
    sources = draw_population(rng, int(source[-1]) + 1)
    ra = rng.uniform(0.0, 360.0, len(sources))
    # Uniform on the sphere: the sine of the declination is uniform.
    dec = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, len(sources))))
    return Targets(
        sources=sources,
        label=sources.model.astype(object),
        name=np.array([catalog_name(r, d) for r, d in zip(ra, dec, strict=True)]),
        ra=ra,
        dec=dec,
        source=source,
        counts=np.exp(rng.uniform(np.log(counts_min), np.log(counts_max), detections)),
        origin=np.full(detections, None, dtype=object),
        flux=np.full(detections, np.nan),
    )


def catalog_name(ra: float, dec: float) -> str:
    """Return the name "2CXO JHHMMSS.s+DDMMSS" of a position in degrees, with truncated digits."""
    tenths = int(ra / 15.0 * 36000.0) % 864000
    hours, rest = divmod(tenths, 36000)
    minutes, tenths = divmod(rest, 600)
    seconds = int(abs(dec) * 3600.0)
    sign = "-" if dec < 0 else "+"
    return (
        f"2CXO J{hours:02d}{minutes:02d}{tenths // 10:02d}.{tenths % 10}"
        f"{sign}{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    )
