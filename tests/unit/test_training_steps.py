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

from raypipe.config import ModelConfig, TrainConfig
from raypipe.config_toml import load_config
from raypipe.errors import UsageError
from raypipe.model.features import prepare
from raypipe.model.presets import build
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.learner import Learner
from raypipe.training.steps import StepPlan
from tests.unit.model_spectra import GRID, power_laws

SMALL = ModelConfig(width=16, depth=1, heads=2, decoder_width=32)
STEP = TrainConfig(epochs=2, batch_size=10, num_workers=1, thinning_min=1.0)
LONG = STEP.model_copy(update={"epochs": 6})


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


def _learner(rows: int, config: TrainConfig, rank: int = 0, world: int = 1) -> Learner:
    """One worker's learner, wrapped for DDP where there are others."""
    plan = StepPlan(rows, 10, rank, world)
    batch, other = prepare(power_laws(rows)[0]), prepare(power_laws(8, seed=2)[0])
    return Learner(
        nn.parallel.DistributedDataParallel(_network()) if world > 1 else _network(),
        ResidentStream(batch.take(torch.arange(rows)[plan.held])),
        ResidentStream(other.take(torch.arange(8)[plan.held_of(8)])),
        config,
        plan=plan,
    )


def _share(rank: int, world: int, folder: str, rows: int, config: TrainConfig, until: int) -> None:
    """One worker's epochs up to one of them; it keeps its state."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet-{world}-{rows}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=world)
    learner = _learner(rows, config, rank, world)
    for epoch in range(until):
        learner.run_epoch(epoch)
    torch.save(learner.state(), f"{folder}/{world}-{rank}-{rows}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_uneven_shares_take_the_step_of_the_whole(tmp_path: Path) -> None:
    """Each step takes all ten spectra: four, three and three of them, or all at once."""
    learner = _learner(10, STEP)
    for epoch in range(STEP.epochs):
        learner.run_epoch(epoch)
    alone = learner.network.state_dict()
    mp.spawn(_share, (3, str(tmp_path), 10, STEP, STEP.epochs), nprocs=3)
    for rank in range(3):
        state = torch.load(tmp_path / f"3-{rank}-10.pt")
        _same_course(learner.history, state["history"], 1e-4)
        for name, value in alone.items():
            assert torch.allclose(value, state["network"][name], atol=2e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "tolerance"), [(10, 1e-4), (30, 0.02)])
def test_what_two_workers_began_one_ends(tmp_path: Path, rows: int, tolerance: float) -> None:
    """A step an epoch is the same step for one worker; of three the order differs."""
    mp.spawn(_share, (2, str(tmp_path), rows, LONG, 2), nprocs=2)
    unbroken, other = _learner(rows, LONG), _learner(rows, LONG)
    other.resume(torch.load(tmp_path / f"2-0-{rows}.pt"))
    assert other.optimizer_steps == 2 * rows // 10
    for epoch in range(LONG.epochs):
        unbroken.run_epoch(epoch)
    for epoch in range(len(other.history), LONG.epochs):
        other.run_epoch(epoch)
    assert other.resumed_after == [2]
    assert other.optimizer_steps == unbroken.optimizer_steps == LONG.epochs * rows // 10
    _same_course(unbroken.history, other.history, tolerance)


def _same_course(
    one: list[dict[str, float]], other: list[dict[str, float]], tolerance: float
) -> None:
    for a, b in zip(one, other, strict=True):
        assert a["learning_rate"] == pytest.approx(b["learning_rate"], rel=1e-12)
        for name in "train_loss", "validation_loss":
            assert a[name] == pytest.approx(b[name], rel=tolerance), (one, other)
