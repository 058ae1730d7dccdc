"""The search for better settings, without Ray: space, draws, halving, records, table, figure."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import raypipe
from raypipe.config import Config, TuneConfig
from raypipe.config_toml import load_config
from raypipe.errors import UsageError
from raypipe.pipeline.status import status_lines
from raypipe.store.workspace import Workspace
from raypipe.tuning.figure import parallel_coordinates
from raypipe.tuning.records import (
    CASH,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    Record,
    Records,
    best_of,
    records_of,
)
from raypipe.tuning.search import Draws, Halving, Recorder
from raypipe.tuning.space import read_space
from raypipe.tuning.table import ranked, table_lines, table_of
from raypipe.tuning.tune import tune_id_of

EPOCHS = 9


def _config(space: dict[str, Any] | None = None, **sections: Any) -> Config:
    tune = {} if space is None else {"space": space}
    return load_config(settings={"tune": tune, **sections})


def _record(number: int, course: list[float], status: str = DONE, **values: Any) -> Record:
    steps = [
        {"epochs": epoch + 1, CASH: cash, "seconds_of_epochs": 2.0 * (epoch + 1)}
        for epoch, cash in enumerate(course)
    ]
    values = values or {"model.latents": 8}
    return Record(number, values, f"folded-{number}", f"t{number}", True, status, "", steps)


def test_the_default_space_is_valid_for_both_presets() -> None:
    for preset in "folded", "paper":
        space = read_space(_config(model={"preset": preset}))
        assert space.settings(space.default).model == space.base.model
        assert ("model.loss_power" in space.default) == (preset == "folded")


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"model.latent": [2]}, r"model\.latent is not a setting"),
        ({"simulate.seed": [2]}, r"simulate\.seed is not a setting"),
        ({"latents": [2]}, r"latents is not a setting"),
        ({"train.seed": [1, 2]}, r"train\.seed is the same for all trials"),
        ({"train.num_workers": [1, 2]}, r"train\.num_workers is the same"),
        ({"model.latents": [8, 9]}, r"model\.latents = 9 is never valid.*less than or equal to 8"),
        ({"model.patch": [8, 7]}, r"model\.patch = 7 is never valid: .*does not divide"),
        ({"model.preset": {"low": 0, "high": 1}}, r"model\.preset is text and has no range"),
        ({"model.depth": {"low": 1.5, "high": 4}}, r"model\.depth takes whole numbers"),
        ({"train.learning_rate": {"low": -1.0, "high": 1e-2}}, r"rate = -1\.0 is never valid"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space: dict[str, Any], named: str) -> None:
    config = _config(space)
    with pytest.raises(UsageError, match=named):
        read_space(config)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({}, "at least 1 item"),
        ({"model.latents": []}, "at least 1 item"),
        ({"train.learning_rate": {"low": 1e-2, "high": 1e-3}}, r"low 0\.01 is not below high"),
        ({"train.learning_rate": {"low": 0, "high": 1, "log": True}}, "no logarithm"),
    ],
)
def test_a_space_without_values_is_refused(space: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        _config(space)


def test_a_space_survives_toml_and_sets(tmp_path: Path) -> None:
    config = _config({"model.latents": [2, 4], "train.learning_rate": {"low": 1e-4, "high": 1e-2}})
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml())
    assert load_config(file) == config
    given = load_config(overrides=['tune.space={"model.latents" = [2, 4]}'])
    assert given.tune.space == {"model.latents": [2, 4]}


def test_the_configurations_own_values_belong_to_the_space() -> None:
    space = read_space(_config({"model.latents": [2], "model.depth": {"low": 1, "high": 2}}))
    assert space.distributions["model.latents"].choices == (8, 2)  # type: ignore[attr-defined]
    assert space.distributions["model.depth"].high == 3  # type: ignore[attr-defined]
    assert space.default == {"model.latents": 8, "model.depth": 3}


def test_what_is_valid_in_company_is_not_refused() -> None:
    """30 goes with 3 heads, 50 with neither 3 nor 4."""
    read_space(_config({"model.width": [30], "model.heads": [3]}))
    with pytest.raises(UsageError, match="width = 50"):
        read_space(_config({"model.width": [30, 50], "model.heads": [3]}))


def test_gpus_cannot_be_shared_by_workers_of_one_training() -> None:
    with pytest.raises(UsageError, match="set num_workers to 1"):
        load_config(settings={"train": {"gpus_per_worker": 0.5}})
    load_config(settings={"train": {"gpus_per_worker": 0.5, "num_workers": 1}})


def _drawn(draws: Draws, most: int) -> list[dict[str, Any]]:
    found = []
    for number in range(most):
        suggestion = draws.suggest(f"t{number}")
        if suggestion == Searcher.FINISHED:
            break
        assert isinstance(suggestion, dict)
        found.append(suggestion)
        draws.on_trial_complete(f"t{number}", {CASH: float(number)})
    return found


def test_draws_begin_with_the_default_and_neither_repeat_nor_clash() -> None:
    values = {"model.width": [64, 30], "model.heads": [4, 3], "model.latents": [8, 2]}
    found = _drawn(Draws(read_space(_config(values)), "data", seed=1), 20)
    assert found[0]["values"] == {"model.width": 64, "model.heads": 4, "model.latents": 8}
    assert [each["number"] for each in found] == [0, 1, 2, 3]
    assert len({each["model_id"] for each in found}) == 4
    assert all(each["values"]["model.width"] % each["values"]["model.heads"] == 0 for each in found)


def test_restored_draws_go_on_as_they_would_have(tmp_path: Path) -> None:
    space = read_space(_config())
    unbroken = _drawn(Draws(space, "data", seed=3), 6)
    first, second = Draws(space, "data", seed=3), Draws(space, "data", seed=99)
    assert _drawn(first, 3) == unbroken[:3]
    first.save(str(tmp_path / "draws"))
    second.restore(str(tmp_path / "draws"))
    later = [second.suggest(f"later{number}") for number in range(2)]
    assert later[0] == unbroken[3]
    assert later[1]["number"] == 4  # type: ignore[index]


def _trial(record: Record) -> Trial:
    config = {"number": record.number, "model_id": record.model_id, "values": record.values}
    return Trial("tune_trial", config=config, trial_id=record.trial_id, stub=True)


def _decisions(records: Records, record: Record) -> list[str]:
    halving = Halving(records, EPOCHS, grace_epochs=3, factor=3.0)
    for each in records.all():
        halving.on_trial_add(None, _trial(each))
    trial = _trial(record)
    halving.on_trial_add(None, trial)
    return [halving.on_trial_result(None, trial, step) for step in record.course]


def test_halving_remembers_the_trials_before_a_restart(tmp_path: Path) -> None:
    records = Records(Workspace(tmp_path), "trials")
    worse = _record(7, [3.0, 2.5, 2.0, 1.9])
    assert set(_decisions(records, worse)) == {TrialScheduler.CONTINUE}
    for number in range(3):
        records.write(_record(number, [2.0, 1.5, 1.0 + 0.1 * number]))
    assert _decisions(records, worse)[:3] == ["CONTINUE", "CONTINUE", "STOP"]
    better = _record(8, [2.0, 1.5, 0.9])
    assert set(_decisions(records, better)) == {TrialScheduler.CONTINUE}


def test_a_trial_that_took_all_epochs_ends_by_itself(tmp_path: Path) -> None:
    records = Records(Workspace(tmp_path), "trials")
    whole = _record(0, [2.0 - 0.1 * epoch for epoch in range(EPOCHS)])
    assert _decisions(records, whole)[-1] == TrialScheduler.CONTINUE


def test_status_lists_a_tuning_that_was_interrupted(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    records = records_of(workspace, "folded-12345678")
    for number, (course, state) in enumerate([([2.0], DONE), ([1.5], DONE), ([9.0], RUNNING)]):
        records.write(_record(number, course, state))
    found = raypipe.status(workspace)
    (tuning,) = found["tunings"]
    assert tuning["trials"] == {DONE: 2, RUNNING: 1}
    assert tuning["best"] == "folded-1"
    assert "tuning folded-12345678: 2 done, 1 running, best folded-1; not finished" in "\n".join(
        status_lines(found)
    )


def test_the_recorder_keeps_what_trials_report(tmp_path: Path) -> None:
    records = Records(Workspace(tmp_path), "trials")
    (tmp_path / "checkpoints" / "folded-2").mkdir(parents=True)
    recorder = Recorder(records, EPOCHS)
    ends = {
        0: [{"epochs": 1, CASH: 2.0, "seconds_of_epochs": 1.0, "finished": True}],
        1: [{"epochs": 1, CASH: 3.0, "seconds_of_epochs": 1.0}],
        2: [{"epochs": 0, CASH: float("inf"), "failure": "not finite"}],
    }
    for number, reports in ends.items():
        trial = _trial(_record(number, []))
        recorder.on_trial_start(0, [], trial)
        assert records.read(f"folded-{number}").status == RUNNING  # type: ignore[union-attr]
        for report in reports:
            recorder.on_trial_result(0, [], trial, report)
        recorder.on_trial_complete(0, [], trial)
    found = records.all()
    assert [each.status for each in found] == [DONE, STOPPED, FAILED]
    assert [each.cash for each in found] == [2.0, 3.0, None]
    assert [each.began_here for each in found] == [True, True, False]
    assert found[2].reason == "not finite"
    recorder.on_trial_result(0, [], _trial(found[0]), {"epochs": 5, CASH: 9.0})
    assert records.read("folded-0") == found[0]


def _trials() -> list[Record]:
    failed = _record(2, [], FAILED, **{"model.latents": 4, "train.learning_rate": 1e-2})
    failed.reason = "the loss is not finite"
    return [
        _record(0, [1.5, 1.2], **{"model.latents": 8, "train.learning_rate": 2e-3}),
        _record(1, [1.1], STOPPED, **{"model.latents": 4, "train.learning_rate": 5e-3}),
        failed,
        _record(3, [1.4, 1.15], **{"model.latents": 2, "train.learning_rate": 1e-3}),
    ]


def test_the_best_came_to_its_end_where_one_did() -> None:
    trials = _trials()
    assert best_of(trials) is trials[3]
    assert best_of(trials[1:3]) is trials[1]
    assert best_of(trials[2:3]) is None


def test_the_table_has_a_row_a_trial() -> None:
    trials = _trials()
    table = table_of(trials).to_pylist()
    assert [row["trial"] for row in table] == [0, 1, 2, 3]
    assert [row["validation_cash"] for row in table] == [1.2, 1.1, None, 1.15]
    assert table[2]["reason"] == "the loss is not finite"
    assert (table[1]["model.latents"], table[1]["epochs"], table[1]["seconds"]) == (4, 1, 2.0)
    lines = table_lines(trials, trials[3])
    assert [line.split()[0] for line in lines[1:]] == ["1", "3", "0", "2"]
    assert lines[2].endswith("best")
    assert lines[3].endswith("as configured")
    assert "failed, the loss is not finite" in lines[4]
    many = [_record(number, [1.0 - 0.01 * number]) for number in range(14)]
    lines = table_lines(many, many[13])
    assert len(lines) == 1 + 10 + 1 + 1
    assert "as configured" in lines[-2]
    assert lines[-1] == "and 3 more"
    assert all(one.cash <= other.cash for one, other in pairwise(ranked(many)))  # type: ignore[operator]


@pytest.mark.parametrize("kept", [1, 4])
def test_the_figure_is_drawn_of_any_number_of_trials(kept: int) -> None:
    trials = _trials()[:kept]
    space = read_space(
        _config({"model.latents": [2, 4], "train.learning_rate": {"low": 1e-3, "high": 1e-2}})
    )
    best = best_of(trials)
    assert best is not None
    image = matplotlib.image.imread(io.BytesIO(parallel_coordinates(trials, best, space)))
    red = np.abs(image[..., :3] - np.array([0xD1, 0x49, 0x5B]) / 255).max(-1) < 0.02
    assert red.sum() > 1000, "the best trial's line"


def test_a_tuning_is_named_by_what_it_tries_not_by_where() -> None:
    config = _config()
    name = tune_id_of(config, "data")
    assert name == tune_id_of(_config(train={"num_workers": 1}), "data")
    assert name != tune_id_of(config, "other data")
    for other in {"trials": 3}, {"seed": 1}, {"space": {"model.latents": [2]}}:
        assert tune_id_of(load_config(settings={"tune": other}), "data") != name
    at_once = load_config(settings={"tune": TuneConfig(concurrent_trials=4).model_dump()})
    assert tune_id_of(at_once, "data") == name
