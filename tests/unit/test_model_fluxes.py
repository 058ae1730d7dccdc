"""Fluxes in bands from draws of the posterior: units, bands, limits and what is not observed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import raypipe
from raypipe.catalog.physics_columns import FLUX_COLUMNS
from raypipe.catalog.schema import describe
from raypipe.config import ModelConfig
from raypipe.errors import UsageError
from raypipe.model import fluxes
from raypipe.model.band_sums import band_shares
from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.encode import blank_unmeasured, encode_batch
from raypipe.model.features import Batch, prepare
from raypipe.model.flux_answers import density_of, flux_frame
from raypipe.model.flux_density import at_resolution
from raypipe.model.fluxes import band_fluxes, flux_columns
from raypipe.model.folding import best_amplitude, fold
from raypipe.model.presets import Folded, build
from raypipe.model.weighted_quantiles import kish, weighted_quantiles
from raypipe.ogip import read_spectrum
from raypipe.physics.energy import ERG_PER_KEV
from raypipe.spectra.band_counts import BANDS_KEV
from raypipe.spectra.batch import SpectraBatch
from tests.unit.model_spectra import BINS, GRID, power_laws

ROWS, DRAWS = 6, 40
INDEX = 1.7
"""Photon index of the flux that a decoder adds to, so that one of zeros gives a power law."""


def _network(seed: int = 0, rough: float = 1.0) -> Folded:
    """A decoder with random weights, whose output `rough` scales; with 0 it gives a power law."""
    torch.manual_seed(seed)
    network = build(ModelConfig(latents=4, decoder_width=16), GRID)
    assert isinstance(network, Folded)
    with torch.no_grad():
        for parameter in network.autoencoder.decoder.layers[-1].parameters():
            parameter.mul_(rough)
    return network.eval()


def _batch(seed: int = 1, counts: float = 500.0) -> Batch:
    return prepare(power_laws(ROWS, seed, counts)[0])


def _draws(
    n: int = ROWS, draws: int = DRAWS, spread: float = 0.3, seed: int = 2
) -> SimpleNamespace:
    """Draws with unequal weights around an amplitude typical of the spectra."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(n, draws, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    return SimpleNamespace(
        z=torch.randn(n, draws, 4, generator=generator),
        log_amplitude=-9.0 + spread * torch.randn(n, draws, generator=generator),
        weights=weights,
        ess=1.0 / weights.square().sum(1),
    )


def _as_expected(network: Folded, batch: Batch) -> tuple[Batch, SimpleNamespace]:
    """The counts that a power law predicts, and draws with the errors of some hundred counts."""
    shape = torch.exp(network.log_shape(torch.zeros(ROWS, 4))).detach()
    folded = fold(shape, batch, network.energy_widths_kev)
    best = best_amplitude(batch.counts, folded, batch.background)
    draws = _draws(spread=0.06)
    draws.log_amplitude += 9.0 + torch.log(best)
    return replace(batch, counts=best * folded + batch.background), draws


def _power_law_integral(low: float, high: float, index: float) -> float:
    return float((high ** (1 - index) - low ** (1 - index)) / (1 - index))


def test_the_fluxes_of_a_power_law_are_its_integrals() -> None:
    network, batch, draws = _network(rough=0.0), _batch(), _draws(spread=0.0)
    shape = network.log_shape(torch.zeros(1, 4)).detach()
    norm = float(torch.exp(shape - network.log_flux_base)[0, 0])
    norm *= np.exp(-9.0)  # photon/cm2/s/keV at 1 keV
    bands = {**BANDS_KEV, "odd": (0.7031, 2.3456)}
    found = band_fluxes(network, batch, draws, bands)
    for place, (low, high) in enumerate(bands.values()):
        photons = norm * _power_law_integral(low, high, INDEX)
        erg = ERG_PER_KEV * norm * _power_law_integral(low, high, INDEX - 1)
        assert found.photons[..., place].numpy() == pytest.approx(photons, rel=1e-3)
        assert found.energy[..., place].numpy() == pytest.approx(erg, rel=1e-3)


