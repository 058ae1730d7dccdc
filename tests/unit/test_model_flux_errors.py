"""Errors of a model's fluxes without noise: by band, in a bundle, and in the limits of fluxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import raypipe
from raypipe.catalog.source_fluxes import combine_fluxes
from raypipe.catalog.source_table import _flux_columns
from raypipe.config import ModelConfig
from raypipe.model.bundle import Model, load_model, save_model
from raypipe.model.features import Batch, prepare
from raypipe.model.flux_errors import FluxErrors, widened
from raypipe.model.fluxes import BandFluxes, band_fluxes
from raypipe.model.posterior import Draws
from raypipe.model.presets import Folded, build
from raypipe.spectra.band_counts import BANDS_KEV
from raypipe.store.workspace import Workspace
from tests.unit.model_spectra import GRID, power_laws

EDGES_KEV = np.array([0.2, 0.5, 1.2, 2.0, 7.0])


def _errors(scale: float = 0.01) -> FluxErrors:
    """Errors of one per cent per cell from the first: 2 to 3 in photons, 102 to 103 in energy."""
    k = len(EDGES_KEV)
    number = np.full((2, k, k), 100)
    number[0, 0] = 0  # Nobody sees a band from 0.2 keV wholly,
    number[1, 1:] = 3  # and hardly anybody another one partly.
    cells = np.arange(2 * 2 * k * k, dtype=float).reshape(2, 2, k, k)
    return FluxErrors(EDGES_KEV, scale * cells, number)


def _cell(kind: int, way: int, low: int, high: int) -> float:
    return float(_errors().log_errors[kind, way, low, high])


def test_a_band_has_the_error_of_the_measured_one_with_the_nearest_edges() -> None:
    errors = _errors()
    seen = np.ones((1, 2))
    bands = {"h": (2.0, 7.0), "like s": (0.45, 1.3)}
    assert errors.of_photons(bands, seen).tolist() == [[_cell(0, 0, 3, 4), _cell(0, 0, 1, 2)]]
    assert errors.of_energy(bands, seen).tolist() == [[_cell(1, 0, 3, 4), _cell(1, 0, 1, 2)]]


def test_of_equally_near_bands_the_one_counts_that_is_seen_in_the_same_way() -> None:
    number = np.full_like(_errors().number, 100)
    found = replace(_errors(), number=number).of_energy({"u": (0.2, 0.5)}, [[0.94], [0.96]])
    assert found[:, 0].tolist() == [_cell(1, 1, 0, 1), _cell(1, 0, 0, 1)]


def test_a_nearer_band_counts_however_it_is_seen() -> None:
    """Nobody sees u wholly, and s only wholly: a far-off band would have quite another error."""
    found = _errors().of_energy({"u": (0.2, 0.5), "s": (0.5, 1.2)}, [[0.7, 0.7], [1.0, 1.0]])
    assert found.tolist() == [[_cell(1, 1, 0, 1), _cell(1, 0, 1, 2)]] * 2


def test_without_an_instrument_each_band_is_seen_as_most_see_it() -> None:
    found = _errors().of_energy(BANDS_KEV)
    expected = [(1, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 1, 4)]
    assert found.tolist() == [_cell(1, *cell) for cell in expected]


@given(st.floats(0.2, 11.0), st.floats(1.001, 50.0), st.floats(0.0, 1.0))
def test_every_band_has_an_error(low: float, factor: float, seen: float) -> None:
    errors = _errors().of_photons({"any": (low, low * factor)}, [[seen]])
    assert errors.shape == (1, 1)
    assert errors[0, 0] > 0


def test_limits_widen_in_quadrature_and_the_value_stays() -> None:
    found = widened([[-0.3], [0.0], [0.04]], 0.03)
    assert found[:, 0] == pytest.approx([-np.hypot(0.3, 0.03), 0.0, 0.05])


def _measured(errors: FluxErrors | None) -> BandFluxes:
    torch.manual_seed(0)
    network = build(ModelConfig(latents=4, decoder_width=16), GRID)
    assert isinstance(network, Folded)
    network.flux_errors = errors
    batch: Batch = prepare(power_laws(3, 1, 500.0)[0])
    noise = torch.Generator().manual_seed(1)
    z, log_amplitude = (
        0.01 * torch.randn(3, 50, 4, generator=noise),
        -9.0 + 0.01 * torch.randn(3, 50, generator=noise),
    )
    weights = torch.full((3, 50), 0.02)
    drawn = Draws(z, log_amplitude, weights, torch.full((3,), 50.0), torch.zeros(3))
    found = band_fluxes(network.eval(), batch, drawn)
    detected = torch.full_like(found.test_statistic, 100.0)
    return replace(found, test_statistic=detected, seen=torch.ones_like(found.seen))


def test_limits_of_fluxes_hold_the_error_of_the_model() -> None:
    plain, wide = _measured(None), _measured(_errors())
    h = list(plain.bands).index("h")
    for kind, one, other in (
        (0, plain.photon_flux, wide.photon_flux),
        (1, plain.energy_flux, wide.energy_flux),
    ):
        assert np.array_equal(one.value, other.value, equal_nan=True)
        for low, high in ((one.value, one.hilim), (one.lolim, one.value)):
            assert (np.log(high / low)[:, h] < 0.03).all(), "the draws hardly differ"
        error = _cell(kind, 0, 3, 4)
        expected = np.hypot(np.log(one.hilim / one.value), error)[:, h]
        assert np.log(other.hilim / other.value)[:, h] == pytest.approx(expected, rel=1e-4)
        expected = np.hypot(np.log(one.value / one.lolim), error)[:, h]
        assert np.log(other.value / other.lolim)[:, h] == pytest.approx(expected, rel=1e-4)


def test_hardness_ratios_hold_the_errors_of_both_bands() -> None:
    plain, wide = (_measured(each).hardness("h", "s") for each in (None, _errors()))
    assert np.array_equal(plain.value, wide.value)
    both = np.hypot(_cell(0, 0, 3, 4), _cell(0, 0, 1, 2))
    # A ratio r is tanh(d / 2) of the difference d of the logarithms.
    found, own = (2 * np.arctanh([each.value, each.hilim]) for each in (wide, plain))
    assert found[1] - found[0] == pytest.approx(np.hypot(own[1] - own[0], both), rel=1e-3)


def test_upper_limits_stay() -> None:
    plain, wide = (
        replace(each, test_statistic=torch.zeros_like(each.test_statistic)).energy_flux
        for each in (_measured(None), _measured(_errors()))
    )
    assert np.array_equal(plain.hilim, wide.hilim, equal_nan=True)
    assert np.nanmax(wide.lolim) == 0.0


def test_a_source_keeps_the_error_that_its_detections_share() -> None:
    """Four equal detections: their noise shrinks by half, the error of the model does not."""
    noise, error, n = 0.02, 0.03, 4
    both = np.hypot(noise, error)
    value = np.full(n, 1e-14)
    limits = value * np.exp(-both), value * np.exp(both)
    flux, low, high = combine_fluxes(value, *limits, np.array([0]), error)
    assert flux[0] == pytest.approx(1e-14, rel=1e-3)
    expected = np.hypot(noise / 2, error)
    assert np.log(high / flux)[0] == pytest.approx(expected, rel=0.03)
    assert np.log(flux / low)[0] == pytest.approx(expected, rel=0.03)
    single = combine_fluxes(value[:1], limits[0][:1], limits[1][:1], np.array([0]), error)
    assert np.log(single[2] / single[0])[0] == pytest.approx(both, rel=0.03)


def test_detections_of_nustar_share_the_error_of_a_band_that_is_partly_seen() -> None:
    """They measure h and not m, so that they begin within h; the others see all of it."""
    errors = raypipe.load_model().network.flux_errors
    assert errors is not None
    n, noise = 100, 0.02
    partly, wholly = (float(errors.of_energy({"h": (2.0, 7.0)}, [[w]])[0, 0]) for w in (0.7, 1.0))
    assert partly > 5 * wholly
    for error, m in ((partly, np.nan), (wholly, 1e-13)):
        half = np.hypot(noise, error)
        columns = {"flux_m": m, "flux_h": 1.0, "flux_h_lolim": np.exp(-half)}
        columns |= {"flux_m_lolim": m, "flux_m_hilim": m, "flux_h_hilim": np.exp(half)}
        rows = pa.table({name: np.full(n, value) for name, value in columns.items()})
        found = _flux_columns(rows, np.array([0]), errors)
        low, high = (found[f"flux_h_{end}"][0].as_py() for end in ("lolim", "hilim"))
        assert 0.5 * np.log(high / low) == pytest.approx(np.hypot(noise / 10, error), rel=0.03)


def test_errors_come_back_from_a_bundle_and_are_checked(tmp_path: Path) -> None:
    model: Model = raypipe.load_model()
    assert isinstance(model.network, Folded)
    model.network.flux_errors = _errors()
    save_model(model, Workspace(tmp_path), "m")
    again = load_model(tmp_path / "m").network
    assert isinstance(again, Folded)
    assert again.flux_errors is not None
    assert np.array_equal(again.flux_errors.log_errors, _errors().log_errors)
    model.network.flux_errors = None
    save_model(model, Workspace(tmp_path), "none")
    without = load_model(tmp_path / "none").network
    assert isinstance(without, Folded)
    assert without.flux_errors is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edges_kev": EDGES_KEV[::-1].copy()}, "edges_kev do not ascend"),
        ({"edges_kev": EDGES_KEV[:4]}, "log_errors is not of shape"),
        ({"edges_kev": np.geomspace(0.1, 12.0, 1500)}, "1500 edges, expected 2 to 100"),
        ({"log_errors": -_errors().log_errors}, "not within 0 to 10"),
        ({"log_errors": 1e300 * _errors().log_errors}, "not within 0 to 10"),
        ({"log_errors": _errors().log_errors > 0}, "log_errors is not of shape"),
        ({"number": np.zeros((2, 5, 5), np.int64)}, "no band was measured"),
    ],
)
def test_errors_that_cannot_be_are_refused(change: dict[str, np.ndarray], says: str) -> None:
    tensors = replace(_errors(), **change).tensors()
    with pytest.raises(ValueError, match=says):
        FluxErrors.from_tensors(tensors)
    del tensors["flux_errors.number"]
    with pytest.raises(LookupError):
        FluxErrors.from_tensors(tensors)
