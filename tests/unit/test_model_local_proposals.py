"""Posteriors of instruments that see a small part of the grid contain the truth often enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.posteriors.calibration import calibrate, central_coverage
from benchmarks.posteriors.simulated import Simulated, real_spectra, simulate, templates
from raypipe import load_model
from raypipe.model import posterior
from raypipe.model.local_proposals import local_proposals, needs_local_proposals
from raypipe.model.presets import Folded
from raypipe.model.refine import refine
from raypipe.model.row_noise import content_seeds


@pytest.fixture(scope="module")
def network() -> Folded:
    network = load_model().network
    assert isinstance(network, Folded)
    return network


@pytest.fixture(scope="module")
def by_nustar(network: Folded, shared_data: Path) -> Simulated:
    """150 detections or so of sources from the prior, with more than 1,000 counts each."""
    nustar = [each for each in real_spectra([shared_data / "missions"]) if "nustar" in each.name]
    return simulate(network, templates(nustar), 400, seed=6, known_background=True).at_least(1000)


def test_bright_detections_by_nustar_need_them(network: Folded, shared_data: Path) -> None:
    spectra = real_spectra([shared_data / "missions", shared_data / "csc"])
    batch = templates(spectra)
    names = [each.name for each in spectra if each.batch.is_measurable.all()]
    needed = needs_local_proposals(network, batch)
    assert [names[row] for row in torch.nonzero(needed)] == ["nustar-a", "nustar-b"]
    faint = replace(batch, counts=90.0 * batch.counts / batch.counts.sum(-1, keepdim=True))
    assert not needs_local_proposals(network, faint).any()


def test_the_places_follow_the_prior_where_counts_say_nothing(
    network: Folded, by_nustar: Simulated
) -> None:
    batch = by_nustar.batch.take(torch.arange(20))
    refined = refine(network, network.encode(batch), batch, 6)
    proposals = local_proposals(network, refined, batch, content_seeds(batch))
    centers = torch.stack([each.center for each in proposals])
    # Along the direction that the counts determine least, places scatter about as the prior does.
    values, vectors = torch.linalg.eigh(refined.covariance[:, :-1, :-1])
    along = torch.einsum("knl,nl->kn", centers, vectors[:, :, -1])
    assert float(values[:, -1].median()) > 0.8
    assert 0.7 < float(along.std(0).median()) < 1.3


@pytest.mark.slow
def test_the_truth_is_in_the_posterior_as_often_as_it_says(
    network: Folded, by_nustar: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_places = central_coverage(calibrate(network, by_nustar, 64, seed=2).ranks)
    monkeypatch.setattr(posterior, "needs_local_proposals", _for_none)
    without = central_coverage(calibrate(network, by_nustar, 64, seed=2).ranks)
    for level in (0.5, 0.68, 0.9):
        assert level - 0.04 < with_places[level] < level + 0.03
        assert without[level] < with_places[level] - 0.03


def _for_none(_: Folded, batch: object) -> torch.Tensor:
    return torch.zeros(len(batch), dtype=torch.bool)  # type: ignore[arg-type]
