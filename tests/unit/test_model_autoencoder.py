from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raypipe.config import ModelConfig
from raypipe.model.count_splitting import thin, unseen
from raypipe.model.encode import encode_batch, reconstruct_batch
from raypipe.model.features import prepare
from raypipe.model.folding import cash_per_bin
from raypipe.model.presets import Folded, Paper, build
from raypipe.model.refine import refine
from raypipe.model.statistics import cash
from tests.unit.model_spectra import GRID, power_laws

SMALL = ModelConfig(width=16, depth=1, heads=2, decoder_width=32)


def _trained(preset: str, steps: int = 150) -> Folded | Paper:
    torch.manual_seed(0)
    network = build(SMALL.model_copy(update={"preset": preset}), GRID)
    batch = prepare(power_laws(128)[0])
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(steps):
        loss, _ = network(batch, batch)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        network.autoencoder.whiten(network.encode(batch))
    return network.eval()


@pytest.fixture(scope="module")
def folded() -> Folded:
    network = _trained("folded", steps=400)
    assert isinstance(network, Folded)
    return network


def test_a_trained_fold_reaches_what_the_photons_allow(folded: Folded) -> None:
    spectra, expected = power_laws(200, seed=5)
    columns = encode_batch(folded, spectra, refine_steps=6)
    truth = cash(spectra.counts, expected).sum(-1)
    assert columns["cash"].mean() < truth.mean() * 1.03
    assert abs(columns["fit_zscore"].mean()) < 0.4
    assert columns["fit_zscore"].std() == pytest.approx(1.0, abs=0.25)


def test_whitening_changes_the_coordinates_and_nothing_else() -> None:
    torch.manual_seed(1)
    network = build(SMALL, GRID).eval()
    batch = prepare(power_laws(64)[0])
    with torch.no_grad():
        before = network.expected_counts(network.encode(batch), batch)
        for _ in range(2):
            network.autoencoder.whiten(network.encode(batch))
        z = network.encode(batch)
        after = network.expected_counts(z, batch)
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-4)
    assert z.mean(0).numpy() == pytest.approx(np.zeros(8), abs=1e-3)
    assert torch.cov(z.T).numpy() == pytest.approx(np.eye(8), abs=0.02)


def test_refinement_never_lowers_the_posterior(folded: Folded) -> None:
    batch = prepare(power_laws(100, seed=2)[0])
    with torch.no_grad():
        start = folded.encode(batch)

        def objective(z: torch.Tensor) -> torch.Tensor:
            fit = cash_per_bin(batch.counts, folded.expected_counts(z, batch)).sum(-1)
            return fit + z.square().sum(-1)

        polished = refine(folded, start, batch, steps=8).z
        assert (objective(polished) <= objective(start) + 0.02).all()
        assert objective(polished).mean() < objective(start).mean() - 0.5


def test_errors_shrink_with_counts_and_never_exceed_the_prior(folded: Folded) -> None:
    errors = []
    for counts in 100.0, 5000.0:
        batch = prepare(power_laws(40, counts=counts)[0])
        refined = refine(folded, folded.encode(batch).detach(), batch, steps=4)
        assert (refined.z_std <= 1.001).all()
        assert (refined.freedom > 0.9).all()
        assert (refined.freedom < 9.01).all()
        errors.append(refined.z_std[:, 0].median())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("counts", [500.0, 5000.0])
def test_errors_are_the_scatter_of_repeated_observations(folded: Folded, counts: float) -> None:
    """Of eight sources, 60 times each, with new background each time."""
    sources, repeats = 8, 60
    spectra, expected = power_laws(sources, counts=counts)
    repeated = spectra.take(np.repeat(np.arange(sources), repeats))
    rng = np.random.default_rng(3)
    repeated.counts[:] = rng.poisson(np.repeat(expected, repeats, axis=0))
    repeated.background_counts[:] = rng.poisson(2.0, repeated.counts.shape)
    columns = encode_batch(folded, repeated, refine_steps=8)
    shape = sources, repeats, 8
    z, z_err = (
        np.stack([columns[name.format(i)] for i in range(8)], 1).reshape(shape)
        for name in ("z{}", "z{}_err")
    )
    pulls = (z - z.mean(1, keepdims=True)) / z_err
    assert pulls.std(axis=(0, 1)) == pytest.approx(np.ones(8), abs=0.25)


