"""Tables of AtomDB: read from small files of their layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from raypipe.errors import UsageError
from raypipe.fits.models import MODELS, Spectra
from raypipe.physics.apec import apec_files, read_apec
from raypipe.physics.energy import EnergyGrid
from raypipe.physics.plasma import plasma_flux
from raypipe.spectra import grid as model_grid

GRID = EnergyGrid()
TEMPERATURES = np.array([0.5, 1.0, 2.0])


def write_tables(folder: Path) -> None:
    """Write a continuum of hydrogen and oxygen, and a line of oxygen at 0.6536 keV."""
    write(folder / "apec_v3.0.9_line.fits", [lines(scale) for scale in TEMPERATURES])
    write(folder / "apec_v3.0.9_coco.fits", [continuum(scale) for scale in TEMPERATURES])


def write(path: Path, tables: list[fits.BinTableHDU]) -> None:
    parameters = fits.BinTableHDU.from_columns([fits.Column("kT", "E", array=TEMPERATURES)])
    parameters.name = "PARAMETERS"
    fits.HDUList([fits.PrimaryHDU(), parameters, *tables]).writeto(path)


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


def test_lines_and_continua_of_the_tables_are_in_the_flux(tmp_path: Path) -> None:
    write_tables(tmp_path)
    poor, rich = plasma_flux(np.ones(2), np.array([0.0, 0.5]), GRID, str(tmp_path))
    expected = 1e-3 * (1.0 - (GRID.mid_kev - 0.1) / 10.0)
    np.testing.assert_allclose(poor, expected, rtol=1e-5)
    metals = rich - poor
    at_line = int(np.argmin(abs(GRID.mid_kev - 0.6536)))
    assert metals[at_line] == pytest.approx(1e14 * 0.5 * (3e-18 + 3e-16 / GRID.width_kev), rel=1e-4)
    np.testing.assert_allclose(np.delete(metals, at_line), 1e14 * 0.5 * 3e-18, rtol=1e-4)


def test_fluxes_are_interpolated_between_temperatures(tmp_path: Path) -> None:
    write_tables(tmp_path)
    tables = read_apec(tmp_path, GRID)
    low, middle, high = tables.at(np.array([0.7, 1.0, 1.4]), np.ones(3))
    assert (low < middle).all()
    assert (middle < high).all()
    np.testing.assert_allclose(middle / low, 1 / 0.7, rtol=0.05)


def test_the_plasma_that_is_fitted_is_that_of_the_tables(tmp_path: Path) -> None:
    write_tables(tmp_path)
    grid = model_grid.EnergyGrid()
    own, read = (Spectra.of(MODELS["plasma"], grid, each) for each in (None, str(tmp_path)))
    assert not np.allclose(own.log_flux, read.log_flux, atol=0.5)
    assert int(read.log_flux[80].argmax()) == int(np.searchsorted(grid.edges_kev, 0.6536)) - 1


def test_a_folder_without_the_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0 files apec_v3\*_coco.fits; one is needed"):
        read_apec(tmp_path, GRID)
    write_tables(tmp_path)
    assert [name for name, _ in apec_files(tmp_path)] == [
        "apec_v3.0.9_coco.fits",
        "apec_v3.0.9_line.fits",
    ]
    (tmp_path / "apec_v3.0.9_line.fits").write_bytes(b"SIMPLE")
    with pytest.raises(UsageError, match=r"apec_v3.0.9_line.fits: not a table of APEC"):
        read_apec(tmp_path, GRID)
