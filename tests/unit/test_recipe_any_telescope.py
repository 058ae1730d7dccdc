"""The model in the box learns from detections like those that `simulate` writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import recipes.any_telescope.train as training
from benchmarks.latents.responses import gridded
from benchmarks.telescopes.network import load_network
from raypipe.config import ModelConfig
from raypipe.model.folding import fold
from raypipe.model.presets import Folded
from raypipe.simulation.acis import acis_instruments
from raypipe.simulation.survey import draw_batch
from raypipe.simulation.survey_plan import plan_survey
from recipes.any_telescope.flux_errors import measure_flux_errors
from recipes.any_telescope.fresh import Choices, FreshStream, weights_of
from recipes.any_telescope.made_up import with_made_up
from recipes.any_telescope.prepare import sky_of
from recipes.any_telescope.sky import Sky, in_band
from tests.unit.model_spectra import GRID

SOURCES = 24
COUNTS = 2e6


@pytest.fixture(scope="module")
def plan():
    return plan_survey(SOURCES, 3, counts_min=1e5, counts_max=2e5)


@pytest.fixture(scope="module")
def sky(plan) -> Sky:
    instruments = acis_instruments()[:3]
    return sky_of([plan.targets.sources], instruments, np.random.default_rng(1))


def stream_of(sky: Sky, size: int = 64) -> FreshStream:
    return FreshStream(
        sky, np.arange(len(sky.log_flux)), weights_of(sky), size, seed=5, device=torch.device("cpu")
    )


def test_a_source_is_folded_as_simulate_folds_it(plan, sky: Sky) -> None:
    instrument = acis_instruments()[0]
    own = dataclasses.replace(
        plan,
        instruments=acis_instruments(),
        instrument=np.zeros(len(plan), np.intp),
        background_share=np.full(len(plan), 1e-6),
        off_axis_arcmin=np.zeros(len(plan)),
        psf_fraction=np.ones(len(plan)),
    )
    survey = draw_batch(own, 0)
    source = survey.model_counts - survey.background_model_counts
    bins = gridded(instrument).bins
    expected = bins.bin_counts(source)[:, : len(bins)]
    on_axis = dataclasses.replace(sky, areas=sky.areas.copy())
    shares = gridded_area(instrument)
    on_axis.areas[0, :] = shares
    stream = stream_of(on_axis)
    row = own.targets.source
    n = len(row)
    chosen = Choices(
        row, np.zeros(n, np.intp), np.zeros(n, np.intp), np.full(n, COUNTS, np.float32)
    )
    batch = stream._observe(chosen, torch.Generator().manual_seed(0))
    net = (batch.counts - batch.background)[:, : len(bins)].numpy()
    shape, wanted = (each / each.sum(axis=1, keepdims=True) for each in (net, expected))
    # Two million counts in some 250 bins: the shapes agree to a few Poisson errors.
    assert np.abs(shape - wanted).sum(axis=1).max() < 0.03


def gridded_area(instrument):
    from benchmarks.latents.responses import area_on_grid

    return area_on_grid(instrument)


def test_counts_lie_in_the_range_that_is_asked_for(sky: Sky) -> None:
    stream = stream_of(sky, 256)
    (_, batch), *_ = stream.sweep()
    total = (batch.counts - batch.background).sum(-1)
    assert float(total.min()) > -60
    assert 20 < float(total.median()) < 1e5
    assert torch.isfinite(batch.counts).all()


def test_an_epoch_draws_new_photons_and_validation_always_the_same(sky: Sky) -> None:
    stream = stream_of(sky)
    first, second = (next(iter(stream.steps(1, 64, seed)))[1].counts for seed in (0, 1))
    again = next(iter(stream.steps(1, 64, 0)))[1].counts
    assert not torch.equal(first, second)
    assert torch.equal(first, again)
    one, other = (next(iter(stream.sweep()))[1].counts for _ in range(2))
    assert torch.equal(one, other)


def test_made_up_responses_are_sound(sky: Sky) -> None:
    more = with_made_up(sky, 12, seed=2)
    assert len(more.names) == len(sky.names) + 12
    for place in range(len(sky.names), len(more.names)):
        bins, response = more.bins[place], more.responses[place]
        assert np.all(np.diff(bins.lo_kev) > 0)
        assert np.all(bins.hi_kev > bins.lo_kev)
        assert response.min() >= 0
        assert response.sum(axis=1).max() <= 1.01
        assert not response[:, len(bins) :].any()
        inside = in_band(bins)
        assert more.backgrounds[place][:, inside].sum(axis=1) == pytest.approx(1.0, abs=1e-4)
    assert more.seen.shape == (len(sky.log_flux), len(more.names))
    assert more.seen.min() >= 0


def test_a_telescope_left_out_takes_its_made_up_responses_along(sky: Sky) -> None:
    named = dataclasses.replace(sky, missions=("ONE", "ONE", "OTHER"))
    more = with_made_up(named, 12, seed=2)
    weights = weights_of(more, without="OTHER")
    left_out = [name.startswith(sky.names[2]) for name in more.names]
    assert not weights[left_out].any()
    assert weights.sum() == pytest.approx(1.0)
    alone = weights_of(more, only="ONE")
    assert np.flatnonzero(alone).tolist() == [0, 1]


def test_a_sky_is_saved_and_a_network_trained_on_it_loads(
    sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky.save(tmp_path / "sky.npz")
    assert Sky.load(tmp_path / "sky.npz").names == sky.names
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 2)
    monkeypatch.setattr(training, "VALIDATION", 16)
    monkeypatch.setattr(training, "WHITENED_OVER", 32)
    out = tmp_path / "networks" / "all.safetensors"
    options = ["--steps", "4", "--made-up", "2", "--set", "train.batch_size=8"]
    monkeypatch.setattr("sys.argv", ["train", str(tmp_path / "sky.npz"), str(out), *options])
    training.main()
    network = load_network(out)
    (_, batch), *_ = stream_of(sky).sweep()
    with torch.no_grad():
        assert torch.isfinite(network.encode(batch)).all()
    further = tmp_path / "networks" / "further.safetensors"
    resumed = ["train", str(tmp_path / "sky.npz"), str(further), *options, "--start", str(out)]
    monkeypatch.setattr("sys.argv", resumed)
    training.main()


def test_fluxes_of_sources_that_the_network_describes_exactly_have_no_errors(sky: Sky) -> None:
    """Errors are those beyond the posterior: there are some for sources of other shapes."""
    torch.manual_seed(0)
    network = Folded(ModelConfig(width=32, heads=2, depth=1, latents=2, decoder_width=32), GRID)
    network.eval()
    with torch.no_grad():
        shape = network.log_shape(torch.randn(len(sky.log_flux), 2)).numpy()
    own = dataclasses.replace(
        sky, log_flux=(shape - shape.max(axis=1, keepdims=True)).astype(np.float16)
    )
    exact, others = (measure_flux_errors(network, stream_of(each), 6) for each in (own, sky))
    bands = {"s": (0.5, 1.2), "h": (2.0, 7.0)}
    for errors in exact, others:
        assert errors.number[0].max() > 40
    assert exact.of_energy(bands).max() < 0.002
    assert exact.of_photons(bands).max() < 0.002
    assert others.of_energy(bands).min() > 0.02


def test_detections_without_noise_have_the_counts_that_their_flux_gives(sky: Sky) -> None:
    (found,) = stream_of(sky).without_noise(COUNTS)
    batch = found.batch
    folded = fold(found.density, batch, torch.from_numpy(GRID.widths_kev).float())
    net = batch.counts - batch.background
    assert torch.allclose(net.sum(1), folded.sum(1), rtol=0.01)
    in_bins = torch.from_numpy(np.stack([in_band(each) for each in sky.bins]))
    seen = in_bins[batch.response_index]
    # A few sources that no instrument sees well have fewer counts.
    source = (folded * seen).sum(1)
    assert float(source.median()) == pytest.approx(COUNTS, rel=0.01)
