"""Small tables with the layout of AtomDB's APEC files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

TEMPERATURES = (0.5, 1.0, 2.0)


def write_tables(folder: Path) -> None:
    """Write a continuum of hydrogen and oxygen, and a line of oxygen at 0.6536 keV."""
    write_lines(folder / "apec_v3.0.9_line.fits", TEMPERATURES)
    continua = [continuum(scale) for scale in TEMPERATURES]
    write(folder / "apec_v3.0.9_coco.fits", TEMPERATURES, continua)


def write_lines(path: Path, temperatures: Sequence[float]) -> None:
    write(path, temperatures, [lines(scale) for scale in temperatures])


def write(path: Path, temperatures: Sequence[float], tables: list[fits.BinTableHDU]) -> None:
    parameters = fits.BinTableHDU.from_columns([fits.Column("kT", "E", array=temperatures)])
    parameters.name = "PARAMETERS"
    fits.HDUList([fits.PrimaryHDU(), parameters, *tables]).writeto(path, overwrite=True)


def lines(scale: float) -> fits.BinTableHDU:
    columns = [
        fits.Column("Lambda", "E", array=[12.398419843 / 0.6536, 12.398419843 / 0.05]),
        fits.Column("Epsilon", "E", array=[3e-16 * scale, 1.0]),
        fits.Column("Element", "J", array=[8, 8]),
        fits.Column("Ion", "J", array=[8, 8]),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EMISSIVITY")


def continuum(scale: float) -> fits.BinTableHDU:
    """Hydrogen falls from 1e-17 to 0 from 0.1 to 10.1 keV; the last row repeats an ion."""
    energy = np.array([[0.1, 10.1, 0.0]] * 3)
    strong = np.array([[1e-17, 0, 9], [2e-18, 2e-18, 9], [1, 1, 9]])
    weak = np.array([[0, 0, 0], [1e-18, 1e-18, 9], [0, 0, 0]])
    columns = [
        fits.Column("Z", "J", array=[1, 8, 8]),
        fits.Column("rmJ", "J", array=[0, 0, 8]),
        fits.Column("N_Cont", "J", array=[2, 2, 2]),
        fits.Column("E_Cont", "3E", array=energy),
        fits.Column("Continuum", "3E", array=scale * strong),
        fits.Column("N_Pseudo", "J", array=[0, 2, 0]),
        fits.Column("E_Pseudo", "3E", array=energy),
        fits.Column("Pseudo", "3E", array=scale * weak),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EMISSIVITY")
