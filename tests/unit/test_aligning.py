"""Alignment of latents with a view: what it finds in toys whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raypipe.aligning.calibrate import (
    ONE_SIGMA_SHARE,
    calibrate,
    source_weights,
    widening,
)
from raypipe.aligning.measure import measure_translation, similarities
from raypipe.aligning.retrieval import baselines, chance, judge, ranks, recall
from raypipe.alignment.bundle import Alignment
from raypipe.alignment.judged import JudgedPairs
from raypipe.alignment.losses import cholesky_nll, info_nce, sigmoid_loss
from raypipe.alignment.spectrum_inputs import LatentPosteriors
from raypipe.alignment.translation import predict_latents, predict_views
from raypipe.alignment.view_table import ViewColumn
from raypipe.alignment.views import flat
from raypipe.config_align import AlignConfig
from raypipe.errors import UsageError
from tests.unit.aligned_pairs import LATENTS, QUICK, Toy, linear_view, posteriors


@pytest.fixture(scope="module")
def linear() -> Toy:
    rng = np.random.default_rng(0)
    known = posteriors(rng, 800, error=0.1)
    return Toy(linear_view(known.mean, rng), known, AlignConfig(**QUICK))


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_a_linear_view_finds_its_spectrum_and_the_reverse(linear: Toy, loss: str) -> None:
    toy = Toy(
        linear_view(linear.pairs.posteriors.mean, np.random.default_rng(0)),
        linear.pairs.posteriors,
        AlignConfig(**QUICK, loss=loss),
    )
    found = judge(similarities(toy.alignment(), toy.judged()))
    assert found["gallery"] > 120
    for way in ("to_view", "to_spectrum"):
        assert found[way]["at_5_percent"] > 0.9
        assert found[way]["median_rank"] <= 3


def test_permuted_pairs_find_nothing(linear: Toy) -> None:
    found = judge(similarities(linear.alignment(permuted=True), linear.judged(permuted=True)))
    n, p = found["gallery"], chance(found["gallery"])["at_5_percent"]
    for way in ("to_view", "to_spectrum"):
        assert abs(found[way]["at_5_percent"] - p) < 4 * np.sqrt(p * (1 - p) / n)
        assert abs(found[way]["median_rank"] / n - 0.5) < 0.2


def test_the_same_seed_gives_the_same_weights_and_another_one_others(linear: Toy) -> None:
    one, again = linear.fit().network.state_dict(), linear.fit().network.state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    linear_of_seed_1 = Toy(
        linear_view(linear.pairs.posteriors.mean, np.random.default_rng(0)),
        linear.pairs.posteriors,
        AlignConfig(**QUICK, seed=1),
    )
    other = linear_of_seed_1.fit().network.state_dict()
    assert not torch.equal(one["spectrum.project.weight"], other["spectrum.project.weight"])


def test_each_side_predicts_the_other_with_errors_of_the_right_size(linear: Toy) -> None:
    made, judged = linear.alignment(), linear.judged()
    measured = measure_translation(made, linear.pairs.take(linear.division.test), judged)
    assert measured["view"]["first"]["r2"] > 0.9
    assert 0.5 < measured["view"]["first"]["coverage"] < 0.85
    for each in measured["latents"].values():
        assert each["r2"] > 0.85
        assert 0.5 < each["coverage"] < 0.85
    predicted = predict_views(made, judged.posteriors)
    assert list(predicted) == ["first", "first_lolim", "first_hilim"]
    assert (predicted["first_lolim"] < predicted["first_hilim"]).all()
    mean, covariance = predict_latents(made, judged.views())
    assert mean.shape == (len(judged), LATENTS)
    assert (np.linalg.eigvalsh(covariance) > 0).all()


def test_a_curved_view_is_found_better_than_by_linear_methods() -> None:
    rng = np.random.default_rng(3)
    known = posteriors(rng, 800, error=0.1)
    curved = np.stack([np.abs(known.mean[:, 0]), np.cos(2 * known.mean[:, 1])], axis=1)
    toy = Toy(
        [ViewColumn("curved", "vector", curved.astype(np.float32))],
        known,
        AlignConfig(**QUICK | {"epochs": 80}),
    )
    judged, train = toy.judged(), toy.pairs.take(toy.division.train)
    ours = judge(similarities(toy.alignment(), judged))["to_view"]["median_rank"]
    linear = baselines(
        train.posteriors.features().astype(float),
        flat(train.views()),
        judged.posteriors.features().astype(float),
        flat(judged.views()),
    )
    best = min(judge(each)["to_view"]["median_rank"] for each in linear.values())
    assert ours < 0.5 * best


def test_missing_values_are_no_obstacle(linear: Toy) -> None:
    rng = np.random.default_rng(4)
    known = linear.pairs.posteriors
    turned, first = linear_view(known.mean, np.random.default_rng(0))
    values = turned.values.copy()
    values[rng.random(len(known)) < 0.5] = np.nan
    words = np.where(known.mean[:, 1] > 0, "up", "down").astype(object)
    words[rng.random(len(known)) < 0.3] = None
    columns = [ViewColumn("turned", "vector", values), first, ViewColumn("side", "category", words)]
    toy = Toy(columns, known, AlignConfig(**QUICK))
    found = judge(similarities(toy.alignment(), toy.judged()))["to_view"]
    assert found["at_5_percent"] > 0.4
    predicted = predict_views(toy.alignment(), toy.judged().posteriors)
    right = (predicted["side"] == "up") == (toy.judged().posteriors.mean[:, 1] > 0)
    assert right.mean() > 0.9


def test_a_light_curve_is_read_as_a_whole() -> None:
    rng = np.random.default_rng(5)
    known = posteriors(rng, 500, error=0.1)
    curves = np.full(len(known), None, dtype=object)
    for row, z in enumerate(known.mean):
        times = np.sort(rng.uniform(0, 1, rng.integers(20, 40)))
        # The latents are a slope and a height: neither the mean nor the scatter alone tells them.
        rates = 3.0 * z[0] * (times - 0.5) + z[1] + 0.1 * rng.standard_normal(len(times))
        curves[row] = np.stack([times * 1e4, rates])
    config = AlignConfig(**QUICK | {"epochs": 30})
    toy = Toy([ViewColumn("t:r", "curve", curves)], known, config)
    found = judge(similarities(toy.alignment(), toy.judged()))["to_view"]
    # The slope's sign is in the order of the points alone.
    assert found["median_rank"] < 0.12 * len(toy.judged())


def test_detections_of_one_source_are_positives_of_each_other(linear: Toy) -> None:
    known = linear.pairs.posteriors.take(np.arange(400))
    sources = np.arange(400, dtype=np.int64) // 4
    columns = [c.take(np.arange(400)) for c in linear_view(known.mean, np.random.default_rng(0))]
    toy = Toy(columns, known, AlignConfig(**QUICK), sources)
    positive = toy.pairs.positives(np.array([0, 1, 4, 7]))
    assert positive.tolist() == [[i // 4 == j // 4 for j in (0, 1, 4, 7)] for i in (0, 1, 4, 7)]
    parts = [set(sources[rows]) for rows in vars(toy.division).values()]
    assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])
    judged = toy.judged()
    assert len(np.unique(judged.source)) == len(judged)
    permuted = toy.pairs.permuted(0)
    for source in range(5):
        assert len(set(permuted.place[sources == source])) == 1


def test_equal_rows_of_the_view_are_positives_and_have_one_place_in_the_gallery() -> None:
    rng = np.random.default_rng(6)
    known = posteriors(rng, 300, error=0.1)
    words = np.array(["a", "b", "c"], dtype=object)[np.digitize(known.mean[:, 0], [-0.5, 0.5])]
    toy = Toy([ViewColumn("word", "category", words)], known, AlignConfig(**QUICK))
    a, b = (np.flatnonzero(words == word)[:2] for word in "ab")
    assert toy.pairs.positives(np.array([*a, *b])).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, True],
        [False, False, True, True],
    ]
    assert len(toy.judged()) == 3


def test_the_shared_space_adds_nothing_that_neither_side_knows(linear: Toy) -> None:
    rng = np.random.default_rng(8)
    rows = linear.division.test
    targets = {
        "known": linear.pairs.posteriors.mean[rows, 0],
        "unknown": rng.standard_normal(len(rows)),
        "never": np.full(len(rows), np.nan),
        "half": np.where(linear.pairs.posteriors.mean[rows, 0] > 0, "up", "down").astype(object),
    }
    pairs = linear.pairs.take(rows)
    judged = JudgedPairs.of(
        [str(row) for row in rows], pairs.posteriors, pairs.views(), [linear.alignment()]
    )
    [found] = judged.usefulness(targets, seed=0)
    assert found["known"]["latents"]["value"] > 0.8
    assert found["known"]["shared"]["value"] > 0.6
    assert found["half"]["view"]["value"] > 0.85
    assert found["unknown"]["latents + view + shared"]["value"] < 0.1
    gain = found["unknown"]["gain"]["latents + shared - latents"]
    assert abs(gain["value"]) < 4 * gain["err"] + 0.02
    assert found["never"] is None


def test_ranks_count_ties_half_and_recall_is_what_chance_gives() -> None:
    assert ranks(np.array([[3.0, 1.0, 3.0], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])).tolist() == [
        1.5,
        2.0,
        2.0,
    ]
    assert recall(np.array([1.0, 2.0, 9.0, 40.0]), 100) == {
        "at_1": 0.25,
        "at_1_percent": 0.25,
        "at_5_percent": 0.5,
        "median_rank": 5.5,
    }
    rng = np.random.default_rng(0)
    random = [recall(ranks(rng.random((60, 60))), 60) for _ in range(200)]
    for name, value in chance(60).items():
        assert np.mean([each[name] for each in random]) == pytest.approx(value, rel=0.15)


def test_canonical_correlation_finds_a_shared_direction() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((600, 5))
    y = rng.standard_normal((600, 3))
    y[:, 1] = x[:, 2] + 0.05 * rng.standard_normal(600)
    found = baselines(x[:400], y[:400], x[400:], y[400:])
    assert judge(found["cca"])["to_view"]["median_rank"] < 12
    assert judge(found["ridge"])["to_view"]["median_rank"] < 20


def test_losses_have_their_values_where_these_are_known() -> None:
    same = torch.zeros(4, 4)
    assert float(info_nce(same, torch.eye(4, dtype=torch.bool))) == pytest.approx(np.log(4))
    assert float(sigmoid_loss(same, torch.eye(4, dtype=torch.bool))) == pytest.approx(4 * np.log(2))
    # With two equal positives, the best possible cross-entropy is that of the choice between them.
    pairs = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()
    assert float(info_nce(100.0 * pairs, pairs)) == pytest.approx(np.log(2), abs=1e-4)
    factor = torch.tensor([[[2.0, 0.0], [1.0, 3.0]]])
    truth, mean = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0]])
    precision = factor[0] @ factor[0].T
    normal = torch.distributions.MultivariateNormal(mean[0], precision_matrix=precision)
    expected = -float(normal.log_prob(truth[0])) - np.log(2 * np.pi)
    assert 2 * float(cholesky_nll(mean, factor, truth)) == pytest.approx(expected, rel=1e-5)


def test_latents_without_errors_are_aligned_too() -> None:
    rng = np.random.default_rng(2)
    exact = LatentPosteriors(rng.standard_normal((400, LATENTS)), np.zeros((400, LATENTS, LATENTS)))
    assert not exact.has_errors
    toy = Toy(linear_view(exact.mean, rng), exact, AlignConfig(**QUICK))
    assert judge(similarities(toy.alignment(), toy.judged()))["to_view"]["at_5_percent"] > 0.7


def test_too_few_sources_to_judge_are_refused() -> None:
    rng = np.random.default_rng(2)
    known = posteriors(rng, 20, 0.1)
    with pytest.raises(UsageError, match=r"align\.test_fraction"):
        Toy(linear_view(known.mean, rng), known, AlignConfig(**QUICK))


def _wrong_widths(made: Alignment, factor: float) -> Alignment:
    made.network.view_widening.fill_(factor)
    made.network.latent_widening.fill_(factor)
    return made


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_calibration_mends_widths_that_are_wrong_by_a_factor_of_two(factor: float) -> None:
    rng = np.random.default_rng(11)
    known = posteriors(rng, 1600, error=0.1)
    settings = {"validation_fraction": 0.3, "test_fraction": 0.3, "epochs": 15}
    toy = Toy(linear_view(known.mean, rng), known, AlignConfig(**QUICK | settings))
    made = _wrong_widths(toy.alignment(), factor)
    test, judged = toy.pairs.take(toy.division.test), toy.judged()
    before = measure_translation(made, test, judged)
    calibrate(made, toy.pairs.take(toy.division.validation), seed=0)
    after = measure_translation(made, test, judged)
    for side, name in (("view", "first"), ("latents", "z0"), ("latents", "z3")):
        wrong, mended = before[side][name], after[side][name]
        assert abs(wrong["coverage"] - ONE_SIGMA_SHARE) > 0.15
        assert abs(mended["coverage"] - ONE_SIGMA_SHARE) < 3 * mended["coverage_err"] + 0.03
        assert mended["r2"] == wrong["r2"]


def test_a_factor_from_few_sources_stays_near_one() -> None:
    rng = np.random.default_rng(12)
    wide = {}
    for n in (10, 30, 1000):
        pulls = 1.5 * rng.standard_normal(n)
        wide[n] = widening(pulls, np.ones(n), np.arange(n), seed=0)
    assert wide[10] == 1.0
    assert 1.0 < wide[30] < 1.4
    assert wide[1000] == pytest.approx(1.5, rel=0.1)


def test_each_source_counts_once_in_a_calibration() -> None:
    """Half of the sources have ten detections predicted well, half a single one predicted badly."""
    rng = np.random.default_rng(13)
    pulls = np.concatenate([0.5 * rng.standard_normal(2500), 2.0 * rng.standard_normal(250)])
    source = np.concatenate([np.repeat(np.arange(250), 10), np.arange(250, 500)])
    assert widening(pulls, source_weights(source), source, seed=0) > 0.9
    assert widening(pulls, np.ones(2750), source, seed=0) < 0.7
