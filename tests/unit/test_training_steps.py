"""The same optimization however many workers share it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raypipe.config import ModelConfig, TrainConfig, load_config
from raypipe.errors import UsageError
from raypipe.model.features import prepare
from raypipe.model.presets import build
from raypipe.training.learner import Learner
from raypipe.training.sources import Resident
from raypipe.training.steps import StepPlan
from tests.unit.model_spectra import GRID, power_laws

SMALL = ModelConfig(width=16, depth=1, heads=2, decoder_width=32)
STEP = TrainConfig(epochs=2, batch_size=10, num_workers=1, thinning_min=1.0)


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 9))
def test_workers_share_whole_steps(total: int, batch_size: int, world: int) -> None:
    world = min(world, batch_size, total)
    plans = [StepPlan(total, batch_size, rank, world) for rank in range(world)]
    (batch,), (steps,) = {plan.batch for plan in plans}, {plan.steps for plan in plans}
    shares = [plan.share for plan in plans]
    assert (batch, steps) == (min(total, batch_size), total // batch)
    assert sum(shares) == batch
    assert max(shares) - min(shares) <= 1
    rows = np.arange(total)
    held = [rows[plan.held] for plan in plans]
    assert (np.concatenate(held) == rows).all()
    assert all(len(h) >= steps * share for h, share in zip(held, shares, strict=True))
    others = [rows[plan.held_of(total)] for plan in plans]
    assert (np.concatenate(others) == rows).all()


def test_more_workers_than_spectra_of_a_step_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot share"):
        StepPlan(100, 4, 0, 5)
    with pytest.raises(UsageError, match="cannot share batches"):
        load_config(overrides=["train.num_workers=65"])


def test_workers_are_a_number_or_a_range() -> None:
    assert load_config(overrides=["train.num_workers=3"]).train.workers == (3, 3)
    elastic = load_config(overrides=["train.num_workers=[1, 4]"])
    assert elastic.train.workers == (1, 4)
    assert "num_workers = [\n    1,\n    4,\n]" in elastic.to_toml()
    for wrong in "[4, 1]", "0", "[0, 2]", "[1, 2, 3]":
        with pytest.raises(UsageError, match="num_workers"):
            load_config(overrides=[f"train.num_workers={wrong}"])


def _network() -> nn.Module:
    torch.manual_seed(0)
    return build(SMALL, GRID)


def _weights_of(rank: int, world: int, folder: str) -> None:
    """One worker's two epochs of a step each; it keeps the weights and the losses."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    plan = StepPlan(10, 10, rank, world)
    batch = prepare(power_laws(10)[0])
    mine = Resident(batch.take(torch.arange(10)[plan.held]))
    other = prepare(power_laws(8, seed=2)[0])
    validation = Resident(other.take(torch.arange(8)[plan.held_of(8)]))
    model = nn.parallel.DistributedDataParallel(_network())
    learner = Learner(model, mine, validation, STEP, plan=plan)
    for epoch in range(STEP.epochs):
        learner.run_epoch(epoch)
    torch.save((learner.network.state_dict(), learner.history), f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_uneven_shares_take_the_step_of_the_whole(tmp_path: Path) -> None:
    """Each step takes all ten spectra: four, three and three of them, or all at once."""
    learner = Learner(
        _network(),
        Resident(prepare(power_laws(10)[0])),
        Resident(prepare(power_laws(8, seed=2)[0])),
        STEP,
    )
    for epoch in range(STEP.epochs):
        learner.run_epoch(epoch)
    alone = learner.network.state_dict()
    mp.spawn(_weights_of, (3, str(tmp_path)), nprocs=3)
    for rank in range(3):
        shared, history = torch.load(tmp_path / f"3-{rank}.pt")
        for one, other in zip(learner.history, history, strict=True):
            for name in "train_loss", "validation_loss", "learning_rate":
                assert one[name] == pytest.approx(other[name], rel=1e-4)
        for name, value in alone.items():
            assert torch.allclose(value, shared[name], atol=2e-4), name
