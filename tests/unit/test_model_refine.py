"""Refinement: derivatives written out, the same maximum as before, and harmless bad rows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from raypipe.config import ModelConfig
from raypipe.model import refine as refinement
from raypipe.model.banded_responses import BandedResponses
from raypipe.model.features import Batch, prepare
from raypipe.model.folding import best_amplitude, cash_per_bin, fold, redistribute
from raypipe.model.presets import Folded, build
from raypipe.model.refine import refine
from tests.unit.model_spectra import GRID, power_laws

SMALL = ModelConfig(width=16, depth=1, heads=2, decoder_width=32)


@pytest.fixture(scope="module")
def model() -> Folded:
    torch.manual_seed(2)
    network = build(SMALL, GRID).eval()
    assert isinstance(network, Folded)
    with torch.no_grad():
        for weights in network.autoencoder.decoder.layers.parameters():
            weights *= 1.5
    return network


@pytest.fixture(scope="module")
def batch() -> Batch:
    return prepare(power_laws(48, seed=4)[0])


def encoded(model: Folded, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.encode(batch)


def height(model: Folded, z: Tensor, log_amplitude: Tensor, batch: Batch) -> Tensor:
    """Return minus the log posterior, (n,)."""
    flux = torch.exp(model.log_shape(z) + log_amplitude)
    mu = fold(flux, batch, model.energy_widths_kev) + batch.background
    return 0.5 * cash_per_bin(batch.counts, mu).double().sum(-1) + 0.5 * z.square().sum(-1)


@torch.no_grad()
def fisher_scoring(model: Folded, z: Tensor, batch: Batch, steps: int) -> Tensor:
    """Return the heights that damped Fisher scoring with a fresh Jacobian per step reaches, (n,).

    This is the method of the first releases, with derivatives by autograd.
    """
    folded = fold(torch.exp(model.log_shape(z)), batch, model.energy_widths_kev)
    log_a = torch.log(best_amplitude(batch.counts, folded, batch.background))
    at, damping = torch.cat([z, log_a], 1), torch.full_like(log_a, 1e-2)
    best = height(model, z, log_a, batch)
    prior = torch.diag(torch.tensor([*[1.0] * z.shape[1], 1e-3]))
    to_photons = batch.arf_cm2 * batch.exposure_s[:, None] * model.energy_widths_kev
    for _ in range(steps):
        slopes = vmap(jacfwd(lambda one: model.log_shape(one[None])[0]))(at[:, :-1])
        slopes = torch.cat([slopes.transpose(1, 2), torch.ones(len(z), 1, slopes.shape[1])], 1)
        photons = torch.exp(model.log_shape(at[:, :-1]) + at[:, -1:]) * to_photons
        jacobian = redistribute(photons[:, None] * slopes, batch.response_index, batch.responses)
        mu = jacobian[:, -1] + batch.background
        gradient = (jacobian @ (batch.counts / mu - 1.0)[..., None])[..., 0]
        gradient[:, :-1] -= at[:, :-1]
        matrix = (jacobian / mu[:, None]) @ jacobian.transpose(1, 2) + prior
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
        step = torch.linalg.solve(matrix + torch.diag_embed(damping * diagonal), gradient)
        new = at + step / step.abs().amax(-1, keepdim=True).clamp_min(1.0)
        reached = height(model, new[:, :-1], new[:, -1:], batch)
        better = reached < best
        at, best = torch.where(better[:, None], new, at), torch.minimum(best, reached)
        damping = damping * torch.where(better[:, None], 1 / 6.0, 6.0)
    return best


def test_the_decoders_derivatives_are_those_of_autograd(model: Folded) -> None:
    decoder, z = model.autoencoder.decoder, torch.randn(7, SMALL.latents)
    linear = decoder.linearize(z)
    expected = vmap(jacfwd(lambda one: decoder(one[None])[0]))(z).transpose(1, 2)
    torch.testing.assert_close(linear.outputs, decoder(z), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear.slopes(), expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(linear.outputs)
    pulled = torch.einsum("nk,njk->nj", gradient, expected)
    torch.testing.assert_close(linear.pull_back(gradient), pulled, rtol=1e-3, atol=1e-4)
    merged = expected.unflatten(-1, (-1, 5)).mean(-1)
    torch.testing.assert_close(linear.slopes(merged=5), merged, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("limit", [30.0, 0.5])
def test_a_flux_shape_has_no_slope_beyond_its_limits(
    model: Folded, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setattr("raypipe.model.presets.LOG_FLUX_LIMIT", limit)
    z = torch.randn(5, SMALL.latents)
    shape = model.linearize(z)
    expected = vmap(jacfwd(lambda one: model.log_shape(one[None])[0]))(z).transpose(1, 2)
    assert bool((expected == 0).any()) == (limit < 30.0)
    torch.testing.assert_close(shape.log_shape, model.log_shape(z), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shape.slopes(), expected, rtol=1e-3, atol=1e-5)
    gradient = torch.randn_like(shape.log_shape)
    pulled = torch.einsum("nk,njk->nj", gradient, expected)
    torch.testing.assert_close(shape.pull_back(gradient), pulled, rtol=1e-3, atol=1e-4)


def test_a_fold_without_zeros_is_the_fold(batch: Batch) -> None:
    order = batch.response_index.argsort(stable=True)
    index, photons = batch.response_index[order], torch.rand(len(batch), 3, GRID.n_energy)
    banded = BandedResponses(index, batch.responses)
    expected = redistribute(photons, index, batch.responses)
    torch.testing.assert_close(banded.fold(photons), expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn(len(batch), batch.responses.shape[2])
    pulled = torch.einsum("nc,nkc->nk", gradient, batch.responses[index])
    torch.testing.assert_close(banded.pull_back(gradient), pulled, rtol=1e-4, atol=1e-4)
    rows = torch.arange(len(batch)) % 3 == 0
    torch.testing.assert_close(banded.keep(rows).fold(photons[rows]), expected[rows])


def test_the_gradient_is_that_of_the_posterior(model: Folded, batch: Batch) -> None:
    order = batch.response_index.argsort(stable=True)
    ordered = batch.take(order)
    at = torch.cat([encoded(model, ordered), torch.full((len(batch), 1), -8.0)], 1)
    with torch.enable_grad():
        at.requires_grad_()
        total = height(model, at[:, :-1], at[:, -1:], ordered).sum()
        expected = -torch.autograd.grad(total, at)[0]
    with torch.no_grad():
        spectra = refinement._Spectra.of(model, ordered, torch.zeros_like(at[:, :-1]))
        found = refinement._Fold(spectra, at.detach()).gradient()
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-2)


def test_refinement_reaches_at_least_the_former_maximum(model: Folded, batch: Batch) -> None:
    z = encoded(model, batch)
    former = fisher_scoring(model, z, batch, steps=6)
    refined = refine(model, z, batch, 6)
    reached = height(model, refined.z, refined.log_amplitude, batch)
    assert (reached - former).quantile(0.95) < 1e-3
    assert (reached - former).mean() < 1e-3
    start = refine(model, z, batch, 0)
    assert (reached < height(model, start.z, start.log_amplitude, batch) - 0.01).any()


def test_rows_come_back_in_their_order_whatever_the_batch(model: Folded, batch: Batch) -> None:
    z = encoded(model, batch)
    together = refine(model, z, batch, 6)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    other = refine(model, z[order], batch.take(order), 6)
    torch.testing.assert_close(other.z, together.z[order], rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(other.z_std, together.z_std[order], rtol=1e-3, atol=1e-3)


def test_a_row_that_is_not_finite_leaves_the_others_as_they_are(
    model: Folded, batch: Batch
) -> None:
    z = encoded(model, batch)
    spoiled = replace(batch, counts=batch.counts.clone())
    spoiled.counts[3] = torch.nan
    whole, found = refine(model, z, batch, 6), refine(model, z, spoiled, 6)
    others = torch.arange(len(batch)) != 3
    torch.testing.assert_close(found.z[others], whole.z[others], rtol=1e-3, atol=2e-3)


def test_a_curvature_is_updated_only_by_steps_that_see_one() -> None:
    curvature = torch.eye(2).expand(4, 2, 2).clone()
    step = torch.tensor([1.0, 0.0]).expand(4, 2)
    changes = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.01, 0.0], [torch.nan, 0.0]])
    found = refinement._updated(curvature, step, changes)
    assert found[0].tolist() == [[3.0, 0.0], [0.0, 1.0]]
    for row, (i, j) in itertools.product((1, 2, 3), itertools.product(range(2), repeat=2)):
        assert found[row, i, j] == float(i == j)
