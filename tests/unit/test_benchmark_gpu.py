"""The check of a GPU: what it needs, what it compares, and that it runs where there is none."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu.agreement import Agreement, compare
from benchmarks.gpu.report import report
from benchmarks.gpu.synthetic import COUNTS, draw_spectra, repeated
from benchmarks.gpu.training_speed import train_network
from raypipe.config import Config

ON_CPU = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--small"]


def check(*options: str) -> None:
    done = subprocess.run([*ON_CPU, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_needs_only_the_packages_that_are_named() -> None:
    forbidden = ("ray", "pyarrow.parquet", "astropy", "xraydb", "boto3", "matplotlib")
    code = (
        "import sys, benchmarks.gpu_check; "
        f"print([name for name in {forbidden} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_runs_without_a_gpu_and_marks_what_there_was_no_time_for(tmp_path: Path) -> None:
    table, numbers = tmp_path / "table.md", tmp_path / "numbers.json"
    check("--minutes", "0", "--table", str(table), "--json", str(numbers))
    results = json.loads(numbers.read_text())
    assert all(each["holds"] and each["deviation"] == 0.0 for each in results["agreement"])
    assert all(each["spectra_per_s"] > 0 for each in results["embedding"])
    assert results["training"] == []
    assert "Not measured, for lack of time: float32, steps of 64; tf32" in table.read_text()


@pytest.mark.slow
def test_it_measures_training_in_each_arithmetic(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    check("--json", str(numbers))
    results = json.loads(numbers.read_text())
    kinds = ("float32", "tf32", "bfloat16")
    ways = [*kinds, *(f"{kind}, compiled" for kind in kinds)]
    assert [each["way"] for each in results["training"]] == ways
    assert "| bfloat16, compiled | 64 |" in report(results)


def test_networks_that_differ_do_not_agree() -> None:
    spectra = draw_spectra(64, seed=3)
    network = train_network(Config(), spectra, size=64, epochs=1, device=torch.device("cpu"))
    assert all(each.holds for each in compare(network, copy.deepcopy(network), spectra))
    other = copy.deepcopy(network)
    with torch.no_grad():
        for weights in other.parameters():
            weights += 0.02 * torch.randn_like(weights)
    assert not any(each.holds for each in compare(network, other, spectra))
    assert not Agreement("any", float("nan"), 1.0).holds


def test_drawn_spectra_are_reproducible_and_have_the_counts_that_were_asked_for() -> None:
    spectra, again = draw_spectra(300, seed=5), draw_spectra(300, seed=5)
    np.testing.assert_array_equal(spectra.counts, again.counts)
    assert spectra.is_measurable.all()
    assert (spectra.responses.sum(2) < 1.02).all()
    totals = spectra.counts.sum(1)
    assert totals.min() > 0
    assert np.median(totals) == pytest.approx(np.sqrt(COUNTS[0] * COUNTS[1]), rel=0.5)
    assert repeated(spectra, 700).counts[600].tolist() == spectra.counts[0].tolist()
