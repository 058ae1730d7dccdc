"""The spectra of the source classes."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.physics.energy import EnergyGrid, FloatArray
from raypipe.simulation.populations import (
    CLASSES,
    PARAMETERS,
    Sources,
    draw_population,
    photon_flux,
)

GRID = EnergyGrid()


def one(value: float) -> FloatArray:
    return np.array([value])


def as_columns(parameters: dict[str, float]) -> dict[str, FloatArray]:
    return {name: one(value) for name, value in parameters.items()}


def photons_between(flux: FloatArray, low: float, high: float) -> FloatArray:
    inside = (GRID.mid_kev >= low) & (GRID.mid_kev < high)
    return flux[:, inside].sum(axis=1) * GRID.width_kev


@pytest.mark.parametrize("name", list(CLASSES))
def test_every_class_has_finite_positive_spectra(name: str) -> None:
    model = np.full(400, name)
    drawn = CLASSES[name].draw(np.random.default_rng(1), 400)
    assert set(drawn) <= set(PARAMETERS)
    sources = Sources.assemble(model, [(np.arange(400), drawn)])
    flux = photon_flux(sources, GRID)
    assert flux.shape == (400, GRID.n)
    assert np.all(np.isfinite(flux))
    assert np.all(flux >= 0)
    assert np.all(photons_between(flux, 0.5, 7.0) > 1e-4)
    for parameter, values in drawn.items():
        known = np.isfinite(values)
        assert np.all(values[known] >= 0)
        assert known.all() or np.all(drawn["second_share"][~known] == 0), parameter


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("AGN", "kt_kev"), ("HM-STAR", "kt2_kev"), ("LMXB", "photon_index"), ("NS", "photon_index")],
)
def test_a_component_a_source_lacks_has_no_parameter(name: str, parameter: str) -> None:
    drawn = CLASSES[name].draw(np.random.default_rng(5), 200)
    lacks = drawn["second_share"] == 0
    assert 0 < lacks.sum() < 200
    np.testing.assert_array_equal(np.isnan(drawn[parameter]), lacks)


def test_the_iron_line_of_a_redshifted_source_shrinks_with_its_energy() -> None:
    def spectrum(width_kev: float, redshift: float) -> FloatArray:
        p = {
            "photon_index": 1.8,
            "nh_1e22": 1e-4,
            "nh_foreground_1e22": 1e-4,
            "covering_fraction": 1.0,
            "second_share": 0.0,
            "fe_line_ew_kev": width_kev,
            "redshift": redshift,
        }
        columns = Sources.assemble(np.array(["AGN"]), [(np.array([0]), as_columns(p))])
        return photon_flux(columns, GRID)

    for redshift in (0.0, 1.0, 3.0):
        energy = 6.404 / (1 + redshift)
        excess = spectrum(0.2, redshift) - spectrum(0.0, redshift)
        photons = photons_between(excess, energy - 0.2, energy + 0.2)
        density = np.interp(energy, GRID.mid_kev, spectrum(0.0, redshift)[0])
        assert photons / density == pytest.approx(0.2 / (1 + redshift), rel=0.01)


def test_a_spectrum_depends_on_its_own_parameters_only() -> None:
    sources = draw_population(np.random.default_rng(2), 60)
    flux = photon_flux(sources, GRID)
    rows = np.array([41, 3, 17])
    np.testing.assert_allclose(photon_flux(sources.take(rows), GRID), flux[rows], rtol=1e-12)


def test_classes_are_as_hard_as_they_should_be() -> None:
    sources = draw_population(np.random.default_rng(3), 4000)
    flux = photon_flux(sources, GRID)
    hardness = photons_between(flux, 2.0, 7.0) / photons_between(flux, 0.5, 7.0)
    median = {name: np.median(hardness[sources.model == name]) for name in CLASSES}
    assert median["LM-STAR"] < median["LMXB"] < median["CV"] < median["HMXB"]
    assert median["NS"] < median["AGN"] < median["HMXB"]
    assert median["HM-STAR"] < median["YSO"] < median["HMXB"]


def test_log_nh_is_the_log_of_nh() -> None:
    sources = draw_population(np.random.default_rng(4), 200)
    np.testing.assert_allclose(
        10 ** sources.parameters["log_nh"], 1e22 * sources.parameters["nh_1e22"]
    )
