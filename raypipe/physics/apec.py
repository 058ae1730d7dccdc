"""Read the emissivity tables of AtomDB: `apec_v3*_line.fits` and `apec_v3*_coco.fits`.

Both files have a table `PARAMETERS` with a row per temperature, and behind it one table
`EMISSIVITY` per temperature, in the same order (AtomDB's documentation of the APEC files).
Emissivities are for the solar abundances of Anders & Grevesse (1989). The files `*_nei_*` beside
them, for plasma out of ionization equilibrium, are another kind and not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from raypipe.errors import UsageError
from raypipe.physics.emissivities import Emissivities
from raypipe.physics.energy import EnergyGrid, FloatArray

CONTINUUM, LINES = "apec_v3*_coco.fits", "apec_v3*_line.fits"
"""Names of the two files."""
NON_EQUILIBRIUM = "_nei_"
"""Part of the names of tables for plasma out of ionization equilibrium."""
KEV_ANGSTROM = 12.398419843
"""Planck's constant times the speed of light."""
HEAVIEST_PRIMORDIAL = 2
"""Atomic number up to which elements do not scale with the abundance of metals."""
_MOST_TEMPERATURES = 1000


def read_apec(folder: Path, grid: EnergyGrid) -> Emissivities:
    """Read the tables of a folder onto a grid.

    Raises UsageError naming the file that is missing, ambiguous or not such a table.
    """
    continuum = _read(_only(folder, CONTINUUM), grid, _continuum)
    lines = _read(_only(folder, LINES), grid, _lines)
    if continuum.kt_kev.shape != lines.kt_kev.shape or not np.allclose(
        continuum.kt_kev, lines.kt_kev, rtol=1e-3
    ):
        raise UsageError(f"{folder}: tables of lines and continuum have different temperatures")
    return Emissivities(
        continuum.kt_kev,
        continuum.primordial + lines.primordial,
        continuum.metals + lines.metals,
    )


def apec_files(folder: str | Path) -> list[tuple[str, int]]:
    """Return names and sizes of the two files; raise UsageError if they are not there."""
    paths = [_only(Path(folder), pattern) for pattern in (CONTINUUM, LINES)]
    return [(path.name, path.stat().st_size) for path in paths]


def _only(folder: Path, pattern: str) -> Path:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder, for the tables of AtomDB")
    found = [path for path in sorted(folder.glob(pattern)) if NON_EQUILIBRIUM not in path.name]
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise UsageError(
            f"{folder}: {len(found)} files {pattern}{names}; one is needed (see atomdb.org)"
        )
    return found[0]


def _read(path: Path, grid: EnergyGrid, spectra: Any) -> Emissivities:
    """Read one file; `spectra` makes (primordial, metals) from the table of a temperature."""
    try:
        with fits.open(path, memmap=True) as file:
            temperatures = np.asarray(file["PARAMETERS"].data["kT"], dtype=float)
            tables = [hdu for hdu in file[1:] if hdu.name == "EMISSIVITY"]
            if not 0 < len(tables) == len(temperatures) <= _MOST_TEMPERATURES:
                raise ValueError(f"{len(temperatures)} temperatures and {len(tables)} tables")
            rows = [spectra(table.data, grid) for table in tables]
        order = np.argsort(temperatures, kind="stable")
        primordial, metals = (np.stack(each)[order] for each in zip(*rows, strict=True))
        _require_physical(temperatures[order], primordial, metals)
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{path}: not a table of APEC, or damaged ({error})") from error
    return Emissivities(temperatures[order], primordial, metals)


def _require_physical(kt_kev: FloatArray, *emissivities: FloatArray) -> None:
    """Raise ValueError unless temperatures rise from above zero and emissivities are finite."""
    if not (kt_kev[0] > 0 and np.all(np.diff(kt_kev) > 0) and np.all(np.isfinite(kt_kev))):
        raise ValueError("temperatures kT are not positive and different")
    if not all(np.all(np.isfinite(each)) and np.all(each >= 0) for each in emissivities):
        raise ValueError("emissivities are not finite and positive")


def _lines(table: Any, grid: EnergyGrid) -> tuple[FloatArray, FloatArray]:
    """Put each line into the bin that holds it."""
    wavelength = np.asarray(table["Lambda"], dtype=float)
    if not np.all(wavelength > 0):
        raise ValueError("wavelengths Lambda are not positive")
    energy = KEV_ANGSTROM / wavelength
    emissivity = np.asarray(table["Epsilon"], dtype=float)
    primordial = np.asarray(table["Element"]) <= HEAVIEST_PRIMORDIAL
    place = np.searchsorted(grid.edges_kev, energy, side="right") - 1
    inside = (place >= 0) & (place < grid.n)
    both = []
    for chosen in (primordial, ~primordial):
        rows = chosen & inside
        photons = np.bincount(place[rows], weights=emissivity[rows], minlength=grid.n)
        both.append(photons / grid.width_kev)
    return both[0], both[1]


def _continuum(table: Any, grid: EnergyGrid) -> tuple[FloatArray, FloatArray]:
    """Sum the continua of the elements, and the pseudo-continua of their weak lines.

    Rows of single ions (`rmJ` above 0) repeat what the rows of their elements hold.
    """
    both = np.zeros((2, grid.n))
    for row in table:
        if row["rmJ"] != 0:
            continue
        which = int(row["Z"] > HEAVIEST_PRIMORDIAL)
        for count, energy, value in (
            ("N_Cont", "E_Cont", "Continuum"),
            ("N_Pseudo", "E_Pseudo", "Pseudo"),
        ):
            n = int(row[count])
            if n > 0:
                both[which] += _interpolated(row[energy][:n], row[value][:n], grid)
    return both[0], both[1]


def _interpolated(
    energy: npt.NDArray[Any], value: npt.NDArray[Any], grid: EnergyGrid
) -> FloatArray:
    return np.interp(grid.mid_kev, energy.astype(float), value.astype(float), left=0.0, right=0.0)
