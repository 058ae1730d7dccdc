"""Write the responses of a release as ordinary OGIP files, with a table of where each is valid.

Source of the layout: OGIP memo CAL/GEN/92-002 and its addendum 92-002a. A stored response has the
channel bins of raypipe, not the native channels of its file: these bins, from 1, are the channels
of the file, and EBOUNDS says which native channels each of them sums.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy import units
from astropy.io import fits
from astropy.table import Table

from raypipe._version import __version__
from raypipe.errors import RaypipeError
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import GriddedResponse
from raypipe.spectra.responses import ResponseLibrary, chip_rmfs_name
from raypipe.store.layout import part_name, spectra_folder
from raypipe.store.parts import require_ingested
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

TABLE = "responses.vot"
"""File beside the responses that says where each is valid."""

_READ = ["rmf_id", "telescope", "instrument", "mjd_start", "mjd_stop"]
_README = """# Redistribution matrices of {release}

Written by raypipe {version} from the responses that the spectra of this release are folded through.
`{table}` has one row per file: the telescope, the instrument and, for ACIS, the zones of chips for
which it was chosen, the number of detections that it serves, and the time they span. A matrix holds
within these.

The files follow OGIP's standard for RMFs (RSP_MATRIX, REDIST). Their energy bins are those of
raypipe, {low:g} to {high:g} keV. Their channels are raypipe's channel bins, from 1 on: the
columns NATIVE_MIN and NATIVE_MAX of EBOUNDS are the first and last channel of the original
response, counted from 0, that a channel sums. Sum the counts of a spectrum likewise to fit it with
such a file. The effective area is not in the matrix: put that of the ARF on the same energy bins.
"""


@dataclass
class _Use:
    """Collect the detections that a response serves."""

    detections: int = 0
    telescopes: set[str] = field(default_factory=set)
    instruments: set[str] = field(default_factory=set)
    first_mjd: float = np.inf
    last_mjd: float = -np.inf
    zones: list[str] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        """Count the rows of spectra."""
        self.detections += rows.num_rows
        for names, column in ((self.telescopes, "telescope"), (self.instruments, "instrument")):
            if column in rows.column_names:
                names.update(name for name in rows[column].unique().to_pylist() if name)
        if "mjd_start" in rows.column_names:
            start, stop = (rows[name].drop_null().to_numpy() for name in ("mjd_start", "mjd_stop"))
            self.first_mjd = min(self.first_mjd, start.min(initial=np.inf))
            self.last_mjd = max(self.last_mjd, stop.max(initial=-np.inf))


def write_responses(workspace: Workspace, release: str, folder: Path) -> int:
    """Write each response that spectra of a release have, and their table; return their number.

    Raises RaypipeError if the release is not ingested, or has no spectra.
    """
    uses = _uses(workspace, release)
    if not uses:
        raise RaypipeError(f"{workspace.uri} {release}: no spectra, so that there are no responses")
    library, rows = ResponseLibrary(workspace), []
    for rmf_id, use in sorted(uses.items()):
        response = library.load(rmf_id)
        path = folder / f"{rmf_id}.rmf"
        _hdus(rmf_id, response, use).writeto(path, checksum=True)
        rows.append(_row(path.name, rmf_id, response, use))
    table = Table(rows)
    for name in ("first_mjd", "last_mjd"):
        table[name].unit = units.day
        table[name].description = "MJD in TT, of the detections it serves"
    for name in ("low_kev", "high_kev"):
        table[name].unit = units.keV
    table.write(folder / TABLE, format="votable")
    edges = EnergyGrid().edges_kev
    text = _README.format(
        release=release, version=__version__, table=TABLE, low=edges[0], high=edges[-1]
    )
    (folder / "README.md").write_text(text, "utf-8")
    return len(rows)


def _uses(workspace: Workspace, release: str) -> dict[str, _Use]:
    uses: defaultdict[str, _Use] = defaultdict(_Use)
    for part in range(require_ingested(workspace, release)):
        name = part_name(spectra_folder(release), part)
        known = workspace.read_schema(name).names
        table = workspace.read_table(name, [column for column in _READ if column in known])
        ids = table["rmf_id"].to_numpy()
        for rmf_id in np.unique(ids.astype(str)):
            uses[rmf_id].add(table.filter(pa.array(ids == rmf_id)))
    if workspace.exists(chip_rmfs_name(release)):
        zones = workspace.read_object(chip_rmfs_name(release), {"zones": dict})["zones"]
        for zone, chosen in zones.items():
            if chosen["rmf_id"] in uses:
                uses[chosen["rmf_id"]].zones.append(zone)
    return dict(uses)


def _row(file: str, rmf_id: str, response: GriddedResponse, use: _Use) -> dict[str, Any]:
    bins = response.bins
    return {
        "file": file,
        "rmf_id": rmf_id,
        "telescope": " ".join(sorted(use.telescopes)),
        "instrument": " ".join(sorted(use.instruments)),
        "chip_zones": " ".join(use.zones),
        "detections": use.detections,
        "first_mjd": use.first_mjd if np.isfinite(use.first_mjd) else np.nan,
        "last_mjd": use.last_mjd if np.isfinite(use.last_mjd) else np.nan,
        "channels": len(bins),
        "low_kev": round(float(bins.lo_kev[0]), 6),
        "high_kev": round(float(bins.hi_kev[-1]), 6),
        "native_channels": bins.n_channels,
    }


def _hdus(rmf_id: str, response: GriddedResponse, use: _Use) -> fits.HDUList:
    common = {
        "TELESCOP": " ".join(sorted(use.telescopes)) or "UNKNOWN",
        "INSTRUME": " ".join(sorted(use.instruments)) or "UNKNOWN",
        "FILTER": "NONE",
        "CHANTYPE": "PI",
        "DETCHANS": len(response.bins),
        "HDUCLASS": "OGIP",
        "HDUCLAS1": "RESPONSE",
        "RMFVERSN": "1992a",
        "RMF_ID": rmf_id,
        "CREATOR": f"raypipe {__version__}",
    }
    hdus = [fits.PrimaryHDU(), _matrix_hdu(response), _bounds_hdu(response)]
    for hdu in hdus[1:]:
        hdu.header.update(common)
    return fits.HDUList(hdus)


def _matrix_hdu(response: GriddedResponse) -> fits.BinTableHDU:
    """Make the matrix, with the channels of each row from the first to the last that is filled."""
    matrix, edges = response.redistribution, EnergyGrid().edges_kev
    filled = matrix != 0
    has_any = filled.any(axis=1)
    first = filled.argmax(axis=1)
    length = np.where(has_any, matrix.shape[1] - filled[:, ::-1].argmax(axis=1) - first, 0)
    values = np.empty(len(matrix), dtype=object)
    for row, (begin, size) in enumerate(zip(first, length, strict=True)):
        values[row] = matrix[row, begin : begin + size]
    columns = [
        fits.Column("ENERG_LO", "E", "keV", array=edges[:-1]),
        fits.Column("ENERG_HI", "E", "keV", array=edges[1:]),
        fits.Column("N_GRP", "I", array=has_any.astype(np.int16)),
        fits.Column("F_CHAN", "J", array=np.where(has_any, first + 1, 0)),
        fits.Column("N_CHAN", "J", array=length),
        fits.Column("MATRIX", f"PE({int(length.max())})", array=values),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="MATRIX")
    hdu.header.update(
        {
            "TLMIN4": 1,
            "TLMAX4": matrix.shape[1],
            "HDUCLAS2": "RSP_MATRIX",
            "HDUCLAS3": "REDIST",
            "HDUVERS": "1.3.0",
            "NUMGRP": int(has_any.sum()),
            "NUMELT": int(length.sum()),
            "LO_THRES": 0.0,
        }
    )
    return hdu


def _bounds_hdu(response: GriddedResponse) -> fits.BinTableHDU:
    """Make EBOUNDS: the nominal energies of the channels, and the native channels they sum."""
    bins = response.bins
    columns = [
        fits.Column("CHANNEL", "J", array=np.arange(1, len(bins) + 1)),
        fits.Column("E_MIN", "E", "keV", array=bins.lo_kev),
        fits.Column("E_MAX", "E", "keV", array=bins.hi_kev),
        fits.Column("NATIVE_MIN", "J", array=bins.first[:-1]),
        fits.Column("NATIVE_MAX", "J", array=bins.first[1:] - 1),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="EBOUNDS")
    more = {"TLMIN1": 1, "TLMAX1": len(bins), "HDUCLAS2": "EBOUNDS", "HDUVERS": "1.2.0"}
    hdu.header.update(more)
    return hdu
