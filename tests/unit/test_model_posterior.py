"""Draws from the posterior: weights, reproducibility, and agreement with direct integration."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from raypipe.config import EmbedConfig, ModelConfig
from raypipe.embedding.part import recipe_of
from raypipe.model import posterior
from raypipe.model.band_sums import BandIntegrals
from raypipe.model.bundle import Model
from raypipe.model.draw_pool import Pool
from raypipe.model.encode import encode_batch
from raypipe.model.features import prepare
from raypipe.model.fluxes import band_fluxes, fluxes_of
from raypipe.model.folding import fold
from raypipe.model.local_proposals import needs_local_proposals
from raypipe.model.modes import Mode, Modes, search
from raypipe.model.pareto import fit_generalized_pareto, smooth
from raypipe.model.posterior import Draws, draw, sample
from raypipe.model.posterior_density import PosteriorDensity
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined, refine
from raypipe.model.row_noise import content_seeds, normal_noise
from raypipe.model.split_normal import SplitNormal
from raypipe.spectra.band_counts import BANDS_KEV
from tests.unit.model_spectra import GRID, power_laws
from tests.unit.toy_posterior import ToyPosterior

STEPS = 6


@pytest.fixture(scope="module")
def folded() -> Folded:
    torch.manual_seed(0)
    return Folded(ModelConfig(width=32, heads=2, depth=1, latents=2, decoder_width=32), GRID).eval()


def refined_of(model: Folded, batch: object) -> Refined:
    with torch.no_grad():
        return refine(model, model.encode(batch), batch, STEPS)  # type: ignore[arg-type]


def drawn_from(model: Folded, counts: float, draws: int, rows: int = 6) -> Draws:
    batch = prepare(power_laws(rows, seed=4, counts=counts)[0])
    return draw(model, refined_of(model, batch), batch, draws)


@pytest.mark.parametrize(("counts", "least_kev"), [(10.0, 0.0), (300.0, 0.0), (300.0, 3.5)])
def test_mean_and_width_are_those_of_a_fine_grid(
    folded: Folded, counts: float, least_kev: float
) -> None:
    batch = prepare(power_laws(1, seed=4, counts=counts, least_kev=least_kev)[0])
    assert bool(needs_local_proposals(folded, batch).all()) == (least_kev > 0)
    refined = refined_of(folded, batch)
    # Integrate latents and log amplitude numerically, with the Cash statistic of the counts.
    side = torch.linspace(-4.5, 4.5, 31, dtype=torch.float64)
    first, second = torch.meshgrid(side, side, indexing="ij")
    z = torch.stack([first.ravel(), second.ravel()], 1).float()
    with torch.no_grad():
        shape = torch.exp(folded.log_shape(z))
        photons = shape * batch.arf_cm2 * batch.exposure_s * folded.energy_widths_kev
        source = (photons @ batch.responses[int(batch.response_index[0])]).double()
    log_posterior = []
    for step in torch.linspace(-3.0, 2.0, 61, dtype=torch.float64):
        scaled = torch.exp(step + refined.log_amplitude[0].double()) * source
        mu, total = scaled + batch.background[0], scaled.sum(1)
        likelihood = (batch.counts[0] * torch.log(mu) - mu).sum(1)
        log_posterior.append(likelihood + torch.log(total / (total + 1)) - 0.5 * z.square().sum(1))
    weights = torch.softmax(torch.stack(log_posterior).ravel(), 0).reshape(-1, len(z)).sum(0)
    mean = (weights[:, None] * z).sum(0)
    width = (weights[:, None] * (z - mean).square()).sum(0).sqrt()

    drawn = draw(folded, refined, batch, 2048)

    assert torch.allclose(drawn.mean[0].double(), mean, atol=0.04)
    assert torch.allclose(drawn.std[0].double(), width, rtol=0.05)


def test_weights_sum_to_one_and_most_draws_count(folded: Folded) -> None:
    drawn = drawn_from(folded, counts=200.0, draws=64)
    assert drawn.z.shape == (6, 64, 2)
    assert drawn.log_amplitude.shape == (6, 64)
    assert torch.allclose(drawn.weights.sum(1), torch.ones(6))
    assert (drawn.ess > 32).all()
    assert (drawn.ess <= 64.001).all()


def test_amplitudes_scatter_as_the_square_root_of_the_counts(folded: Folded) -> None:
    batch = prepare(power_laws(4, seed=4, counts=400.0)[0])
    drawn = draw(folded, refined_of(folded, batch), batch, 1024)
    density = PosteriorDensity.of(folded, batch, torch.zeros(4, 1))
    with torch.no_grad():
        total = density.source(drawn.z).sum(-1).log() + drawn.log_amplitude
    mean = (drawn.weights * total).sum(1)
    width = (drawn.weights * (total - mean[:, None]).square()).sum(1).sqrt()
    assert torch.allclose(width, batch.counts.sum(1).rsqrt(), rtol=0.15)


@pytest.mark.parametrize("counts", [20.0, 3000.0])
def test_draws_of_a_row_do_not_depend_on_its_batch(folded: Folded, counts: float) -> None:
    """Rounding may exchange a chosen draw of a bright row for the next one, so medians count."""
    spectra = power_laws(40, seed=7, counts=counts)[0]
    together = encode_batch(folded, spectra, STEPS, posterior_draws=32)
    rows = range(0, 40, 3)
    apart = [encode_batch(folded, spectra.take([row]), STEPS, posterior_draws=32) for row in rows]
    for name, unit in (("z0_mean", "z0_sd"), ("z1_sd", "z1_sd"), ("posterior_ess",) * 2):
        alone = np.concatenate([each[name] for each in apart])
        moved = (alone - together[name][rows]) / together[unit][rows]
        assert np.median(np.abs(moved)) < 0.02, name  # Other noise would move means by 0.2.


def test_rows_have_noise_of_their_own() -> None:
    batch = prepare(power_laws(30, seed=1)[0])
    noise = normal_noise(content_seeds(batch), 64, 3, stage=0)
    again = normal_noise(content_seeds(batch.take(torch.tensor([3]))), 64, 3, stage=0)
    assert torch.equal(noise[3], again[0])
    assert not torch.equal(noise[3], normal_noise(content_seeds(batch), 64, 3, stage=1)[3])
    # The mean of 64 quasi-random numbers is far more precise than 1 / 8, and differs by row.
    means = noise.mean(1)
    assert means.std() < 0.06
    assert len(torch.unique(means)) == means.numel()


def test_a_generator_decides_the_draws(folded: Folded) -> None:
    batch = prepare(power_laws(3, seed=4)[0])
    refined = refined_of(folded, batch)
    one, same, other = (
        draw(folded, refined, batch, 32, torch.Generator().manual_seed(seed)).z
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_coarse_density_is_exact_at_its_center_and_close_nearby(folded: Folded) -> None:
    batch = prepare(power_laws(4, seed=4, counts=3000.0)[0])
    refined = refined_of(folded, batch)
    exact = PosteriorDensity.of(folded, batch, refined.log_amplitude)
    coarse = exact.coarse(refined.z)
    noise = torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(0))
    z = torch.cat([refined.z[:, None], refined.z[:, None] + refined.z_std[:, None] * noise], 1)
    log_amplitude = refined.log_amplitude.expand(-1, 51)
    with torch.no_grad():
        apart = coarse.at(z, log_amplitude) - exact.at(z, log_amplitude)
    assert apart[:, 0].abs().max() < 2e-3
    assert apart.abs().max() < 0.2
    assert coarse.shapes.layers[-1][0].shape[0] * 3 == exact.shapes.layers[-1][0].shape[0]


@pytest.mark.parametrize("merged", [3, 30])
def test_chosen_draws_are_weighted_by_the_exact_posterior(
    folded: Folded, merged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the coarse density is too poor, the exact one weights all draws."""
    batch = prepare(power_laws(4, seed=4, counts=3000.0)[0])
    refined = refined_of(folded, batch)
    modes = search(folded, refined, batch, content_seeds(batch))
    density = PosteriorDensity.of(folded, batch, modes.best.log_amplitude)
    with torch.no_grad():
        wide = posterior._first_proposal(density, modes.best).widened(1.6)
        pool = Pool.of(density, wide, normal_noise(content_seeds(batch), 20_000, 3, stage=9))
    weights = torch.softmax(pool.log_weights, -1)[..., None]
    mean = (weights * pool.z).sum(1)
    width = (weights * (pool.z - mean[:, None]).square()).sum(1).sqrt()
    monkeypatch.setattr("raypipe.model.posterior_density._MOST_MERGED", merged)

    drawn = draw(folded, refined, batch, 1024)

    error = width / drawn.ess[:, None].sqrt()
    assert (drawn.ess > 100.0).all()
    assert ((drawn.mean - mean).abs() < 4.0 * error).all()
    assert torch.allclose(drawn.std.double(), width, rtol=0.25)


