"""The options of each verb are the parameters of its function, each with one help text."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import pytest

import raypipe
from raypipe import cli
from raypipe.cli_options import (
    EXACTLY_ONE,
    ONLY_IN_PYTHON,
    OPTIONS,
    POSITIONAL,
    SPECIAL_OPTIONS,
    VERBS,
    options_of,
    parameters_of,
)

COMMON = {"help", "config", "settings", "verbose", "log_format", "json"}
PLAIN_TYPES = {"int": int, "float": float, "int | None": int, "bool": None}


def _signature(verb: str) -> list[inspect.Parameter]:
    return list(inspect.signature(getattr(raypipe, verb)).parameters.values())


def _options(verb: str) -> dict[str, argparse.Action]:
    """What argparse knows of a verb, without the options that all verbs have."""
    verbs: Any = next(
        action
        for action in cli.build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    actions = verbs.choices[verb]._actions
    return {action.dest: action for action in actions if action.dest not in COMMON}


@pytest.mark.parametrize("verb", VERBS)
def test_the_source_tells_the_signature_that_an_import_would(verb: str) -> None:
    told = [(each.name, each.type, each.is_required) for each in parameters_of(verb)]
    assert told == [
        (each.name, each.annotation, each.default is inspect.Parameter.empty)
        for each in _signature(verb)
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_each_parameter_is_an_option_of_its_type(verb: str) -> None:
    options = _options(verb)
    parameters = {each.name: each for each in _signature(verb)}
    not_options = {"config"} | ONLY_IN_PYTHON.get(verb, set())
    assert set(options) == set(parameters) - not_options
    for name, action in options.items():
        parameter = parameters[name]
        is_optional = parameter.default is not inspect.Parameter.empty
        assert action.required is not is_optional, name
        if name not in POSITIONAL:
            assert action.type is PLAIN_TYPES.get(str(parameter.annotation), str)
            assert (action.nargs == 0) is (parameter.annotation == "bool")


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_has_a_help_text_of_its_own(verb: str) -> None:
    texts = [action.help for action in _options(verb).values()]
    assert all(texts)
    assert len(set(texts)) == len(texts)


def test_no_help_text_is_left_over() -> None:
    used = {(verb, option.name) for verb in VERBS for option in options_of(verb)}
    assert set(SPECIAL_OPTIONS) <= used
    assert set(OPTIONS) == {name for verb, name in used if (verb, name) not in SPECIAL_OPTIONS}
    for verb, names in ONLY_IN_PYTHON.items():
        assert names <= {each.name for each in parameters_of(verb)}


def test_the_verbs_are_the_public_functions_that_take_a_workspace() -> None:
    without = {"simulate", "settings", "describe", "models"}
    taking_one = {
        name
        for name in raypipe.public_names()
        if inspect.isfunction(getattr(raypipe, name))
        and "workspace" in inspect.signature(getattr(raypipe, name)).parameters
    }
    assert set(VERBS) - without == taking_one - {
        "models",  # the model in the box needs no workspace
        "open_catalog",
        "open_clusters",
        "open_search",
        "open_sources",
    }


@pytest.mark.parametrize("given", [[], ["--strangest", "--detection", "sim:1.0.1"]])
def test_a_search_takes_exactly_one_query(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["search", "--workspace", "w", *given])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "not allowed with argument" in said if given else "one of the arguments" in said
    assert all(f"--{name}" in said for name in EXACTLY_ONE["search"])


def _called_with(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], answer: Any = None
) -> dict[str, Any]:
    """Run a command whose function only notes its arguments."""
    noted: dict[str, Any] = {}

    def note(**given: Any) -> Any:
        noted.update(given)
        return answer

    monkeypatch.setattr(raypipe, arguments[0], note, raising=False)
    assert cli.main(arguments) == 0
    return noted


def test_a_function_gets_what_was_typed_and_keeps_its_other_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = ["plan", "--workspace", "w", "--sample", "7", "--set", "ingest.rmf=exact", "--json"]
    given = _called_with(monkeypatch, plan, {})
    assert given.pop("config").ingest.rmf == "exact"
    assert given == {"workspace": "w", "sample": 7}
    given = _called_with(monkeypatch, ["compare", "--workspace", "w", "csc2.0", "csc2.1"])
    assert (given["first"], given["second"]) == ("csc2.0", "csc2.1")


def test_a_verb_says_what_it_loads_before_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(cli._LOADS) == set(VERBS) - {"simulate", "status", "models", "settings"}
    _called_with(monkeypatch, ["train", "--workspace", "w"], "folded-1")
    printed = capsys.readouterr()
    assert "train: loading Ray and PyTorch\n" in printed.err
    assert printed.out == "model_id: folded-1\n"


def test_options_of_simulate_win_over_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["--set", "simulate.detections=5", "--set", "simulate.counts_max=70"]
    monkeypatch.setattr(cli, "_answer", lambda *_: None)
    given = _called_with(monkeypatch, ["simulate", "--out", "s", "--seed", "3", *settings])
    assert given == {
        "out": "s", "seed": 3, "detections": 5, "visits": 1, "counts_min": 50, "counts_max": 70,
    }  # fmt: skip
