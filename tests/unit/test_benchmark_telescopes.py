"""What the benchmark of telescopes rests on: its arrays, its pairs, its fits of real spectra."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.latents.samples import load, load_spectra, save
from benchmarks.latents.surveys import draw
from benchmarks.physical_fits import Observation, fit_best
from benchmarks.real_spectra import RealSpectrum, spectra_in
from benchmarks.telescopes.fit import Choice
from benchmarks.telescopes.measures import Measured, guess_telescope, score_pairs
from benchmarks.telescopes.network import compact
from benchmarks.telescopes.views import pairs, telescopes_of, views
from raypipe.model.features import prepare
from raypipe.ogip import read_spectrum
from raypipe.physics.components import power_law
from raypipe.simulation.survey_plan import Plan, plan_survey
from raypipe.simulation.visits import SEEN_SHARE, seen_shares
from raypipe.spectra.batch import SpectraBatch

pytestmark = pytest.mark.filterwarnings("ignore:.*of the 6.5 keV from 0.5 to 7 keV:UserWarning")


@pytest.fixture(scope="module")
def plan(shared_data: Path) -> Plan:
    folders = [shared_data / "missions", shared_data / "responses"]
    return plan_survey(60, seed=3, responses=folders, counts_min=100, counts_max=3000)


def real(shared_data: Path, name: str) -> RealSpectrum:
    files = {each[0]: each[1:] for each in spectra_in(shared_data / "missions")}
    pha, companions = files[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spectrum = read_spectrum(pha, **companions)
    return RealSpectrum(name, "", "", spectrum, SpectraBatch.from_spectra([spectrum]))


def test_a_saved_sample_comes_back_as_it_was(plan: Plan, tmp_path: Path) -> None:
    sample = draw(plan)
    save(sample, tmp_path / "whole")
    save(sample, tmp_path / "learn", to_learn=True)
    whole, learn = load(tmp_path / "whole"), load(tmp_path / "learn")
    for back in (whole, learn):
        np.testing.assert_array_equal(back.spectra.counts, sample.spectra.counts)
        np.testing.assert_array_equal(back.spectra.valid, sample.spectra.valid)
        for ours, theirs in zip(back.spectra.bins, sample.spectra.bins, strict=True):
            for part, other in zip(ours.parts(), theirs.parts(), strict=True):
                np.testing.assert_array_equal(part, other)
        assert back.table.equals(sample.table)
    np.testing.assert_array_equal(whole.truth, sample.truth)
    np.testing.assert_array_equal(load_spectra(tmp_path / "learn").counts, sample.spectra.counts)
    assert np.isnan(learn.truth).all()
    np.testing.assert_allclose(learn.spectra.arf_cm2, sample.spectra.arf_cm2, rtol=1e-3, atol=1e-6)


def test_the_learner_sees_what_was_drawn(plan: Plan) -> None:
    sample = draw(plan)
    seen = compact(sample.spectra, torch.device("cpu")).take(torch.arange(len(sample)))
    expected = prepare(sample.spectra)
    assert torch.equal(seen.counts, expected.counts)
    assert torch.allclose(seen.background, expected.background, rtol=1e-4, atol=1e-5)
    assert torch.equal(seen.valid, expected.valid)


def test_fitting_needs_neither_ray_nor_the_simulation() -> None:
    forbidden = ("ray", "astropy", "xraydb", "matplotlib", "raypipe.simulation")
    code = (
        "import benchmarks.telescopes.fit, sys; "
        f"print([name for name in {forbidden} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_telescope_can_be_left_out_or_taken_alone(plan: Plan) -> None:
    table = draw(plan).table
    without, only = Choice(without="NuSTAR").rows(table), Choice(only="NuSTAR").rows(table)
    assert sorted([*without, *only]) == list(range(len(table)))
    assert table["telescope"].iloc[only].str.startswith("NuSTAR").all()
    with pytest.raises(ValueError, match="no telescope Hitomi in the survey; there are ASCA"):
        Choice(without="Hitomi").rows(table)


def test_pairs_have_one_source_two_telescopes_and_equal_counts(plan: Plan) -> None:
    shares = seen_shares(plan.targets.sources, plan.instruments)
    drawn = pairs(plan, shares, 20)
    source = drawn.targets.source.reshape(-1, 3)
    telescope = telescopes_of(plan)[drawn.instrument].reshape(-1, 3)
    assert len(source) == 20
    assert (source == source[:, :1]).all()
    assert (drawn.instrument[0::3] == drawn.instrument[1::3]).all()
    assert (telescope[:, 0] != telescope[:, 2]).all()
    assert (np.ptp(drawn.targets.counts.reshape(-1, 3), axis=1) == 0).all()
    assert (shares[drawn.targets.source, drawn.instrument] >= SEEN_SHARE).all()


def test_views_show_every_source_to_every_telescope(plan: Plan) -> None:
    shares = seen_shares(plan.targets.sources, plan.instruments)
    drawn = views(plan, shares, 10)
    telescope = telescopes_of(plan)[drawn.instrument].reshape(-1, 6)
    assert all(len(set(row)) == 6 for row in telescope)


def measured(offset: float) -> tuple[Measured, np.ndarray]:
    """Return latents of 400 sources, observed twice by A and once by B with an offset."""
    rng = np.random.default_rng(1)
    source = np.repeat(rng.normal(size=(400, 4)), 3, axis=0)
    telescope = np.tile(np.array(["A", "A", "B"], dtype=object), 400)
    z = source + 0.3 * rng.normal(size=source.shape) + offset * (telescope == "B")[:, None]
    covariance = np.repeat(0.09 * np.eye(4)[None], len(z), axis=0)
    cash = np.ones(len(z))
    found = Measured(z, np.full(z.shape, 0.3), covariance, cash, cash, telescope)
    return found, np.repeat(np.arange(400).astype(str), 3).astype(object)


def test_scores_tell_a_telescope_that_shifts_latents_from_one_that_does_not() -> None:
    found, names = measured(0.0)
    scores = score_pairs(found)
    assert scores.ratio_median[0] == pytest.approx(1.0, abs=0.1)
    assert scores.pulls_two == pytest.approx(1.0, abs=0.15)
    assert set(scores.by_second) == {"B"}
    moved = score_pairs(measured(1.0)[0])
    assert moved.ratio_median[0] > 1.5
    assert moved.pulls_two.min() > 1.5
    once = np.flatnonzero(np.arange(len(names)) % 3 != 1)

    def guess(offset: float) -> float:
        found = measured(offset)[0]
        each = replace(found, z=found.z[once], telescope=found.telescope[once])
        return guess_telescope(each, names[once])["kNN"][0]

    assert guess(0.0) == pytest.approx(1.0, abs=0.12)
    assert guess(2.0) > 1.4


@pytest.mark.parametrize("name", ["xmm-pn", "nustar-a", "asca-sis"])
def test_a_fit_through_the_files_finds_the_power_law_that_was_folded(
    shared_data: Path, name: str
) -> None:
    given = real(shared_data, name)
    bins = given.batch.bins[0]
    nothing = np.zeros(len(bins))
    empty = Observation.of_spectrum(given.spectrum, bins, nothing, nothing + 0.01, 1e4)
    folded = power_law(np.array([1.7]), empty.grid)[0] @ empty.photons_to_counts
    folded *= 20_000 / folded.sum()
    fit = fit_best(replace(empty, counts=folded + empty.background))
    assert fit.name == "power law"
    assert fit.cash < 2.0


def test_counts_per_photon_agree_with_the_reader_of_the_files(shared_data: Path) -> None:
    given = real(shared_data, "xmm-pn")
    bins, spectrum = given.batch.bins[0], given.spectrum
    nothing = np.zeros(len(bins))
    through = Observation.of_spectrum(spectrum, bins, nothing, nothing, spectrum.exposure_s)
    flux = 1e-4 * through.grid.mid_kev**-1.7
    expected = bins.bin_counts(spectrum.fold(lambda energy: 1e-4 * energy**-1.7))
    np.testing.assert_allclose(flux @ through.photons_to_counts, expected, rtol=3e-3)


def test_thinning_keeps_the_rate(shared_data: Path) -> None:
    given = real(shared_data, "nicer")
    thinned = given.thinned(30_000, seed=1)
    assert thinned.counts.sum() == pytest.approx(30_000, rel=0.03)
    before, after = (each.counts.sum() / each.batch.exposure_s[0] for each in (given, thinned))
    assert after == pytest.approx(before, rel=0.03)
    assert real(shared_data, "swift-xrt").thinned(30_000, 1).counts.sum() < 100
