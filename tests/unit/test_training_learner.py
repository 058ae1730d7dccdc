"""A worker's epochs: what is not finite, precision, compilation, checkpoints, progress."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from raypipe.config import ModelConfig, TrainConfig
from raypipe.model.features import prepare
from raypipe.model.presets import Preset, build
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.finite_check import STEPS_BETWEEN_LOOKS, NotFiniteError
from raypipe.training.learner import Learner
from raypipe.training.precision import Arithmetic, adapt, choose_arithmetic
from tests.unit.model_spectra import GRID, power_laws

SMALL = ModelConfig(width=16, depth=1, heads=2, decoder_width=32)
CPU = torch.device("cpu")
EXACT = Arithmetic(torch.float32, compiled=False)


def _network() -> Preset:
    torch.manual_seed(0)
    return build(SMALL, GRID)


def _learner(network: Preset | None = None, rows: int = 96, **options: Any) -> Learner:
    settings = {"epochs": 4, "batch_size": 16, "learning_rate": 5e-3, **options.pop("train", {})}
    config = TrainConfig(**settings)
    train = options.pop("stream", None) or ResidentStream(prepare(power_laws(rows)[0]))
    validation = options.pop("validation", None) or ResidentStream(
        prepare(power_laws(40, seed=1)[0])
    )
    return Learner(network or _network(), train, validation, config, **options)


def _names(places: torch.Tensor) -> list[str]:
    return [f"sim:{place}.0.1" for place in places.tolist()]


def test_the_spectrum_whose_loss_is_not_finite_is_named() -> None:
    spectra, _ = power_laws(96)
    spectra.arf_cm2[37, 5] = np.nan
    learner = _learner(stream=ResidentStream(prepare(spectra)), names=_names)
    with pytest.raises(NotFiniteError, match=r"epoch 0, step \d: the loss of 1 spectra.*") as error:
        learner.run_epoch(0)
    assert "(worker 0: sim:37.0.1)" in str(error.value)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(learner._seed_of(0)))
    step = int((order == 37).nonzero()[0, 0]) // 16
    assert f"step {step}:" in str(error.value)


def test_the_first_of_many_bad_steps_is_named_between_two_looks() -> None:
    rows = 16 * (STEPS_BETWEEN_LOOKS + 4)
    spectra, _ = power_laws(rows)
    spectra.exposure_s[5] = np.inf
    learner = _learner(stream=ResidentStream(prepare(spectra)), names=_names)
    with pytest.raises(NotFiniteError, match=r"worker 0: sim:5\.0\.1\)"):
        learner.run_epoch(0)


def test_a_gradient_that_is_not_finite_names_the_step() -> None:
    network = _network()
    learner = _learner(network, names=_names)
    weight = network.autoencoder.decoder.layers[0].weight
    weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NotFiniteError, match=r"epoch 0, step 0: the gradient is not finite") as e:
        learner.run_epoch(0)
    assert str(e.value).count("sim:") == 10


def test_validation_names_its_own_spectra() -> None:
    spectra, _ = power_laws(40, seed=1)
    spectra.arf_cm2[3] = np.inf
    learner = _learner(validation=ResidentStream(prepare(spectra)), validation_names=_names)
    with pytest.raises(NotFiniteError, match=r"validation after epoch 0.*sim:3\.0\.1\)"):
        learner.run_epoch(0)


def test_a_checkpoint_goes_on_as_if_nothing_had_been() -> None:
    unbroken, first, second = _learner(), _learner(), _learner()
    for epoch in range(4):
        unbroken.run_epoch(epoch)
    for epoch in range(2):
        first.run_epoch(epoch)
    second.resume(first.state())
    for epoch in range(2, 4):
        second.run_epoch(epoch)
    assert second.optimizer_steps == unbroken.optimizer_steps == 4 * 6
    assert second.best_steps == (second.best_epoch + 1) * 6
    assert second.resumed_after == [2]
    for one, other in zip(unbroken.history, second.history, strict=True):
        assert (one["train_loss"], one["validation_loss"]) == (
            other["train_loss"],
            other["validation_loss"],
        )


def test_a_long_epoch_tells_how_far_it_is() -> None:
    told: list[dict[str, float]] = []
    learner = _learner(tell=told.append, tell_every_s=0.0)
    metrics = learner.run_epoch(1)
    assert [each["share_of_epoch"] for each in told] == pytest.approx([i / 6 for i in range(1, 7)])
    assert told[-1]["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-5)
    assert told[-1]["epoch_left_s"] == 0.0
    assert told[0]["left_s"] > told[0]["epoch_left_s"] > 0


def test_a_step_waits_for_no_device() -> None:
    """Tensors without values raise where the host asks for one, as it would wait for a GPU's.

    (Without thinning: torch.binomial has no kernel for them.)
    """
    meta = torch.device("meta")
    batch = prepare(power_laws(96)[0])
    assert len(batch.response_index.unique()) > 1
    away = {name: value.to(meta) for name, value in vars(batch).items() if name != "response_index"}
    stream = ResidentStream(replace(batch, **away))
    everything = {"thinning_min": 1.0}
    learner = _learner(_network().to(meta), stream=stream, device=meta, train=everything)
    for _, rows in stream.steps(learner.plan.steps, learner.plan.share, 0):
        loss, norm = learner._step(rows)
        assert (loss.device, norm.device) == (meta, meta)
    assert learner.schedule.last_epoch == learner.plan.steps == 6


@pytest.mark.parametrize("steps", [*range(1, 41), 100, 1000])
def test_the_learning_rate_of_every_step_is_positive_and_peaks_early(steps: int) -> None:
    """One step and ten steps are the cases in which OneCycleLR alone fails."""
    learner = _learner(rows=16, train={"epochs": steps, "learning_rate": 1e-2})
    assert learner.plan.steps == 1
    rates = []
    for _ in range(steps):
        rates.append(learner.schedule.get_last_lr()[0])
        learner.optimizer.step()
        learner.schedule.step()
    assert min(rates) > 0
    assert 0.5e-2 <= max(rates) <= 1e-2
    assert rates.index(max(rates)) <= 0.1 * steps
    assert rates[-1] == min(rates)


def test_arithmetic_of_a_cpu() -> None:
    assert choose_arithmetic(TrainConfig(), CPU) == EXACT
    chosen = choose_arithmetic(TrainConfig(precision="bfloat16", compile=True), CPU)
    assert (chosen.name, chosen.compiled) == ("bfloat16", True)


def test_bfloat16_learns_the_same() -> None:
    losses = {}
    for precision in torch.float32, torch.bfloat16:
        network = _network()
        adapt(network, Arithmetic(precision, compiled=False), CPU)
        learner = _learner(network)
        losses[precision] = [learner.run_epoch(epoch)["validation_loss"] for epoch in range(4)]
    exact, rounded = losses.values()
    print("validation losses, float32 and bfloat16:", exact, rounded)
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)


def test_only_the_encoder_is_cast_and_only_in_training() -> None:
    network = _network()
    adapt(network, Arithmetic(torch.bfloat16, compiled=False), CPU)
    batch = prepare(power_laws(16)[0])
    seen: dict[str, set[torch.dtype]] = {"encoder": set(), "decoder": set()}
    for name, kinds in seen.items():
        for module in getattr(network.autoencoder, name).modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda _m, _i, out, k=kinds: k.add(out.dtype))
    loss, _ = network.train()(batch, batch)
    assert seen == {"encoder": {torch.bfloat16}, "decoder": {torch.float32}}
    assert loss.dtype == network.encode(batch).dtype == torch.float32
    plain = _network().eval()
    with torch.no_grad():
        # Layers with hooks take another path through PyTorch, which rounds differently.
        assert torch.allclose(network.eval().encode(batch), plain.encode(batch), atol=1e-5)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_compiled_modules_learn_the_same_under_the_same_names(precision: torch.dtype) -> None:
    losses, names = [], []
    for compiled in False, True:
        network = _network()
        adapt(network, Arithmetic(precision, compiled), CPU)
        learner = _learner(network)
        losses.append([learner.run_epoch(epoch)["validation_loss"] for epoch in range(2)])
        names.append(list(learner.state()["network"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert names[0] == names[1] == list(_network().state_dict())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
