"""Physical fits in batches: values, intervals, limits, and what rows owe each other (nothing)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from benchmarks.physical_fits import Observation, fit_one
from raypipe.catalog.physics_columns import FIT_COLUMNS
from raypipe.catalog.schema import catalog_table
from raypipe.config import EmbedConfig
from raypipe.embedding.part import recipe_of
from raypipe.fits import MODELS, add_fits, fit_columns, fit_model
from raypipe.fits.data import Data, fold
from raypipe.fits.models import NH_LIMITS_1E22, cross_sections, tabulated
from raypipe.model.bundle import Model
from raypipe.model.features import Batch, prepare
from raypipe.ogip import read_spectrum
from raypipe.physics import energy
from raypipe.physics.absorption import transmission
from raypipe.spectra.batch import SpectraBatch
from tests.unit.model_spectra import BINS, GRID, gaussian_response


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FINE = energy.EnergyGrid(0.2, 12.0, 2360)
AREA_CM2 = 300.0 * np.exp(-0.5 * ((GRID.mid_kev - 1.5) / 1.5) ** 2)
RANGES = {"powlaw": (1.0, 3.0), "bb": (0.2, 1.5), "brems": (0.6, 12.0), "plasma": (0.4, 8.0)}
"""Parameters of simulated spectra, from lowest to highest."""


@cache
def response() -> np.ndarray:
    return gaussian_response(0.06)


def expected_counts(name: str, value: float, nh_1e22: float) -> np.ndarray:
    """Fold a model through the response, with the flux in 5 eV steps: (bins,), of any scale."""
    flux = MODELS[name].flux(np.array([value]), FINE)[0]
    flux = flux * transmission(np.array([nh_1e22]), FINE)[0]
    parts = np.rint(GRID.widths_kev / 0.005).astype(int)
    photons = np.add.reduceat(flux, np.cumsum(parts) - parts) * 0.005 * AREA_CM2
    return photons @ response().astype(float)


def observe(mu: np.ndarray, seed: int, background: float = 0.02) -> SpectraBatch:
    """Draw counts for expected source counts (n, bins), over a flat background."""
    rng = np.random.default_rng(seed)
    n = len(mu)
    return SpectraBatch(
        counts=rng.poisson(mu + background).astype(np.float32),
        background_counts=rng.poisson(np.full_like(mu, 20 * background)).astype(np.float32),
        background_scale=np.full(n, 0.05, np.float32),
        exposure_s=np.full(n, 1e4, np.float32),
        arf_cm2=np.tile(AREA_CM2, (n, 1)).astype(np.float32),
        response_index=np.zeros(n, np.int64),
        responses=response()[None],
        bins=(BINS,),
    )


def draw(name: str, n: int, seed: int) -> tuple[SpectraBatch, pd.DataFrame]:
    """Simulate absorbed spectra of 400 to 4,000 counts, and return them with their truth."""
    rng = np.random.default_rng(seed)
    low, high = RANGES[name]
    values = rng.uniform(low, high, n) if name == "powlaw" else np.geomspace(low, high, n)
    columns = np.exp(rng.uniform(np.log(0.15), np.log(1.5), n))
    counts = np.exp(rng.uniform(np.log(400), np.log(4000), n))
    shapes = np.stack([expected_counts(name, *each) for each in zip(values, columns, strict=True)])
    scale = counts / shapes.sum(1)
    truth = pd.DataFrame({"value": values, "nh_1e22": columns, "amplitude": scale / 1e4})
    return observe(shapes * scale[:, None], seed), truth


def pulls(name: str, n: int, seed: int) -> pd.DataFrame:
    """Return (fit - truth) / error, with the error of the side on which the truth lies."""
    spectra, truth = draw(name, n, seed)
    fitted = fit_model(prepare(spectra), GRID, name)
    found = {}
    for quantity in truth:
        value, true = getattr(fitted, quantity), truth[quantity].to_numpy()
        if quantity == "amplitude" or (quantity == "value" and MODELS[name].by_ratio):
            pairs = (
                np.log(each) for each in (value, true, fitted.low[quantity], fitted.high[quantity])
            )
            value, true, low, high = pairs
        else:
            low, high = fitted.low[quantity], fitted.high[quantity]
        found[quantity] = (value - true) / np.where(true > value, high - value, value - low)
    return pd.DataFrame(found)


@pytest.mark.parametrize("name", list(MODELS))
def test_slopes_are_the_derivatives_of_the_expected_counts(name: str) -> None:
    spectra, _ = draw(name, 4, seed=2)
    data = Data.of(prepare(spectra), GRID)
    table, sigmas = tabulated(name, GRID), cross_sections(GRID)
    place = torch.tensor([[0.3, 0.4, 6.0]] * 4, dtype=torch.float64)
    here = fold(table, sigmas, place, data)
    for axis, step in enumerate((2e-2, 2e-2, 1e-2)):
        moved = place.clone()
        moved[:, axis] += step
        above = fold(table, sigmas, moved, data)
        moved[:, axis] -= 2 * step
        below = fold(table, sigmas, moved, data)
        slope = (above.mu - below.mu) / (2 * step)
        torch.testing.assert_close(here.slopes[:, axis], slope, rtol=0.02, atol=5e-3)
        rise = (above.log_amplitude - below.log_amplitude) / (2 * step)
        torch.testing.assert_close(
            here.amplitude_slopes[:, axis].float(), rise, rtol=0.02, atol=5e-3
        )


@pytest.mark.parametrize("name", list(MODELS))
def test_folds_are_those_of_the_flux_in_small_steps(name: str) -> None:
    low, high = RANGES[name]
    for value, column in ((low, 0.1), (0.7 * high, 3.0)):
        mu = expected_counts(name, value, column)
        data = Data.of(prepare(observe(mu[None] * 1e3 / mu.sum(), 1, background=0.0)), GRID)
        variable = np.log(value) if MODELS[name].by_ratio else value
        place = torch.tensor([[variable, column, 0.0]], dtype=torch.float64)
        found = fold(tabulated(name, GRID), cross_sections(GRID), place, data).slopes[0, 2].numpy()
        bright = mu > 1e-3 * mu.max()
        np.testing.assert_allclose(found[bright], mu[bright] / mu.sum(), rtol=1.5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_a_fit_is_as_low_as_that_of_scipy(name: str) -> None:
    spectra, _ = draw(name, 2, seed=3)
    batch = prepare(spectra)
    fitted = fit_model(batch, GRID, name)
    for row in range(2):
        observation = Observation.through(
            spectra.counts[row],
            batch.background[row].double().numpy(),
            float(spectra.exposure_s[row]),
            spectra.arf_cm2[row].astype(float),
            spectra.responses[0].astype(float),
        )
        assert fitted.stat[row] == pytest.approx(fit_one(observation, name).cash, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_pulls_have_a_width_of_one(name: str) -> None:
    found = pulls(name, 300, seed=4)
    spread = found.std()
    assert np.isfinite(found.to_numpy()).all(axis=1).mean() > 0.97
    assert (spread > 0.9).all(), spread
    assert (spread < 1.1).all(), spread
    assert (found.mean().abs() < 0.2).all(), found.mean()


def test_intervals_end_where_the_statistic_has_risen_by_one() -> None:
    spectra, _ = draw("powlaw", 3, seed=5)
    spectra = replace(spectra, background_counts=np.zeros_like(spectra.background_counts))
    batch = prepare(spectra)
    fitted = fit_model(replace(batch, background_scale=torch.zeros(3, 1)), GRID, "powlaw")
    for end in (fitted.low, fitted.high):
        # Column density and amplitude are free along the profile: scan both.
        low, high = np.nan_to_num(fitted.low["nh_1e22"]), fitted.high["nh_1e22"]
        columns = np.linspace(np.maximum(2 * low - high, 0.0), 2 * high - low, 61).T
        profile = np.array(
            [profiled(batch, row, end["value"][row], columns[row]) for row in range(3)]
        )
        np.testing.assert_allclose(profile - fitted.stat, 1.0, atol=0.06)


def profiled(batch: Batch, row: int, gamma: float, columns: np.ndarray) -> float:
    """Return the lowest Cash statistic for one photon index, over columns and amplitudes."""
    one = Data.of(batch, GRID).take(torch.full((len(columns),), row))
    place = torch.zeros(len(columns), 3, dtype=torch.float64)
    place[:, 0], place[:, 1] = gamma, torch.tensor(columns)
    total = float((batch.counts[row] - batch.background[row]).sum())
    statistics = []
    for log_counts in np.log(total) + np.linspace(-0.1, 0.1, 31):
        place[:, 2] = log_counts
        statistics.append(
            2 * fold(tabulated("powlaw", GRID), cross_sections(GRID), place, one).objective
        )
    return float(torch.stack(statistics).min())


def test_rows_do_not_influence_each_other() -> None:
    spectra, _ = draw("plasma", 24, seed=6)
    counts = spectra.counts.copy()
    counts[5] = 0
    spectra = replace(spectra, counts=counts)
    together = fit_columns(prepare(spectra), GRID, ["powlaw", "plasma"])
    for rows in ([7], [23, 2, 5, 7], list(range(23, -1, -1))):
        apart = fit_columns(prepare(spectra.take(rows)), GRID, ["powlaw", "plasma"])
        for name, values in apart.items():
            np.testing.assert_allclose(values, together[name][rows], rtol=5e-3, err_msg=name)


def test_an_unabsorbed_source_has_an_upper_limit_of_its_column() -> None:
    mu = expected_counts("powlaw", 2.0, 0.0)[None]
    spectra = observe(np.repeat(mu * 2000 / mu.sum(), 20, 0), seed=7)
    fitted = fit_model(prepare(spectra), GRID, "powlaw")
    at_limit = fitted.nh_1e22 == NH_LIMITS_1E22[0]
    assert 3 < at_limit.sum() < 17
    np.testing.assert_array_equal(at_limit, [flag == "nh_at_min" for flag in fitted.flags])
    assert np.isnan(fitted.low["nh_1e22"][at_limit]).all()
    assert (fitted.high["nh_1e22"] > 0.005).all()
    assert (fitted.high["nh_1e22"] < 0.2).all()


def test_a_temperature_beyond_the_limit_is_a_limit() -> None:
    mu = expected_counts("powlaw", 0.6, 0.3)[None]
    fitted = fit_model(prepare(observe(mu * 3000 / mu.sum(), seed=8)), GRID, "brems")
    assert fitted.flags[0] == "kt_at_max"
    assert fitted.value[0] == pytest.approx(MODELS["brems"].limits[1])
    assert np.isnan(fitted.high["value"][0])
    assert 20 < fitted.low["value"][0] < 100


def test_the_energy_flux_is_that_of_the_source() -> None:
    spectra, truth = draw("bb", 40, seed=9)
    fitted = fit_model(prepare(spectra), GRID, "bb")
    inside = (FINE.mid_kev > 0.5) & (FINE.mid_kev < 7.0)
    flux = MODELS["bb"].flux(truth["value"].to_numpy(), FINE)
    flux = (
        flux
        * transmission(truth["nh_1e22"].to_numpy(), FINE)
        * truth["amplitude"].to_numpy()[:, None]
    )
    true = (flux * FINE.mid_kev)[:, inside].sum(1) * 0.005 * energy.ERG_PER_KEV
    inside_interval = (fitted.low["flux"] < true) & (true < fitted.high["flux"])
    np.testing.assert_allclose(fitted.flux, true, rtol=0.2)
    assert 18 <= inside_interval.sum() <= 36


def test_columns_say_which_model_is_best_and_what_it_leaves() -> None:
    spectra, _ = draw("bb", 12, seed=10)
    spectra = replace(spectra, exposure_s=np.r_[np.zeros(1), np.full(11, 1e4)].astype(np.float32))
    measured = pd.DataFrame({"z0": np.zeros(12), "cash": np.full(12, 100.0)})
    columns = add_fits(measured, spectra, ["powlaw", "bb"])
    assert pd.isna(columns.loc[0, ["powlaw_gamma", "bb_flags", "best_fit", "latent_gain"]]).all()
    rest = columns.iloc[1:]
    assert (rest["best_fit"] == "bb").mean() > 0.7
    lowest = rest[["powlaw_stat", "bb_stat"]].min(axis=1)
    np.testing.assert_allclose(rest["latent_gain"], lowest - 100.0)
    np.testing.assert_allclose(
        rest["bb_nh"], 100 * fit_model(prepare(spectra.take(range(1, 12))), GRID, "bb").nh_1e22
    )


def test_fits_keep_their_names_beside_those_of_the_chandra_source_catalog() -> None:
    """A table of the CSC brings columns of the same names: they are renamed."""
    spectra, _ = draw("bb", 2, seed=12)
    measured = add_fits(
        pd.DataFrame({"z0": np.zeros(2), "z_cov": [np.ones(1, np.float32)] * 2, "cash": 100.0}),
        spectra,
        ["bb"],
    )
    names = ["detection_id", "obsid", "obi", "region_id", "name", "ra", "dec", "flags"]
    table = pa.table({name: ["", ""] for name in names} | {"bb_stat": [1.4, 1.5]})
    catalog = catalog_table(table, measured, np.array(["test"] * 2), "m")
    np.testing.assert_array_equal(catalog["bb_stat"], measured["bb_stat"])
    described = catalog.schema.field("bb_stat").metadata[b"description"]
    assert described == b"absorbed black body: Cash statistic of the fit"
    (renamed,) = (
        name for name in catalog.column_names if name.endswith("bb_stat") and name != "bb_stat"
    )
    assert catalog[renamed].to_pylist() == [1.4, 1.5]


def test_every_column_of_a_fit_is_described() -> None:
    spectra, _ = draw("bb", 2, seed=12)
    columns = add_fits(pd.DataFrame({"cash": np.zeros(2)}), spectra, list(MODELS))
    assert set(columns) - {"cash"} == set(FIT_COLUMNS)


def test_rows_with_other_fits_are_measured_again() -> None:
    model = cast(Model, SimpleNamespace(fingerprint="a"))
    configs = [EmbedConfig(), EmbedConfig(fits=["bb"]), EmbedConfig(fits=["bb", "powlaw"])]
    assert len({recipe_of(model, config) for config in configs}) == 3


def test_a_model_that_is_not_known_is_named() -> None:
    spectra, _ = draw("bb", 1, seed=11)
    with pytest.raises(KeyError, match="no model 'apec'"):
        fit_columns(prepare(spectra), GRID, ["apec"])


@pytest.mark.parametrize(
    ("file", "gamma", "nh_1e22", "flux"),
    [
        ("csc/acisf01575_001N001_r0085", 1.573, 0.297, 1.762e-13),
        ("csc/acisf04938_000N002_r0043", 2.039, 0.0438, 3.107e-13),
    ],
)
def test_real_spectra_have_the_power_laws_of_xspec(
    shared_data: Path, file: str, gamma: float, nh_1e22: float, flux: float
) -> None:
    """XSPEC fitted 0.5-8 keV with the W statistic: see `xspec_fits.json` of the data."""
    spectrum = read_spectrum(shared_data / f"{file}_pha3.fits.gz")
    fitted = fit_model(prepare(SpectraBatch.from_spectra([spectrum])), GRID, "powlaw")
    assert fitted.low["value"][0] < gamma < fitted.high["value"][0]
    assert fitted.low["nh_1e22"][0] < nh_1e22 < fitted.high["nh_1e22"][0]
    assert fitted.flux[0] == pytest.approx(flux, rel=0.05)


def test_intervals_hold_the_best_value_of_a_model_that_is_far_from_the_counts(
    shared_data: Path,
) -> None:
    """The profile of a Cash statistic that is far from a parabola may end on the wrong side."""
    nicer = shared_data / "missions" / "nicer"
    spectrum = read_spectrum(
        nicer / "nicer_unbinned.pha", arf=nicer / "nicer.arf", rmf=nicer / "nicer.rmf.gz"
    )
    batch = prepare(SpectraBatch.from_spectra([spectrum]))
    for name in MODELS:
        fitted = fit_model(batch, GRID, name)
        for quantity, best in (("value", fitted.value), ("nh_1e22", fitted.nh_1e22)):
            assert not fitted.low[quantity][0] > best[0], (name, quantity)
            assert not fitted.high[quantity][0] < best[0], (name, quantity)
