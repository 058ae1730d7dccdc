"""The wrapper of all verbs: what it gives to the function, and what it shows to callers."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import get_type_hints

import pytest

from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb


@verb
def measure(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    config: Config | None = None,
) -> str:
    """Measure a release."""
    if release is None:
        raise UsageError("no release")
    with call.recorded() as figures:
        figures["release"] = release
    return f"{call.verb} {release} with {call.config.train.epochs} epochs"


def test_callers_see_the_function_without_the_call() -> None:
    assert list(signature(measure).parameters) == ["workspace", "release", "config"]
    assert set(get_type_hints(measure)) == {"workspace", "release", "config", "return"}
    assert (measure.__name__, measure.__doc__) == ("measure", "Measure a release.")


def test_the_workspace_is_opened_and_the_settings_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[train]\nepochs = 7\n")
    for workspace in tmp_path / "w", str(tmp_path / "w"), Workspace(tmp_path / "w"):
        for config in {"train": {"epochs": 7}}, tmp_path / "c.toml":
            said = measure(workspace, release="r", config=config)  # type: ignore[arg-type]
            assert said == "measure r with 7 epochs"
    assert measure(workspace=tmp_path / "w", release="r") == (
        f"measure r with {Config().train.epochs} epochs"
    )


def test_the_run_is_recorded_from_where_the_checks_end(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    with pytest.raises(UsageError, match="no release"):
        measure(workspace)
    assert not (tmp_path / "w").exists()
    measure(workspace, release="r")
    (run,) = workspace.folders("runs")
    assert run.endswith("-measure")
    assert workspace.read_json(f"runs/{run}/run.json")["figures"] == {"release": "r"}


def test_a_call_with_wrong_arguments_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="workspace"):
        measure()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="releas"):
        measure(tmp_path, releas="r")  # type: ignore[call-arg]
