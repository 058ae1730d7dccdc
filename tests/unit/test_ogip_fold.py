"""The fold of a spectrum through its responses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raypipe.ogip import OgipError, read_spectrum
from raypipe.ogip.notes import (
    AREA_TWICE,
)
from raypipe.ogip.quadrature import integrate
from tests.unit.ogip_files import (
    N_CHANNELS,
    arf_hdu,
    column,
    dense_matrix,
    energy_edges,
    flat,
    rmf_bytes,
    survey,
    to_bytes,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* of the 6.5 keV from 0.5 to 7 keV")


def test_fold_is_photons_times_area_through_the_matrix(tmp_path: Path) -> None:
    spectrum = read_spectrum(survey(tmp_path))
    low, high = energy_edges()
    photons = 0.01 * (high - low) * np.linspace(100, 400, len(low)) * 1000.0
    np.testing.assert_allclose(spectrum.fold(flat), photons @ dense_matrix(), rtol=1e-6)
    np.testing.assert_allclose(spectrum.fold(lambda _: 0.01), spectrum.fold(flat))


def test_integral_over_bins_is_exact_for_a_steep_power_law() -> None:
    edges = np.geomspace(0.3, 9.3, 60)
    integral = integrate(lambda energy: energy**-3.0, edges[:-1], edges[1:])
    np.testing.assert_allclose(integral, (edges[:-1] ** -2 - edges[1:] ** -2) / 2, rtol=1e-9)


def test_area_on_the_grid_of_the_matrix(tmp_path: Path) -> None:
    path = survey(tmp_path)
    edges = np.linspace(0.5, 3.5, 31)
    fine = arf_hdu(edges[:-1], edges[1:], np.repeat(np.linspace(100, 400, 6), 5))
    other = read_spectrum(path, arf=to_bytes(fine))
    np.testing.assert_allclose(other.fold(flat), read_spectrum(path).fold(flat), rtol=1e-5)


def test_fold_names_what_is_missing(tmp_path: Path) -> None:
    none = {"BACKFILE": "None", "ANCRFILE": "NONE", "RESPFILE": ""}
    spectrum = read_spectrum(survey(tmp_path, pha=none))
    assert spectrum.background_counts is None
    assert spectrum.background_scale is None
    assert spectrum.channel_energy_kev is None
    with pytest.raises(OgipError, match=r"source\.pi: no RMF"):
        spectrum.fold(flat)
    with pytest.raises(OgipError, match=r"source\.pi: no ARF"):
        read_spectrum(spectrum.path, rmf=tmp_path / "source.rmf").fold(flat)


def test_full_matrix_needs_no_arf(tmp_path: Path) -> None:
    path = survey(tmp_path, pha={"ANCRFILE": "none"})
    spectrum = read_spectrum(path, rmf=rmf_bytes(HDUCLAS3="FULL"))
    assert spectrum.fold(flat).sum() == pytest.approx(0.01 * 3.0 * 1000.0)
    with pytest.warns(UserWarning, match="the ARF multiplies it"):
        twice = read_spectrum(path, arf=to_bytes(arf_hdu()), rmf=rmf_bytes(HDUCLAS3="FULL"))
    assert AREA_TWICE in {note.code for note in twice.warnings}


def test_areascal_multiplies_what_is_predicted(tmp_path: Path) -> None:
    plain = read_spectrum(survey(tmp_path)).fold(flat)
    half = read_spectrum(survey(tmp_path, pha={"AREASCAL": 0.5}))
    np.testing.assert_allclose(half.fold(flat), 0.5 * plain)
    np.testing.assert_allclose(half.background_scale, 0.25)
    by_channel = np.linspace(0.2, 1.0, N_CHANNELS)
    scales = {"extra": [column("AREASCAL", "D", by_channel)], "drop": ("AREASCAL",)}
    np.testing.assert_allclose(
        read_spectrum(survey(tmp_path, pha=scales)).fold(flat), by_channel * plain
    )


class TestGridsThatDiffer:
    def test_area_stays_with_its_own_energies(self, tmp_path: Path) -> None:
        """The flux of a steep source is not the same in both halves of a bin of the matrix."""
        edges = np.array([0.5, 0.7, 1.1, 2.25, 3.5])
        area = np.array([100.0, 10.0, 300.0, 50.0])
        path = survey(tmp_path)
        spectrum = read_spectrum(path, arf=to_bytes(arf_hdu(edges[:-1], edges[1:], area)))
        cuts = np.unique(np.concatenate([edges, np.linspace(0.5, 3.5, 7)]).astype(np.float32))
        cuts = cuts.astype(float)
        photons = (cuts[:-1] ** -2 - cuts[1:] ** -2) / 2
        middle = 0.5 * (cuts[1:] + cuts[:-1])
        photons *= area[np.searchsorted(edges, middle) - 1]
        rows = np.bincount(np.searchsorted(energy_edges()[0], middle) - 1, photons)
        np.testing.assert_allclose(
            spectrum.fold(lambda energy: energy**-3.0), 1000.0 * rows @ dense_matrix(), rtol=1e-5
        )

    def test_area_at_other_energies_altogether_gives_nothing(self, tmp_path: Path) -> None:
        far = to_bytes(arf_hdu(np.array([20.0, 30.0]), np.array([30.0, 40.0]), np.ones(2)))
        assert (read_spectrum(survey(tmp_path), arf=far).fold(flat) == 0).all()

    def test_energies_without_area_give_nothing(self, tmp_path: Path) -> None:
        low, high = energy_edges()
        half = to_bytes(arf_hdu(low[:3], high[:3], np.full(3, 100.0)))
        folded = read_spectrum(survey(tmp_path), arf=half).fold(flat)
        expected = np.where(np.arange(6) < 3, 0.01 * 0.5 * 100.0 * 1000.0, 0.0) @ dense_matrix()
        np.testing.assert_allclose(folded, expected, rtol=1e-5)


def test_named_lines_are_integrated_whatever_their_width(tmp_path: Path) -> None:
    spectrum = read_spectrum(survey(tmp_path), arf=to_bytes(arf_hdu(area=np.full(6, 100.0))))
    sigma = 2e-6

    def line(energy: np.ndarray) -> np.ndarray:
        shape = np.exp(-0.5 * ((energy - 1.2345) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        return 1e-3 * shape + 1e-2

    without = spectrum.fold(lambda energy: np.full_like(energy, 1e-2)).sum()
    assert spectrum.fold(line).sum() == pytest.approx(without)
    with_line = spectrum.fold(line, lines_kev=[1.2345, 50.0]).sum()
    assert with_line - without == pytest.approx(100.0, rel=1e-5)
