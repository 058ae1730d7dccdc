"""The encoder's input: counts carried back to photon energies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raypipe.config import ModelConfig
from raypipe.model.features import Batch, prepare
from raypipe.model.folding import fold
from raypipe.model.photon_energies import (
    CONDITIONS,
    INPUT_BINS,
    MARKS,
    VALUES,
    PhotonEnergies,
    input_edges_kev,
    patch_places,
)
from raypipe.model.presets import Folded, build
from tests.unit.model_spectra import GRID, power_laws

INPUT = PhotonEnergies(GRID)
MIDDLE_KEV = 0.5 * (input_edges_kev()[1:] + input_edges_kev()[:-1])


def _batch(n: int = 8, counts: float = 500.0) -> Batch:
    return prepare(power_laws(n, counts=counts)[0])


def _without_background(batch: Batch) -> Batch:
    nothing = torch.zeros_like(batch.background)
    return replace(batch, background=nothing, background_variance=nothing)


def test_edges_ascend_over_the_whole_grid() -> None:
    edges = input_edges_kev()
    assert len(edges) == INPUT_BINS + 1
    assert (np.diff(edges) > 0).all()
    assert (edges[0], edges[-1]) == (GRID.edges_kev[0], GRID.edges_kev[-1])
    assert (INPUT.pool.sum(0) > 0).all()  # no bin is without an energy of the grid


def test_inputs_are_of_order_one_whatever_the_counts() -> None:
    for counts in 20.0, 50_000.0:
        found = INPUT(_batch(counts=counts))
        assert found.values.shape == (8, VALUES, INPUT_BINS)
        assert found.marks.shape == (8, MARKS, INPUT_BINS)
        assert found.conditions.shape == (8, CONDITIONS)
        # Of counts that the background explains, no photon comes back.
        assert 0.5 < found.values[:, 0].square().mean().sqrt() < 1.1
        assert found.conditions.abs().max() < 5


def test_no_photon_is_lost_on_the_way_back() -> None:
    batch = _without_background(_batch())
    share = INPUT(batch).values[:, 0].square().sum(-1) / INPUT_BINS
    assert torch.allclose(share, torch.ones(len(batch)), rtol=1e-3)


def test_counts_of_the_reference_flux_have_no_excess_over_it() -> None:
    batch = _without_background(_batch())
    shape = INPUT.reference.expand(len(batch), -1)
    folded = fold(shape, batch, INPUT.widths_kev)
    found = INPUT(replace(batch, counts=1e4 * folded / folded.sum(-1, keepdim=True)))
    assert found.values[:, 1].abs().max() < 1e-3
    assert torch.allclose(found.values[:, 0], found.marks[:, 0], atol=1e-3)


def test_a_line_lands_at_its_energy() -> None:
    batch = _without_background(_batch(2))
    line = torch.zeros(1, GRID.n_energy)
    line[:, np.searchsorted(GRID.edges_kev, 4.0)] = 1.0
    folded = fold(line.expand(2, -1), batch, INPUT.widths_kev)
    found = INPUT(replace(batch, counts=1e3 * folded / folded.sum(-1, keepdim=True)))
    photons = found.values[:, 0].square().numpy()
    mean_kev = (photons * MIDDLE_KEV).sum(-1) / photons.sum(-1)
    assert mean_kev == pytest.approx(4.0, abs=0.02)


def test_energies_that_no_channel_sees_are_not_seen() -> None:
    found = INPUT(_batch())
    seen_kev = MIDDLE_KEV[found.seen[0].numpy()]
    assert seen_kev.min() == pytest.approx(0.5, abs=0.03)  # where the response begins
    assert seen_kev.max() == pytest.approx(7.9, abs=0.05)
    assert torch.equal(found.marks[:, 3], found.seen.float())


def test_an_empty_spectrum_has_finite_inputs() -> None:
    batch = _batch(3)
    for counts in torch.zeros_like(batch.counts), batch.background:
        for part in INPUT(replace(batch, counts=counts)):
            assert torch.isfinite(part.float()).all()


def test_what_is_not_seen_does_not_matter_and_everything_else_does() -> None:
    torch.manual_seed(0)
    network = build(ModelConfig(width=16, depth=1, heads=2, decoder_width=32), GRID)
    assert isinstance(network, Folded)
    found = INPUT(_batch())
    patches = found.seen.reshape(8, -1, 8).any(-1, keepdim=True).expand(-1, -1, 8).flatten(1)
    disturbed = found.values + 10.0 * ~patches[:, None]
    encoder = network.autoencoder.encoder
    assert torch.allclose(encoder(*found), encoder(*found._replace(values=disturbed)), atol=1e-5)
    batch = _batch()
    loss, _ = network(batch, batch)
    loss.sum().backward()
    silent = [name for name, weight in network.named_parameters() if not weight.grad.any()]
    assert silent == []


def test_places_are_told_apart() -> None:
    places = patch_places(8)
    assert places.shape == (INPUT_BINS // 8, 17)
    assert torch.cdist(places, places).add(torch.eye(len(places)) * 9).min() > 0.1
