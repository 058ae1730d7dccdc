"""Write the coverage of an export: a multi-order coverage map (MOC) of the sky."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from raypipe.exporting.formats.content import Content

log = logging.getLogger(__name__)

ORDER = 10
"""HEALPix order of the smallest cells: 3.4 arcmin, within the field of any X-ray camera."""


def moc_name(table: str) -> str:
    """Name the coverage map of a table."""
    return f"{table}-moc.fits"


def write_moc(content: Content, path: Path) -> bool:
    """Write the cells of the sky that have rows, as a FITS file of the standard IVOA MOC 2.0.

    Returns False, with a warning, if the package mocpy is not installed, and without one if no row
    has a position.
    """
    try:
        from mocpy import MOC
    except ImportError:
        log.warning("export: no coverage map without mocpy: pip install 'raypipe[export]'")
        return False
    from astropy import units

    if not {"ra", "dec"} <= set(content.schema.names):
        return False
    coverage = MOC.new_empty(ORDER)
    for table in content.tables(["ra", "dec"]):
        ra, dec = (table[name].to_numpy().astype(np.float64) for name in ("ra", "dec"))
        placed = np.isfinite(ra) & (np.abs(dec) <= 90.0)
        if placed.any():
            lon, lat = ra[placed] * units.deg, dec[placed] * units.deg
            coverage = coverage.union(MOC.from_lonlat(lon, lat, max_norder=ORDER))
    if coverage.empty():
        return False
    coverage.save(path, format="fits")
    return True