@pytest.mark.parametrize("counts", [100.0, 3000.0])
def test_draws_bring_the_fluxes_that_decoding_them_again_gives(
    folded: Folded, counts: float
) -> None:
    batch = prepare(power_laws(5, seed=4, counts=counts)[0])
    integrals = BandIntegrals(GRID, BANDS_KEV, folded.energy_widths_kev)
    drawn = draw(folded, refined_of(folded, batch), batch, 32, integrals=integrals)
    assert drawn.sums is not None
    kept = fluxes_of(folded, batch, drawn, integrals, drawn.sums)
    again = band_fluxes(folded, batch, drawn)
    for name in ("photons", "energy", "test_statistic"):
        assert torch.allclose(getattr(kept, name), getattr(again, name), rtol=1e-3, atol=0.0), name


def test_energies_that_no_response_sees_are_left_out(folded: Folded) -> None:
    batch = prepare(power_laws(2, seed=4)[0])
    density = PosteriorDensity.of(folded, batch, torch.zeros(2, 1))
    # The responses of these spectra end at 7.9 keV.
    last = int(np.searchsorted(GRID.edges_kev, 7.9))
    assert last <= density.to_photons.shape[-1] < last + 3
    wanted = PosteriorDensity.of(folded, batch, torch.zeros(2, 1), energies=800)
    assert wanted.to_photons.shape[-1] == 801
    z = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shape = torch.exp(folded.log_shape(z[0]))
        whole = fold(shape, batch.take(torch.zeros(3, dtype=torch.long)), folded.energy_widths_kev)
        assert torch.allclose(density.source(z)[0], whole, rtol=1e-4)