@pytest.mark.parametrize("counts", [30.0, 100.0, 1000.0])
def test_the_goodness_of_fit_is_standard_normal_for_faint_spectra_too(
    folded: Folded, counts: float
) -> None:
    spectra, _ = power_laws(1500, seed=8, counts=counts)
    spectra.background_scale[:] = 1e-6
    drawn = spectra.take(np.arange(1500))
    z = np.random.default_rng(1).normal(0.0, 0.5, (1500, 8)).astype(np.float32)
    model = reconstruct_batch(folded, spectra, z).total
    drawn.counts[:] = np.random.default_rng(2).poisson(model)
    zscore = encode_batch(folded, drawn, refine_steps=8)["fit_zscore"]
    assert zscore.std() == pytest.approx(1.0, abs=0.1)
    assert zscore.mean() == pytest.approx(0.0, abs=0.15)


def test_no_counts_no_background_still_encodes(folded: Folded) -> None:
    spectra, _ = power_laws(3)
    empty = spectra.take([0, 1, 2])
    empty.counts[0] = 0
    empty.background_scale[1] = 0
    columns = encode_batch(folded, empty, refine_steps=3)
    for name, values in columns.items():
        assert np.isfinite(values).all(), name
    reconstruction = reconstruct_batch(folded, empty, np.zeros((3, 8), np.float32))
    assert (reconstruction.background[1] == 0).all()
    assert (reconstruction.total >= reconstruction.background).all()


def test_paper_reconstructs_without_errors_or_flux() -> None:
    network = _trained("paper", steps=40)
    spectra, _ = power_laws(10)
    columns = encode_batch(network, spectra, refine_steps=6)
    assert np.isnan(columns["z0_err"]).all()
    assert np.isfinite(columns["cash"]).all()
    z = np.stack([columns[f"z{i}"] for i in range(8)], 1)
    assert reconstruct_batch(network, spectra, z).flux is None


def test_thinning_is_a_shorter_exposure() -> None:
    torch.manual_seed(0)
    batch = prepare(power_laws(200, counts=2000.0)[0])
    shown = thin(batch, 0.3)
    share = shown.exposure_s / batch.exposure_s
    assert share.min() >= 0.3
    assert (shown.counts <= batch.counts).all()
    assert (shown.counts.sum() / (share[:, None] * batch.counts).sum()).item() == pytest.approx(
        1.0, abs=0.01
    )
    assert thin(batch, 1.0) is batch


def test_what_was_not_shown_is_the_rest() -> None:
    torch.manual_seed(0)
    batch = prepare(power_laws(50)[0])
    shown = thin(batch, 0.3)
    rest = unseen(batch, shown)
    assert torch.equal(shown.counts + rest.counts, batch.counts)
    for name in "exposure_s", "background", "background_scale":
        whole = getattr(shown, name) + getattr(rest, name)
        assert torch.allclose(whole, getattr(batch, name), rtol=1e-5)
    assert unseen(batch, batch) is batch


def test_the_fold_is_not_judged_on_what_it_was_shown() -> None:
    """Counts that move from the unseen part to the shown one, latents held, change the loss."""
    torch.manual_seed(0)
    network = build(SMALL, GRID).eval()
    batch = prepare(power_laws(20)[0])
    shown = thin(batch, 0.5)
    z = torch.zeros(20, SMALL.latents)
    swapped = replace(
        batch,
        counts=shown.counts.flip(-1) + batch.counts - shown.counts,
        exposure_s=batch.exposure_s,
    )
    moved = replace(shown, counts=shown.counts.flip(-1))
    with torch.no_grad():
        assert torch.allclose(network.loss(z, batch, shown), network.loss(z, swapped, moved))
        assert not torch.allclose(network.loss(z, batch, batch), network.loss(z, swapped, swapped))