def test_one_kev_is_the_codata_number_of_erg() -> None:
    assert ERG_PER_KEV == 1.602176634e-9
    network, batch, draws = _network(), _batch(), _draws()
    found = band_fluxes(network, batch, draws, {"line": (1.0, 1.001)})
    ratio = found.energy / found.photons
    assert ratio.numpy() == pytest.approx(1.0005 * 1.602176634e-9, rel=1e-5)


def test_bins_at_the_edges_of_a_band_are_divided() -> None:
    share, energy = band_shares(GRID, {"in one bin": (0.5012, 0.5037), "all": (0.2, 12.0)})
    covered = share * GRID.widths_kev[:, None]
    assert covered.sum(0) == pytest.approx([0.0025, 11.8])
    assert (share[:, 0] > 0).sum() == 1
    assert (energy[:, 0] / np.maximum(share[:, 0], 1e-30)).max() == pytest.approx(0.50245)


def test_soft_medium_and_hard_add_up_to_broad_draw_by_draw() -> None:
    found = band_fluxes(_network(), _batch(), _draws())
    for values in (found.photons, found.energy):
        by_band = dict(zip(found.bands, values.unbind(-1), strict=True))
        total = by_band["s"] + by_band["m"] + by_band["h"]
        assert total.numpy() == pytest.approx(by_band["b"].numpy(), rel=1e-5)


def test_limits_enclose_the_value() -> None:
    columns = flux_columns(band_fluxes(_network(), _batch(), _draws()))
    for name in ("flux_s", "flux_m", "flux_h", "flux_b", "photflux_b", "hard_hs", "hard_ms"):
        value, low, high = (columns[f"{name}{end}"] for end in ("", "_lolim", "_hilim"))
        assert np.all(low < value), name
        assert np.all(value < high), name


def test_a_band_that_the_instrument_does_not_see_has_no_flux() -> None:
    columns = flux_columns(band_fluxes(_network(), _batch(), _draws()))
    assert np.isnan(columns["flux_u"]).all()
    assert np.isnan(columns["photflux_u_hilim"]).all()
    batch = _batch()
    is_soft = GRID.mid_kev < 2.5
    batch.arf_cm2[:, torch.from_numpy(is_soft)] = 0.0
    columns = flux_columns(band_fluxes(_network(), batch, _draws()))
    for name in ("flux_s", "flux_m", "flux_b", "hard_hs", "hard_hs_lolim"):
        assert np.isnan(columns[name]).all(), name
    assert np.isfinite(columns["flux_h"]).all(), "more than two thirds of 2-7 keV lie above 2.5 keV"


def test_a_band_without_counts_of_its_own_has_an_upper_limit() -> None:
    network = _network(rough=0.0)
    batch, draws = _as_expected(network, _batch(counts=300.0))
    soft = batch.bin_lo_kev[batch.response_index] < 1.9
    cut = replace(batch, counts=torch.where(soft, batch.counts, 0.0))
    seen, unseen = (band_fluxes(network, each, draws) for each in (batch, cut))
    hard = list(BANDS_KEV).index("h")
    assert seen.is_detected[:, hard].all()
    assert not unseen.is_detected[:, hard].any()
    estimate = unseen.energy_flux
    assert np.all(estimate.lolim[:, hard] == 0.0)
    assert np.all(estimate.hilim[:, hard] == estimate.upper_limit[:, hard])
    assert np.all(estimate.hilim[:, hard] > seen.energy_flux.hilim[:, hard]), "90% are above 84%"
    assert np.isnan(seen.energy_flux.upper_limit[:, hard]).all()


