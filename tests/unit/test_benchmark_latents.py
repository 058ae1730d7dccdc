"""What the benchmark of the latents rests on: its surveys and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.latents.limits import least_excess
from benchmarks.latents.responses import GRID, flux_on_grid
from benchmarks.latents.samples import Sample
from benchmarks.latents.surveys import draw, observe
from benchmarks.latents.table import in_bins
from raypipe.model.features import prepare
from raypipe.model.folding import fold
from raypipe.simulation.populations import PARAMETERS, Sources
from raypipe.simulation.survey_plan import Plan, plan_survey


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_survey(200, seed=3)


@pytest.fixture(scope="module")
def sample(plan: Plan) -> Sample:
    return draw(plan)


def test_truth_is_the_flux_folded_on_the_grid_of_the_model(sample: Sample) -> None:
    parameters = {name: sample.table[name].to_numpy(float) for name in PARAMETERS}
    sources = Sources(sample.table["model"].to_numpy(str), parameters)
    flux = torch.tensor(flux_on_grid(sources), dtype=torch.float32)
    widths = torch.tensor(GRID.widths_kev, dtype=torch.float32)
    folded = fold(flux, prepare(sample.spectra), widths).numpy()
    truth = sample.truth - sample.truth_background
    shares = [each / each.sum(1, keepdims=True) for each in (folded, truth)]
    assert 0.5 * np.abs(shares[0] - shares[1]).sum(1).max() < 0.01


def test_observed_again_is_the_same_source_at_the_counts_asked_for(
    plan: Plan, sample: Sample
) -> None:
    rows = np.repeat([5, 9], 3)
    instrument = np.tile([0, 1, 2], 2)
    again = draw(observe(plan, rows, seed=1, instrument=instrument, counts=np.full(6, 700.0)))
    assert (again.names == sample.names[rows]).all()
    assert (again.spectra.response_index == instrument).all()
    assert again.source_counts.tolist() == [700.0] * 6
    without_noise = again.without_noise().spectra
    assert np.allclose(without_noise.counts, again.truth)
    background = without_noise.background_counts * without_noise.background_scale[:, None]
    assert np.allclose(background, again.truth_background, rtol=1e-5)
    assert not np.array_equal(again.spectra.counts[0], again.spectra.counts[1])


def test_least_excess_counts_what_the_photons_measure(plan: Plan) -> None:
    population = draw(plan_survey(3000, seed=4)).table
    rows = np.flatnonzero(plan.targets.label[plan.targets.source] == "HMXB")
    excess = [
        least_excess(
            draw(observe(plan, rows, seed=1, counts=np.full(len(rows), counts))), population
        )
        for counts in (1.0, 500.0, 50_000.0)
    ]
    nh, slope, line, amplitude = 1, 1, 1, 1
    assert (excess[0] > amplitude).all()
    assert excess[0].mean() < excess[1].mean() < excess[2].mean()
    assert (excess[2] < nh + slope + line + amplitude).all()
    assert excess[2].mean() > nh + slope + amplitude


def test_rows_fall_into_the_decade_of_their_counts() -> None:
    masks = in_bins(np.array([20.0, 49.9, 50.0, 5000.0]))
    assert [mask.tolist().index(True) for mask in (masks[0], masks[1], masks[-1])] == [0, 2, 3]
    assert sum(mask.sum() for mask in masks) == 4
