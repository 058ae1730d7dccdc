"""Which figures of two evaluations differ beyond their errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypipe.cli import main
from raypipe.errors import UsageError
from raypipe.evaluation.compare_runs import (
    compare_metrics,
    compare_runs,
    comparison_text,
    figures_of,
)
from raypipe.store.workspace import Workspace


def metrics(accuracy: float, mae: float, excess: float, print_: str = "a") -> dict[str, Any]:
    return {
        "data": {"fingerprint": print_},
        "classification": {
            "knn": {"balanced_accuracy": accuracy, "balanced_accuracy_error": 0.01},
            "recall": {"AGN": 0.5},
        },
        "comparison": [{"representation": "PCA", "r2_log_nh": 0.5, "r2_log_nh_error": 0.1}],
        "study": {
            "quantities": {"log_nh": {"mae": mae, "mae_error": 0.01}},
            "time_domain": {"free": {"value": 0.2, "excess": excess, "error": 0.01}},
            "robustness": {"counts": [{"slice": "20-50", "knn": {"value": 0.3, "error": 0.02}}]},
        },
    }


def test_every_figure_with_an_error_has_a_name() -> None:
    found = dict(figures_of(metrics(0.7, 0.2, 0.1)))
    assert found["classification/knn/balanced_accuracy"] == (0.7, 0.01)
    assert found["comparison/PCA/r2_log_nh"] == (0.5, 0.1)
    assert found["study/robustness/counts/20-50/knn"] == (0.3, 0.02)
    assert found["study/time_domain/free"] == (0.1, 0.01)
    assert len(found) == 5


def test_better_and_worse_are_told_by_direction_and_error() -> None:
    result = compare_metrics(metrics(0.70, 0.20, 0.1), metrics(0.75, 0.30, 0.3))
    verdicts = {each["figure"]: each["verdict"] for each in result["figures"]}
    assert verdicts == {
        "classification/knn/balanced_accuracy": "better",
        "comparison/PCA/r2_log_nh": "same",
        "study/quantities/log_nh/mae": "worse",
        "study/time_domain/free": "different",
        "study/robustness/counts/20-50/knn": "same",
    }
    within = compare_metrics(metrics(0.70, 0.2, 0.1), metrics(0.71, 0.2, 0.1))
    assert {each["verdict"] for each in within["figures"]} == {"same"}
    assert within["same_detections"]
    other = metrics(0.7, 0.2, 0.1)
    other["data"]["n_sources"] = 7
    assert not compare_metrics(metrics(0.7, 0.2, 0.1), other)["same_detections"]


def test_the_text_begins_with_the_largest_difference(tmp_path: Path) -> None:
    for name, each in (("a", metrics(0.7, 0.2, 0.1)), ("b", metrics(0.9, 0.25, 0.1, "b"))):
        (tmp_path / f"{name}.json").write_text(json.dumps(each))
    runs = (str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    lines = comparison_text(compare_runs(Workspace(tmp_path), None, runs)).splitlines()
    assert lines[1].startswith("better    classification/knn/balanced_accuracy: 0.7 -> 0.9")
    assert lines[2].startswith("worse     study/quantities/log_nh/mae")
    assert lines[3].startswith("3 of 5 figures differ by less than 2 sigma")
    assert lines[4].startswith("they judge different detections")
    assert len(lines) == 5


@pytest.mark.parametrize("content", ["not json", "[]", '{"other": 1}'])
def test_what_is_no_metrics_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    runs = (str(tmp_path / "m.json"), str(tmp_path / "m.json"))
    with pytest.raises(UsageError, match=r"m\.json"):
        compare_runs(Workspace(tmp_path), None, runs)


def test_the_command_line_prints_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(metrics(0.7, 0.2, 0.1)))
    (tmp_path / "b.json").write_text(json.dumps(metrics(0.6, 0.2, 0.1)))
    runs = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    command = ["evaluate", "--workspace", str(tmp_path / "W"), "--compare", *runs]
    assert main(command) == 0
    assert "worse     classification/knn/balanced_accuracy" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"][0]["verdict"] == "worse"
    assert not (tmp_path / "W").exists()


def test_a_model_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        compare_runs(Workspace(tmp_path), "sim", ("folded-1", "folded-2"))
