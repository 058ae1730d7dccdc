"""Join a catalog to detections by position on the sky."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa

from raypipe.catalog.column_names import PREFIX, free_name
from raypipe.catalog.sky_index import Floats, Nearest, SkyIndex
from raypipe.errors import UsageError
from raypipe.store.manifest import ORIGINAL_NAME

log = logging.getLogger(__name__)

SEPARATION = "separation_arcsec"
"""Column with the distance of a detection from its row of the catalog."""

_POSITION = ("ra", "dec")
_OF_OTHERS = ("detection_id", "obsid", "obi", "region_id", *_POSITION)
"""Columns of a catalog that identify its own rows, not the detections beside which they lie."""


class PositionKey:
    """Look up the row of a catalog that is nearest to a detection, within a radius.

    The attributes are those of `raypipe.discovery.catalog_join.Key`. `ambiguous` counts the
    detections with several rows of the catalog within the radius.
    """

    def __init__(self, catalog: pa.Table, radius_arcsec: float) -> None:
        if not set(_POSITION) <= set(catalog.column_names):
            raise UsageError("the catalog has no columns ra and dec, which --by position needs")
        if not 0.0 < radius_arcsec <= 3600.0:
            raise UsageError(f"--radius {radius_arcsec:g}: expected arcseconds, 3600 at most")
        self.names = list(_POSITION)
        self.rows = np.arange(catalog.num_rows)
        self.wanted = np.zeros(catalog.num_rows, dtype=bool)
        self.found = self.ambiguous = self.repeats = 0
        self._index = SkyIndex(*_positions(catalog))
        self._radius = radius_arcsec
        self._placed = 0
        self._separations: list[Floats] = []

    def compared(self) -> str:
        """Describe what did not match."""
        return (
            f"position within {self._radius:g} arcsec ({self._placed} detections have a position)"
        )

    def look(self, detections: pa.Table) -> None:
        """Note which rows of the catalog these detections need."""
        nearest = self._nearest(detections)
        matched = nearest.places >= 0
        self.wanted[nearest.places[matched]] = True
        self.found += int(matched.sum())
        self.ambiguous += int(nearest.is_ambiguous.sum())
        self._placed += int(np.isfinite(_positions(detections)[0]).sum())
        self._separations.append(nearest.separation_arcsec[matched])

    def places(self, detections: pa.Table) -> np.ndarray:
        """Return the places of detections in `rows`, -1 for those that are not there."""
        return self._nearest(detections).places

    def separations(self, detections: pa.Table) -> pa.Array:
        """Return the distance of each detection from its row of the catalog, null without one."""
        return pa.array(self._nearest(detections).separation_arcsec, from_pandas=True)

    def report(self) -> None:
        """Log how near the matches are, and how many are ambiguous."""
        separations = np.concatenate(self._separations)
        log.info(
            "catalog: separations up to %.2f arcsec, median %.2f",
            separations.max(),
            np.median(separations),
        )
        if self.ambiguous:
            log.warning(
                "catalog: %d detections have several rows within %g arcsec: the nearest is used",
                self.ambiguous,
                self._radius,
            )

    def summary(self) -> dict[str, float]:
        """Return the figures of the join for the manifest's summary."""
        separations = np.concatenate(self._separations)
        return {
            "radius_arcsec": self._radius,
            "found": self.found,
            "ambiguous": self.ambiguous,
            "median_separation_arcsec": round(float(np.median(separations)), 3),
        }

    def _nearest(self, detections: pa.Table) -> Nearest:
        return self._index.nearest(*_positions(detections), self._radius)


def rows_of_others(catalog: pa.Table) -> pa.Table:
    """Rename what identifies a catalog's own rows, so that detections keep what identifies them.

    `ra` becomes `catalog_ra`, and so on; name and class are those of the detection that matches.
    """
    taken = {name.lower() for name in catalog.column_names}
    fields = []
    for field in catalog.schema:
        if field.name in _OF_OTHERS:
            original = {ORIGINAL_NAME: field.name.encode()} | (field.metadata or {})
            new = free_name(PREFIX + field.name, taken)
            taken.add(new.lower())
            field = field.with_name(new).with_metadata(original)
        fields.append(field)
    return pa.table(catalog.columns, schema=pa.schema(fields))


def _positions(table: pa.Table) -> tuple[Floats, Floats]:
    ra, dec = (
        table[name].cast(pa.float64()).to_numpy().astype(np.float64, copy=False)
        if name in table.column_names
        else np.full(table.num_rows, np.nan)
        for name in _POSITION
    )
    return ra, dec
