"""A measure that does not depend on how a model was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raypipe.config import ModelConfig, TrainConfig
from raypipe.model.count_splitting import thin, unseen
from raypipe.model.features import prepare
from raypipe.model.holdout_cash import halve, unseen_cash
from raypipe.model.presets import Preset, build
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.learner import Learner
from raypipe.training.steps import StepPlan
from tests.unit.model_spectra import GRID, power_laws

SEEDS = np.arange(40, dtype=np.uint64) + 2**60


def _network(preset: str = "folded", **model: float) -> Preset:
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 32}
    return build(ModelConfig.model_validate({"preset": preset, **small, **model}), GRID)


def test_halves_are_binomial_and_of_the_detection_alone() -> None:
    batch = prepare(power_laws(40)[0])
    shown = halve(batch, SEEDS)
    judged = unseen(batch, shown)
    assert torch.equal(shown.counts + judged.counts, batch.counts)
    assert torch.allclose(shown.exposure_s, judged.exposure_s)
    total = float(batch.counts.sum())
    assert abs(float(shown.counts.sum()) - total / 2) < 4 * np.sqrt(total / 4)
    order = torch.randperm(40)[:11]
    some = halve(batch.take(order), SEEDS[order.numpy()])
    assert torch.equal(some.counts, shown.counts[order])
    other = halve(batch, SEEDS + np.uint64(1))
    assert not torch.equal(other.counts, shown.counts)


@pytest.mark.parametrize("preset", ["folded", "paper"])
def test_the_measure_is_a_cash_per_bin(preset: str) -> None:
    batch = prepare(power_laws(40)[0])
    cash = unseen_cash(_network(preset), batch, SEEDS)
    assert cash.shape == (40,)
    assert torch.isfinite(cash).all()
    assert (cash > 0.1).all()


def _learner(plan: StepPlan | None = None, rows: slice = slice(None), **train: float) -> Learner:
    spectra = prepare(power_laws(40, seed=1)[0])
    mine = torch.arange(40)[rows]
    names = [f"sim:{number}.0.1" for number in mine.tolist()]
    config = {"epochs": 2, "batch_size": 16, "validation_cash": True, **train}
    return Learner(
        _network(loss_power=train.pop("loss_power", 0.25)),
        ResidentStream(prepare(power_laws(32)[0])),
        ResidentStream(spectra.take(mine)),
        TrainConfig.model_validate({k: v for k, v in config.items() if k != "loss_power"}),
        plan=plan,
        validation_names=lambda places: [names[place] for place in places.tolist()],
    )


def test_thinning_and_weights_change_the_loss_not_the_measure() -> None:
    settings: list[dict[str, float]] = [
        {},
        {"thinning_min": 0.7},
        {"loss_power": 0.6},
        {"latent_penalty": 0.5, "batch_size": 8, "seed": 4},
    ]
    learners = [_learner(**each) for each in settings]
    cash = [learner.measure_cash("now") for learner in learners]
    assert cash == pytest.approx([cash[0]] * len(cash), rel=1e-6)
    losses = [learner._validate("now") for learner in learners[:3]]
    assert len({round(loss, 3) for loss in losses}) == 3


def test_the_measure_is_the_same_however_workers_share() -> None:
    whole = _learner().measure_cash("now")
    parts = [_learner(rows=slice(0, 13)), _learner(rows=slice(13, 40))]
    sums = [part.measure_cash("now") * len(part.validation) for part in parts]
    assert sum(sums) / 40 == pytest.approx(whole, rel=1e-6)


def test_the_measure_leaves_the_course_of_training_alone() -> None:
    with_it, without = _learner(), _learner(validation_cash=False)
    for epoch in range(2):
        with_it.run_epoch(epoch)
        without.run_epoch(epoch)
    for one, other in zip(with_it.history, without.history, strict=True):
        assert one["validation_loss"] == other["validation_loss"]
        assert "validation_cash" in one
        assert "validation_cash" not in other
    assert with_it.best_cash() == with_it.history[with_it.best_epoch]["validation_cash"]
    before = {name: value.clone() for name, value in without.network.state_dict().items()}
    assert without.best_cash() == pytest.approx(with_it.best_cash(), rel=1e-6)
    assert all(torch.equal(before[k], v) for k, v in without.network.state_dict().items())


def test_the_power_of_the_loss_leaves_spectra_of_300_counts_alone() -> None:
    faint, bright = (power_laws(3, counts=counts)[0] for counts in (60.0, 3000.0))
    losses = {power: [] for power in (0.0, 0.25, 1.0)}
    for spectra in faint, bright:
        batch = prepare(spectra)
        torch.manual_seed(1)
        shown = thin(batch, 0.3, 0.8)
        relative = batch.counts.sum(-1) / 300.0
        for power in losses:
            loss = _network(loss_power=power)(batch, shown)[0]
            losses[power].append(loss * relative**power)
    for each in losses.values():
        assert torch.allclose(torch.cat(each), torch.cat(losses[0.0]), rtol=1e-5)
