"""The command line as a user types it, in processes of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import raypipe
from raypipe.workspace import Workspace

SMALL = [
    *("--set", "discover.part_rows=100"),
    *("--set", "model.width=16", "--set", "model.depth=1", "--set", "model.heads=2"),
    *("--set", "model.decoder_width=32", "--set", "train.epochs=3", "--set", "train.batch_size=16"),
    *("--set", "evaluate.folds=2", "--set", "ray.num_cpus=2"),
]


def _raypipe(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "raypipe.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_whole_road(tmp_path: Path, shared_data: Path) -> None:
    """Simulate, run, status; then real products with the trained model."""
    survey, workspace = tmp_path / "survey", tmp_path / "w"
    _raypipe("simulate", "--detections", "300", "--seed", "5", "--out", str(survey))
    truth = str(survey / "truth.parquet")
    run = ["run", "--workspace", str(workspace), "--source", str(survey), "--catalog", truth]
    answer = json.loads(_raypipe(*run, "--labels", truth, *SMALL, "--json").stdout)
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
    state = json.loads(_raypipe("status", "--workspace", str(workspace), "--json").stdout)
    assert state["releases"][0]["complete"]
    assert state["releases"][0]["rows"]["manifest"] == 300

    real = tmp_path / "real"
    bundle = str(workspace / "models" / answer["model_id"])
    source = ["--workspace", str(real), "--source", str(shared_data / "csc")]
    answer = json.loads(_raypipe("run", *source, "--model", bundle, *SMALL, "--json").stdout)
    catalog = raypipe.open_catalog(real)
    assert len(catalog) == 6
    assert catalog["fit_zscore"].notna().all()
    page = Path(answer["report"]).read_text()
    assert "HRC has almost no energy resolution" in page
    text = _raypipe("status", "--workspace", str(real)).stdout
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
def test_bad_usage_ends_with_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    filled = [argument.format(w=tmp_path) for argument in arguments]
    assert said in _raypipe(*filled, code=2).stderr


def test_a_failure_ends_with_1_and_says_so_in_json(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "acisf00001_000N001_r0001_pha3.fits.gz").write_text("not a spectrum")
    _raypipe("discover", "--workspace", str(tmp_path / "w"), "--source", str(tmp_path / "s"))
    _raypipe("ingest", "--workspace", str(tmp_path / "w"))
    done = _raypipe("train", "--workspace", str(tmp_path / "w"), "--json", code=1)
    assert "too few to train on" in json.loads(done.stdout)["error"]


def test_an_interrupted_ingest_is_completed_by_the_same_command(
    survey: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "w")
    small = ["--set", "discover.part_rows=5", "--set", "ray.num_cpus=1"]
    _raypipe("discover", "--workspace", workspace.uri, "--source", str(survey), *small)
    process = subprocess.Popen(
        [sys.executable, "-m", "raypipe.cli", "ingest", "--workspace", workspace.uri, *small],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not workspace.files("spectra/sim") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    done_before = workspace.files("spectra/sim")
    assert 0 < len(done_before) < 32
    _raypipe("ingest", "--workspace", workspace.uri, *small)
    spectra = workspace.read_folder("spectra/sim").to_pandas()
    truth = pd.read_parquet(survey / "truth.parquet")
    assert sorted(spectra["detection_id"]) == sorted(truth["detection_id"])
