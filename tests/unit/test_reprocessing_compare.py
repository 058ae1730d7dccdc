from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

import raypipe
from raypipe.cli import main
from raypipe.errors import UsageError
from raypipe.model.covariance import pack
from raypipe.reprocessing.changes import by_detection, compare_rows
from raypipe.reprocessing.compare import compare_sources
from tests.unit.synthetic_workspace import make_workspace

LATENTS = 8
CLASSES = ("AGN", "YSO")


def sources(rng: np.random.Generator, truth: np.ndarray) -> pd.DataFrame:
    half = rng.normal(size=(len(truth), LATENTS, LATENTS)) * 0.1
    covariance = half @ half.transpose(0, 2, 1) + 0.01 * np.eye(LATENTS)
    scatter = np.linalg.cholesky(covariance) @ rng.normal(size=(len(truth), LATENTS, 1))
    z = truth + scatter[..., 0]
    frame = pd.DataFrame({f"z{i}": column for i, column in enumerate(z.T)})
    frame["z_cov"] = list(pack(covariance))
    frame["name"] = [f"2CXO J{i:06d}" for i in range(len(truth))]
    frame["best_detection_id"] = [f"r1:{i}.0.1" for i in range(len(truth))]
    frame["ra"], frame["dec"] = rng.uniform(0, 360, len(truth)), rng.uniform(-80, 80, len(truth))
    frame["p_AGN"], frame["p_YSO"] = 0.9, 0.1
    return frame


def test_shifts_by_chance_are_told_from_others() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(2000, LATENTS))
    before, now = sources(rng, truth), sources(rng, truth)
    now[["ra", "dec"]] = before[["ra", "dec"]]
    table = compare_sources(before, now, CLASSES)
    assert kstest(table["shift_p"], "uniform").pvalue > 0.01
    assert table["moved"].mean() < 0.01
    assert table["separation_arcsec"].max() == 0.0
    assert not table["reclassified"].any()
    now.loc[3, "z5"] += 5.0
    now.loc[4, ["p_AGN", "p_YSO"]] = 0.2, 0.8
    now.loc[5, "dec"] += 1.0 / 3600
    table = compare_sources(before, now, CLASSES)
    assert table.loc[3, "moved"]
    assert table["reclassified"].to_numpy().nonzero()[0].tolist() == [4]
    assert table.loc[5, "separation_arcsec"] == pytest.approx(1.0, rel=1e-6)


def test_sources_without_latents_have_no_shift() -> None:
    rng = np.random.default_rng(6)
    before = sources(rng, rng.normal(size=(6, LATENTS)))
    now = before.copy()
    now.loc[2, [f"z{i}" for i in range(LATENTS)]] = np.nan
    now.loc[2, ["p_AGN", "p_YSO"]] = np.nan
    now["z_cov"] = [None if i == 2 else each for i, each in enumerate(before["z_cov"])]
    table = compare_sources(before, now, CLASSES)
    assert table["shift"].isna().to_numpy().nonzero()[0].tolist() == [2]
    assert table["class_second"].isna().to_numpy().nonzero()[0].tolist() == [2]
    assert not table[["moved", "reclassified"]].any(axis=None)


def test_sources_of_one_release_are_told() -> None:
    rng = np.random.default_rng(5)
    before = sources(rng, rng.normal(size=(6, LATENTS)))
    now = before.iloc[2:].copy()
    now.loc[5, "name"] = "2CXO J9"
    table = compare_sources(before, now, CLASSES)
    assert (table["in_first"].sum(), table["in_second"].sum(), len(table)) == (6, 4, 7)
    assert table["shift"].notna().sum() == 3
    assert table.loc[table["shift"].notna(), "shift"].max() == 0.0


def test_sources_without_names_go_by_their_detection() -> None:
    rng = np.random.default_rng(6)
    before = sources(rng, rng.normal(size=(2, LATENTS))).assign(name=None)
    now = before.assign(best_detection_id=["r2:0.0.1", "r2:7.0.1"])
    assert compare_sources(before, now, CLASSES)["name"].tolist() == ["0.0.1", "1.0.1", "7.0.1"]


def test_the_verb_writes_a_described_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_workspace(tmp_path, detections=40)
    answer = raypipe.compare(tmp_path, "sim", "sim")
    assert answer["sources"]["both"] > 0
    assert answer["sources"]["moved"] == answer["sources"]["only_first"] == 0
    (name,) = made.workspace.files("comparisons/sim-sim", ".parquet")
    table = made.workspace.read_table(name)
    assert all(field.metadata and field.metadata[b"description"] for field in table.schema)
    with pytest.raises(UsageError, match="no release other"):
        raypipe.compare(tmp_path, "sim", "other")
    assert main(["compare", "sim", "other", "--workspace", str(tmp_path)]) == 2
    assert "no release other" in capsys.readouterr().err


def row(identifier: str, pha: str, stamp: str = "10@1") -> dict[str, str | None]:
    empty = dict.fromkeys(["arf_uri", "rmf_uri", "background_uri"])
    return {"detection_id": identifier, "pha_uri": pha, "files_stamp": stamp, "name": None, **empty}


def test_files_are_the_same_by_name_and_size() -> None:
    before = [row("r1:1.0.1", "a/N001_pha3"), row("r1:2.0.1", "a/x"), row("r1:3.0.1", "a/y")]
    now = [
        row("r2:1.0.1", "s3://b/N001_pha3", "10@2"),
        row("r2:2.0.1", "b/x", "11@1"),
        row("r2:4.0.1", "b/z"),
    ]
    table = compare_rows(by_detection(before), by_detection(now)).to_pylist()
    assert [(each["detection_id"], each["previous_id"], each["change"]) for each in table] == [
        ("r2:1.0.1", "r1:1.0.1", "same"),
        ("r2:2.0.1", "r1:2.0.1", "changed"),
        ("r2:4.0.1", None, "new"),
        (None, "r1:3.0.1", "vanished"),
    ]