def test_an_upper_limit_is_that_of_a_prior_flat_in_flux() -> None:
    """Draws from exp(-F) / F, no counts seen: with the flat prior, the limit is -ln(0.1)."""
    uniform = (torch.arange(4000) + 0.5) / 4000
    flux = torch.exp(np.log(1e-4) + uniform * np.log(30.0 / 1e-4)).reshape(1, -1, 1)
    weights = torch.exp(-flux[..., 0])
    found = fluxes.BandFluxes(
        bands={"b": (0.5, 7.0)},
        photons=flux,
        energy=flux,
        weights=weights / weights.sum(),
        ess=torch.tensor([4000.0]),
        seen=torch.ones(1, 1),
        test_statistic=torch.zeros(1, 1),
    )
    assert found.photon_flux.upper_limit == pytest.approx(-np.log(0.1), rel=0.01)


def test_fluxes_do_not_depend_on_the_other_rows() -> None:
    network, batch, draws = _network(), _batch(), _draws()
    together = flux_columns(band_fluxes(network, batch, draws))
    for row in range(ROWS):
        own = SimpleNamespace(**{name: values[[row]] for name, values in vars(draws).items()})
        alone = flux_columns(band_fluxes(network, batch.take(torch.tensor([row])), own))
        for name, values in together.items():
            assert values[[row]] == pytest.approx(alone[name], rel=1e-5, nan_ok=True), name


@pytest.mark.parametrize("band", [(0.1, 1.0), (2.0, 13.0), (3.0, 3.0), (4.0, 1.0)])
def test_a_band_outside_the_grid_is_refused_by_name(band: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=r"band mine .* within 0\.2-12 keV"):
        band_fluxes(_network(), _batch(), _draws(), {"mine": band})


@pytest.mark.parametrize("edges", [5, (1.0,), (1.0, 2.0, 3.0), ("low", 2.0)])
def test_what_is_no_pair_of_energies_is_refused_by_name(edges: object) -> None:
    with pytest.raises(UsageError, match=r"band mine: .* is not a pair of energies in keV"):
        band_shares(GRID, {"mine": edges})  # type: ignore[dict-item]


def test_no_band_and_no_draw_are_refused() -> None:
    with pytest.raises(UsageError, match="no band is given"):
        band_shares(GRID, {})
    model = raypipe.load_model()
    spectra = power_laws(1)[0]
    for ask in model.band_flux, model.flux_density:
        with pytest.raises(UsageError, match="cannot draw 0 times"):
            ask(spectra, draws=0)
    with pytest.raises(UsageError, match="cannot draw 0 times"):
        model.sample(spectra, 0)


def test_every_column_has_a_unit_and_a_description() -> None:
    columns = flux_columns(band_fluxes(_network(), _batch(), _draws()))
    assert {"flux_b", "flux_b_lolim", "flux_u_hilim", "hard_hm", "hard_hm_hilim"} <= set(columns)
    for name in columns:
        described = describe(name)
        assert described is not None, name
        assert bool(described.unit) is not name.startswith("hard_"), name
        assert "true" not in described.description, name