def test_a_poor_start_is_mended_by_further_proposals(folded: Folded) -> None:
    batch = prepare(power_laws(6, seed=4, counts=300.0)[0])
    refined = refined_of(folded, batch)
    far = replace(refined, z=refined.z + 3.0 * refined.z_std, covariance=0.1 * refined.covariance)
    right, mended = (draw(folded, start, batch, 256) for start in (refined, far))
    assert ((mended.mean - right.mean).abs() < 0.5 * right.std).all()


def test_equal_draws_have_the_weighted_mean(folded: Folded) -> None:
    batch = prepare(power_laws(4, seed=4, counts=100.0)[0])
    refined = refined_of(folded, batch)
    weighted = draw(folded, refined, batch, 2000)
    equal = sample(folded, refined, batch, 500, None)
    assert torch.equal(equal.weights, torch.full((4, 500), 1 / 500))
    assert torch.allclose(equal.z.mean(1), weighted.mean, atol=0.12)


def test_a_row_without_a_posterior_is_nan_and_alone(folded: Folded) -> None:
    batch = prepare(power_laws(3, seed=4)[0])
    refined = refined_of(folded, batch)
    covariance = refined.covariance.clone()
    covariance[1] = torch.nan
    drawn = draw(folded, replace(refined, covariance=covariance), batch, 32)
    assert torch.isnan(drawn.ess).tolist() == [False, True, False]
    assert torch.isnan(drawn.mean[1]).all()
    assert torch.isfinite(drawn.mean[[0, 2]]).all()


def test_without_errors_there_are_no_columns_of_draws(folded: Folded) -> None:
    columns = encode_batch(
        folded, power_laws(2)[0], STEPS, errors=False, posterior_draws=32, fluxes=True
    )
    assert not {"z0_mean", "z0_sd", "posterior_ess", "flux_b"} & set(columns)
    assert np.isfinite(columns["z0"]).all()


