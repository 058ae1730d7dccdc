"""Posteriors with several modes: which are found, and how many draws each of them gets."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from raypipe.config import ModelConfig
from raypipe.model import modes, posterior
from raypipe.model.features import Batch, prepare
from raypipe.model.modes import RIVALS, Mode, Modes, search
from raypipe.model.posterior_density import PosteriorDensity
from raypipe.model.presets import Folded
from raypipe.model.refine import Refined, refine
from raypipe.model.row_noise import content_seeds
from tests.unit.model_spectra import GRID, power_laws
from tests.unit.toy_posterior import ToyPosterior

ROWS = 300
CENTERS, SHARES = torch.tensor([0.0, 9.0, -8.0]), torch.tensor([0.5, 0.3, 0.2])


def three_modes(z: torch.Tensor) -> torch.Tensor:
    """Log density of two latents: three unit normal distributions along the first one."""
    first, second = z.double().unbind(-1)
    parts = -0.5 * (first[..., None] - CENTERS).square() + torch.log(SHARES)
    return torch.logsumexp(parts, -1) - 0.5 * second.square()


def _mode(first: float, width: float = 1.0, rows: int = ROWS) -> Mode:
    z = torch.tensor([[first, 0.0]]).repeat(rows, 1)
    covariance = width**2 * torch.eye(3).double().repeat(rows, 1, 1)
    return Mode(z, torch.zeros(rows, 1), covariance)


@pytest.mark.parametrize(("known", "expected"), [(2, SHARES), (0, torch.tensor([1.0, 0.0, 0.0]))])
def test_modes_get_their_share_of_the_draws_if_they_are_known(
    known: int, expected: torch.Tensor
) -> None:
    best, *others = (_mode(float(center)) for center in CENTERS)
    others = others if known else [best] * RIVALS
    found = Modes(best, tuple(others), torch.full((ROWS,), known))
    density = cast(PosteriorDensity, ToyPosterior(three_modes))
    sampler = posterior._Sampler(density, found, torch.arange(ROWS), 64, None)

    drawn = sampler.draw(torch.ones(ROWS, dtype=torch.bool))

    near = (drawn.z[..., :1] - CENTERS).abs() < 4.5
    shares = (drawn.weights[..., None] * near).sum(1).mean(0)
    assert shares.numpy() == pytest.approx(expected.numpy(), abs=0.02)


def test_modes_are_high_and_apart_and_in_order() -> None:
    places = (0.0, 0.5, 8.0, 20.0, 30.0)
    heights = torch.tensor([[0.0], [-0.1], [-3.0], [-2.0], [-50.0]])
    found = modes._Ends(tuple(_mode(place, rows=1) for place in places), heights).modes
    assert found.best.z[0, 0] == 0.0
    assert [float(each.z[0, 0]) for each in found.others] == [20.0, 8.0]
    assert found.number.tolist() == [2]
    found = modes._Ends(tuple(_mode(place, rows=1) for place in places[:2]), heights[:2]).modes
    assert [float(each.z[0, 0]) for each in found.others] == [0.0, 0.0]
    assert found.number.tolist() == [0]


@pytest.fixture(scope="module")
def folded() -> Folded:
    torch.manual_seed(0)
    return Folded(ModelConfig(width=32, heads=2, depth=1, latents=2, decoder_width=32), GRID).eval()


def _refined(model: Folded, batch: Batch) -> Refined:
    with torch.no_grad():
        return refine(model, model.encode(batch), batch, 6)


def test_faint_rows_keep_their_solution_unless_the_search_is_thorough(folded: Folded) -> None:
    batch = prepare(power_laws(4, seed=4, counts=100.0)[0])
    refined = _refined(folded, batch)
    seeds = content_seeds(batch)
    usual = search(folded, refined, batch, seeds)
    assert torch.equal(usual.best.z, refined.z)
    assert not usual.number.any()
    thorough = search(folded, refined, batch, seeds, thorough=True)
    before, after = (modes._height(folded, batch, each.best) for each in (usual, thorough))
    assert (after >= before - 1e-3).all()
    assert not torch.equal(thorough.best.z, refined.z)


def test_bright_rows_find_the_highest_mode_wherever_they_start(folded: Folded) -> None:
    batch = prepare(power_laws(5, seed=7, counts=20_000.0)[0])
    refined = _refined(folded, batch)
    found = search(folded, refined, batch, content_seeds(batch))
    far = Refined(**{**vars(refined), "z": refined.z + 2.0})
    again = search(folded, far, batch, content_seeds(batch))
    heights = [modes._height(folded, batch, each.best) for each in (found, again)]
    assert torch.allclose(*heights, atol=0.1)
