"""The command line as a user types it; in a process of its own where a signal is sent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

import raypipe
from raypipe.cli import main
from raypipe.store.workspace import Workspace
from tests.pipeline.processes import training_in_processes
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("local_ray")


class Printed(NamedTuple):
    """What a command wrote to standard output and standard error."""

    out: str
    err: str


Command = Callable[..., Printed]

SMALL = [
    *("--set", "discover.part_rows=100"),
    *("--set", "model.width=16", "--set", "model.depth=1", "--set", "model.heads=2"),
    *("--set", "model.decoder_width=32", "--set", "train.epochs=3", "--set", "train.batch_size=16"),
    *("--set", "evaluate.folds=2", "--set", "ray.num_cpus=2"),
]


@pytest.fixture
def run_raypipe(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a verb in this process; what it printed, if it ends with the exit code given."""

    def command(*arguments: str, code: int = 0) -> Printed:
        capfd.readouterr()
        try:
            ended_with: object = main(arguments)
        except SystemExit as usage:
            ended_with = usage.code
        printed = Printed(*capfd.readouterr())
        assert ended_with == code, printed.out + printed.err
        return printed

    return command


def test_the_whole_road(tmp_path: Path, shared_data: Path, run_raypipe: Command) -> None:
    """Simulate, run, status; then real products with the trained model."""
    survey, workspace = tmp_path / "survey", tmp_path / "w"
    run_raypipe("simulate", "--detections", "300", "--seed", "5", "--out", str(survey))
    truth = str(survey / "truth.parquet")
    run = ["run", "--workspace", str(workspace), "--source", str(survey), "--catalog", truth]
    run += ["--train", "--set", 'evaluate.baseline_presets=["paper"]']
    with training_in_processes():
        answer = json.loads(run_raypipe(*run, "--labels", truth, *SMALL, "--json").out)
    assert len(answer["figures"]) == 3
    metrics = json.loads(Path(answer["metrics"]).read_text())
    assert metrics["model_id"] == answer["model_id"]
    page = Path(answer["report"]).read_text()
    assert "<html" in page
    assert answer["model_id"] in page
    assert len(raypipe.open_catalog(workspace)) == 300
    assert {name.split("-")[0] for name in Workspace(workspace).folders("models")} == {
        "folded",
        "paper",
    }
    state = json.loads(run_raypipe("status", "--workspace", str(workspace), "--json").out)
    assert state["releases"][0]["complete"]
    assert state["releases"][0]["rows"]["manifest"] == 300

    real = tmp_path / "real"
    bundle = str(workspace / "models" / answer["model_id"])
    source = ["--workspace", str(real), "--source", str(shared_data / "csc")]
    answer = json.loads(run_raypipe("run", *source, "--model", bundle, *SMALL, "--json").out)
    catalog = raypipe.open_catalog(real)
    assert len(catalog) == 6
    assert catalog["fit_zscore"].notna().all()
    page = Path(answer["report"]).read_text()
    assert "HRC has almost no energy resolution" in page
    text = run_raypipe("status", "--workspace", str(real)).out
    assert "7 detections = 6 spectra + 1 rejects" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ingest"], "--workspace"),
        (["frobnicate"], "invalid choice"),
        (["ingest", "--workspace", "{w}"], "no release"),
        (["ingest", "--workspace", "{w}", "--set", "ingest.theads=3"], "ingest.theads"),
        (["discover", "--workspace", "{w}", "--source", "{w}/absent"], "no such folder"),
        (["plan", "--workspace", "{w}", "--cluster", "{w}/absent.yaml"], "give --cluster FILE"),
        (["status", "--workspace", "ftp://host/w"], "ftp"),
        (["simulate", "--out", "{w}/s", "--detections", "0"], "detections"),
    ],
)
def test_bad_usage_ends_with_2(
    tmp_path: Path, arguments: list[str], said: str, run_raypipe: Command
) -> None:
    filled = [argument.format(w=tmp_path) for argument in arguments]
    assert said in run_raypipe(*filled, code=2).err


def test_a_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raypipe.cli", "status", "--workspace", "ftp://host/w"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("raypipe: ")
    assert done.stdout == ""


def test_a_failure_ends_with_1_and_says_so_in_json(tmp_path: Path, run_raypipe: Command) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "acisf00001_000N001_r0001_pha3.fits.gz").write_text("not a spectrum")
    run_raypipe("discover", "--workspace", str(tmp_path / "w"), "--source", str(tmp_path / "s"))
    run_raypipe("ingest", "--workspace", str(tmp_path / "w"))
    done = run_raypipe("train", "--workspace", str(tmp_path / "w"), "--json", code=1)
    assert "too few to train on" in json.loads(done.out)["error"]


def test_an_interrupted_ingest_is_completed_by_the_same_command(
    survey: Path, tmp_path: Path, run_raypipe: Command
) -> None:
    workspace = Workspace(tmp_path / "w")
    small = ["--set", "discover.part_rows=5", "--set", "ray.num_cpus=1"]
    run_raypipe("discover", "--workspace", workspace.uri, "--source", str(survey), *small)
    process = subprocess.Popen(
        [sys.executable, "-m", "raypipe.cli", "ingest", "--workspace", workspace.uri, *small],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: workspace.files("spectra/sim") or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    done_before = workspace.files("spectra/sim")
    assert 0 < len(done_before) < 32
    run_raypipe("ingest", "--workspace", workspace.uri, *small)
    spectra = workspace.read_folder("spectra/sim").to_pandas()
    truth = pd.read_parquet(survey / "truth.parquet")
    assert sorted(spectra["detection_id"]) == sorted(truth["detection_id"])
