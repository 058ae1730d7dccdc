"""A new release made from an earlier one is the one made from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import raypipe
from raypipe.cli import main
from raypipe.config_toml import load_config
from raypipe.errors import UsageError
from raypipe.store.publication import require_publication
from raypipe.store.workspace import Workspace
from tests.alone import embed_alone, ingest_alone
from tests.pipeline.training import SETTINGS

pytestmark = pytest.mark.usefixtures("local_ray")

DRAWN = "_mean", "_sd", "_lolim", "_hilim", "posterior_ess", "hard_hs", "hard_hm", "hard_ms"
"""Endings of the columns that are computed from chosen draws of the posterior."""
PRODUCTS = "pha3", "arf3", "rmf3"
CONFIG = {**SETTINGS, "embed": {"cpus_per_actor": 0.5, "actors": 1}}
MODEL = str(Path(__file__).resolve().parents[1] / "data" / "bundle-format-2")


@pytest.fixture(scope="module")
def next_survey(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The survey again: two spectra of a newer version, one detection gone, one more."""
    folder = tmp_path_factory.mktemp("next") / "survey"
    shutil.copytree(survey, folder, copy_function=shutil.copyfile)
    phas = sorted(folder.rglob("*_pha3.fits*"))
    first, second, third, fourth, other = phas[3], phas[40], phas[77], phas[90], phas[120]
    for changed in first, second:
        assert "N001" in changed.name
        shutil.copyfile(other, changed.with_name(changed.name.replace("N001", "N002")))
        changed.unlink()
    third.unlink()
    for product in PRODUCTS:
        old = fourth.with_name(fourth.name.replace("pha3", product))
        region = old.name.split("_r")[1][:4]
        shutil.copyfile(old, old.with_name(old.name.replace(f"_r{region}", "_r9999")))
    return folder


def make(workspace: Path, source: Path, release: str) -> str:
    """A release's catalog, from scratch and without Ray."""
    raypipe.discover(
        workspace,
        source=str(source),
        release=release,
        catalog=source / "truth.parquet",
        config=CONFIG,
    )
    ingest_alone(Workspace(workspace), release)
    return embed_alone(Workspace(workspace), release, MODEL, CONFIG)


def table(workspace: Path, release: str) -> pd.DataFrame:
    catalog = raypipe.open_catalog(workspace, release=release)
    return catalog.sort_values("detection_id", ignore_index=True)


def assert_equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert list(one.columns) == list(other.columns)
    for name in one:
        if name == "z_cov":
            np.testing.assert_allclose(np.stack(one[name]), np.stack(other[name]), atol=1e-4)
        elif name.endswith(DRAWN):
            # Another batch rounds a row differently, which can exchange some of its 64 draws.
            close = np.isclose(one[name], other[name], rtol=0.1, atol=0.1, equal_nan=True)
            assert close.mean() > 0.98, name
            np.testing.assert_allclose(one[name], other[name], rtol=0.5, atol=0.5, err_msg=name)
        elif one[name].dtype.kind == "f":
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-3, err_msg=name)
        else:
            pd.testing.assert_series_equal(one[name], other[name])


def test_only_what_changed_is_done(survey: Path, next_survey: Path, tmp_path: Path) -> None:
    workspace, scratch = tmp_path / "w", tmp_path / "scratch"
    model_id = make(workspace, survey, "r1")
    before = table(workspace, "r1")
    new = {"release": "r2", "source": str(next_survey)}
    new["catalog"] = str(next_survey / "truth.parquet")
    answer = raypipe.reprocess(workspace, **new, config=CONFIG)
    assert answer["changes"] == {"same": 157, "changed": 2, "new": 1, "vanished": 1}
    assert answer["rows"]["manifest"] == 160
    assert (answer["base"], answer["model_id"]) == ("r1", model_id)
    runs = Workspace(workspace)
    ingested, embedded = (figures(runs, verb) for verb in ("ingest", "embed"))
    assert ingested["work"]["kept"] == 157
    assert (embedded["work"]["kept"], embedded["work"]["rows"]) == (157, 3)
    changes = runs.read_folder("changes/r2").to_pandas()
    gone = changes[changes["change"] == "vanished"]
    assert gone["previous_id"].notna().all()
    assert gone["detection_id"].isna().all()

    make(scratch, next_survey, "r2")
    assert_equal(table(workspace, "r2"), table(scratch, "r2"))
    sources = [
        raypipe.open_sources(each, release="r2").sort_values("name", ignore_index=True)
        for each in (workspace, scratch)
    ]
    assert_equal(*sources)
    pd.testing.assert_frame_equal(table(workspace, "r1"), before)

    again = require_publication(runs, "r2", model_id)
    assert raypipe.reprocess(workspace, **new, config=CONFIG)["changes"] == answer["changes"]
    assert require_publication(runs, "r2", model_id) == again
    assert "work" not in figures(runs, "embed")

    settings = tmp_path / "settings.toml"
    settings.write_text(load_config(settings=CONFIG).to_toml())
    arguments = [word for name, value in new.items() for word in (f"--{name}", value)]
    nightly = ["reprocess", "--workspace", str(workspace), "--base", "r1", *arguments]
    parts = runs.files("spectra/r2") + list(again.parts)
    written = [runs.modified(name) for name in parts]
    assert main([*nightly, "--config", str(settings)]) == 0
    assert [runs.modified(name) for name in parts] == written
    assert "work" not in figures(runs, "ingest")
    assert require_publication(runs, "r2", model_id) == again


def test_carried_rejects_stay_rejects(survey: Path, tmp_path: Path) -> None:
    source, workspace = tmp_path / "survey", tmp_path / "w"
    shutil.copytree(survey, source)
    broken = sorted(source.rglob("*_pha3.fits*"))[5]
    broken.write_bytes(b"SIMPLE  = nothing")
    make(workspace, source, "r1")
    moved = shutil.move(source, tmp_path / "moved")
    answer = raypipe.reprocess(workspace, release="r2", source=str(moved), config=CONFIG)
    assert answer["changes"]["same"] == 160
    store = Workspace(workspace)
    assert figures(store, "ingest")["work"]["kept"] == 160
    (reject,) = store.read_folder("rejects/r2").to_pylist()
    assert reject["uri"] == str(tmp_path / "moved" / broken.relative_to(source))
    assert set(table(workspace, "r2")["source_uri"].str.startswith(str(moved))) == {True}


def test_what_there_is_to_go_on_from(survey: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no catalog of an earlier release"):
        raypipe.reprocess(tmp_path / "w", release="r2", source=str(survey), config=CONFIG)
    make(tmp_path / "w", survey, "r1")
    with pytest.raises(UsageError, match="no catalog of r0 to start from; it has r1"):
        raypipe.reprocess(tmp_path / "w", release="r2", source=str(survey), base="r0")


def figures(workspace: Workspace, verb: str) -> dict[str, Any]:
    """What the last run of a verb wrote down."""
    last = max(name for name in workspace.folders("runs") if name.endswith(f"-{verb}"))
    found: dict[str, Any] = workspace.read_json(f"runs/{last}/run.json")["figures"]
    return found
