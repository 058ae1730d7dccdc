"""Tables of AtomDB: read from small files of their layout."""

from __future__ import annotations

from collections.abc import Callable
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
from tests.unit.apec_tables import TEMPERATURES, write_lines, write_tables

GRID = EnergyGrid()


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
    with pytest.raises(UsageError, match=r"elsewhere: no such folder, for the tables of AtomDB"):
        apec_files(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"0 files apec_v3\*_coco.fits; one is needed"):
        read_apec(tmp_path, GRID)


def test_tables_out_of_equilibrium_are_passed_over_and_two_versions_refused(tmp_path: Path) -> None:
    write_tables(tmp_path)
    (tmp_path / "apec_v3.0.9_nei_line.fits").write_bytes(b"another kind")
    assert [name for name, _ in apec_files(tmp_path)] == [
        "apec_v3.0.9_coco.fits",
        "apec_v3.0.9_line.fits",
    ]
    (tmp_path / "apec_v3.1.0_line.fits").write_bytes(b"")
    with pytest.raises(UsageError, match=r"2 files .*v3.0.9_line.fits, apec_v3.1.0_line.fits\)"):
        apec_files(tmp_path)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2880])


def without_header(path: Path) -> None:
    path.write_bytes(b"SIMPLE")


def with_a_temperature_of_zero(path: Path) -> None:
    change(path, "PARAMETERS", "kT", 0.0)


def with_a_wavelength_of_zero(path: Path) -> None:
    change(path, "EMISSIVITY", "Lambda", 0.0)


def with_an_emissivity_that_is_no_number(path: Path) -> None:
    change(path, "EMISSIVITY", "Epsilon", np.nan)


def change(path: Path, table: str, column: str, value: float) -> None:
    with fits.open(path, mode="update") as file:
        file[table].data[column][0] = value


@pytest.mark.filterwarnings("ignore:File may have been truncated")
@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        without_header,
        with_a_temperature_of_zero,
        with_a_wavelength_of_zero,
        with_an_emissivity_that_is_no_number,
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_tables(tmp_path)
    damage(tmp_path / "apec_v3.0.9_line.fits")
    with pytest.raises(UsageError, match=r"apec_v3.0.9_line.fits: not a table of APEC, or damaged"):
        read_apec(tmp_path, GRID)


def test_tables_of_different_temperatures_are_refused(tmp_path: Path) -> None:
    write_tables(tmp_path)
    write_lines(tmp_path / "apec_v3.0.9_line.fits", TEMPERATURES[:2])
    with pytest.raises(UsageError, match="lines and continuum have different temperatures"):
        read_apec(tmp_path, GRID)