def test_columns_of_draws_are_there_only_if_wanted(folded: Folded) -> None:
    assert "posterior_ess" not in encode_batch(folded, power_laws(2)[0], STEPS)


def test_rows_with_other_draws_are_not_reused() -> None:
    model = cast(Model, SimpleNamespace(fingerprint="one"))
    recipes = {recipe_of(model, EmbedConfig(posterior_draws=draws)) for draws in (0, 32, 64)}
    assert len(recipes) == 3


@pytest.mark.parametrize("shape", [-0.2, 0.3, 0.9])
def test_the_tail_of_a_pareto_distribution_is_found(shape: float) -> None:
    values = np.sort(genpareto.rvs(shape, scale=2.0, size=(8, 4000), random_state=5), axis=1)
    found, scale = fit_generalized_pareto(torch.from_numpy(values))
    assert np.allclose(found, shape, atol=0.1)
    assert np.allclose(scale, 2.0, rtol=0.1)


def test_smoothing_tames_the_largest_weight_and_keeps_the_order() -> None:
    log_weights = torch.randn(
        1, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    log_weights[0, 7] = 8.0
    raw, (smoothed, shape) = torch.softmax(log_weights, -1), smooth(log_weights)
    assert smoothed[0, 7] < 0.7 * raw[0, 7]
    assert smoothed.argmax() == 7
    assert smoothed.sum() == pytest.approx(1.0)
    assert shape[0] > 0.5


def test_equal_weights_stay_equal() -> None:
    weights, _ = smooth(torch.zeros(2, 64, dtype=torch.float64))
    assert torch.allclose(weights, torch.full_like(weights, 1 / 64))


def test_a_split_normal_has_the_density_of_its_draws() -> None:
    proposal = replace(
        SplitNormal.of(
            torch.zeros(1, 1, dtype=torch.float64), 4.0 * torch.ones(1, 1, 1).double(), 1.0
        ),
        upper=torch.tensor([[2.0]]).double(),
        lower=torch.tensor([[0.5]]).double(),
    )
    level = (torch.arange(20_000).double() + 0.5) / 20_000
    z = proposal.draw(torch.special.ndtri(level)[None, :, None])
    # Self-normalized importance weights of the target N(0, 1) give its moments.
    weights = torch.softmax(-0.5 * z[..., 0].square() - proposal.log_density(z), -1)
    mean = (weights * z[..., 0]).sum()
    assert float(mean) == pytest.approx(0.0, abs=0.01)
    assert float((weights * z[..., 0].square()).sum()) == pytest.approx(1.0, rel=0.02)


def curved(z: torch.Tensor) -> torch.Tensor:
    """Log density along a parabola: z0 is unit normal, z1 follows its square."""
    along, across = z.double().unbind(-1)
    return -0.5 * along.square() - 0.5 * ((across - BEND * along.square()) / 0.2).square()


BEND = 0.12


def test_a_curved_posterior_of_many_counts_is_covered() -> None:
    """With the first proposal alone, intervals of 90% hold the truth in 85% of the rows."""
    rows = 3000
    rng = torch.Generator().manual_seed(3)
    along = torch.randn(rows, generator=rng)
    truth = BEND * along.square() + 0.2 * torch.randn(rows, generator=rng)
    top = Mode(
        torch.zeros(rows, 2), torch.zeros(rows, 1), torch.eye(3).double().expand(rows, 3, 3).clone()
    )
    top.covariance[:, 1, 1] = 0.04
    modes = Modes(top, (top, top), torch.zeros(rows, dtype=torch.long))
    density = cast(PosteriorDensity, ToyPosterior(curved))
    sampler = posterior._Sampler(density, modes, torch.arange(rows), 64, None)

    drawn = sampler.draw(is_hard=torch.ones(rows, dtype=torch.bool))

    below = (drawn.weights * (drawn.z[..., 1] < truth[:, None])).sum(1)
    rank = (drawn.ess * below + torch.rand(rows, generator=rng)) / (drawn.ess + 1.0)
    for level in (0.5, 0.68, 0.9, 0.95):
        covered = float(((rank - 0.5).abs() < level / 2).float().mean())
        assert covered == pytest.approx(level, abs=0.02), level