def test_quantiles_of_few_draws_keep_their_probability() -> None:
    """The truth is one more draw; it lies below the quantile as often as the quantile says."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(20_000, 11, generator=generator)
    truth, draws = values[:, 0], values[:, 1:]
    found = weighted_quantiles(
        draws, torch.full_like(draws, 0.1), torch.full((20_000,), 10.0), (0.2, 0.5, 0.8)
    )
    below = (truth < found).double().mean(1)
    assert below.numpy() == pytest.approx([0.2, 0.5, 0.8], abs=0.01)


def test_few_effective_draws_give_wide_limits() -> None:
    """Draws that repeat each other, as resampling makes them, are worth less than their number."""
    values = torch.cat([torch.zeros(1, 62), torch.tensor([[-1.0, 1.0]])], 1)
    weights = torch.full_like(values, 1 / 64)
    many, few = (
        weighted_quantiles(values, weights, torch.tensor([number]), (0.16, 0.84))[:, 0].tolist()
        for number in (64.0, 1.0)
    )
    assert many == [0.0, 0.0]
    assert few == [-1.0, 1.0]


def test_weights_count_as_repeated_draws() -> None:
    values = torch.linspace(0.0, 1.0, 201)[None]
    weights = torch.where(values < 0.5, 3.0, 1.0)
    (median,) = weighted_quantiles(values, weights, kish(weights), (0.5,))
    assert float(median) == pytest.approx(1 / 3, abs=0.01), "three quarters lie below one half"
    order = torch.randperm(201, generator=torch.Generator().manual_seed(0))
    again = weighted_quantiles(values[:, order], weights[:, order], kish(weights), (0.5,))
    assert float(again) == pytest.approx(float(median), abs=1e-6)


def test_fluxes_of_a_file_in_any_band(shared_data: Path) -> None:
    path = shared_data / "csc/acisf01575_001N001_r0085_pha3.fits.gz"
    spectra = SpectraBatch.from_spectra([read_spectrum(path)])
    network, bands = _network(rough=0.1), {"mine": (1.0, 4.5), "ultrasoft": (0.2, 0.4)}
    (row,) = flux_frame(network, spectra, bands, refine_steps=6, draws=64).itertuples()
    assert 3e-14 < row.flux_mine_lolim < row.flux_mine < row.flux_mine_hilim < 3e-13
    assert np.isnan(row.flux_mine_upper_limit)
    assert row.seen_mine == pytest.approx(1.0)
    assert np.isnan(row.flux_ultrasoft)
    density = density_of(network, spectra, refine_steps=6, draws=64)
    assert density.value.shape == (1, GRID.n_energy)
    inside = (density.energy_kev > 1.0) & (density.energy_kev < 4.5)
    photons = (density.value[0] * GRID.widths_kev)[inside].sum()
    assert photons == pytest.approx(row.photflux_mine, rel=0.05)
    pair = spectra.take([0, 0])
    pair.exposure_s[1] = 0.0
    both = flux_frame(network, pair, bands, refine_steps=6, draws=64)
    assert np.isnan(both["flux_mine"].iloc[1]), "it has no likelihood"
    assert both["flux_mine"].iloc[0] == pytest.approx(row.flux_mine, rel=1e-4)


def test_the_smooth_flux_is_an_average_over_the_width_of_a_line() -> None:
    axes, index = ChannelAxes.of((BINS,)), torch.zeros(2, dtype=torch.long)
    smooth = (GRID.mid_kev**-INDEX)[None]
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal((1, GRID.n_energy)))
    flux = torch.from_numpy(np.concatenate([smooth, smooth * noise]))
    even, rough = at_resolution(flux, GRID, axes, index).numpy()
    middle = (GRID.mid_kev > 0.6) & (GRID.mid_kev < 7.0)
    assert even[middle] == pytest.approx(smooth[0, middle], rel=0.02)
    steps = np.abs(np.diff(np.log(rough[middle])))
    assert steps.max() < 0.1 < 0.3, "from bin to bin the flux varied by a third"
    constant = torch.ones(2, GRID.n_energy, dtype=torch.double)
    assert at_resolution(constant, GRID, axes, index).numpy() == pytest.approx(1.0)


def test_null_fluxes_do_not_take_a_row_out_of_the_catalog() -> None:
    spectra, network = power_laws(ROWS)[0], _network()
    columns = encode_batch(network, spectra, refine_steps=2, posterior_draws=16, fluxes=True)
    assert np.isnan(columns["flux_u"]).all()
    blank_unmeasured(columns, errors=True)
    assert np.isfinite(columns["z0"]).all()
    assert np.isfinite(columns["flux_b"]).all()
    without = encode_batch(network, spectra, refine_steps=2, posterior_draws=16)
    assert set(columns) - set(without) == set(FLUX_COLUMNS)
    assert "flux_b" not in encode_batch(network, spectra, refine_steps=2, fluxes=True)


def test_a_batch_without_a_row_has_the_same_columns() -> None:
    spectra, network = power_laws(ROWS)[0], _network()
    columns = encode_batch(network, spectra.take(np.arange(0)), 2, posterior_draws=16, fluxes=True)
    assert set(FLUX_COLUMNS) <= set(columns)
    assert {len(values) for values in columns.values()} == {0}
