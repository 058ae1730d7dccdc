"""Every verb opens a catalog with rows that have no latents, with such rows alone, and empty."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import raypipe
from raypipe.catalog.schema import NOT_MEASURED, flagged
from raypipe.errors import UsageError
from raypipe.evaluation.evaluate import evaluate
from raypipe.exporting.export import export
from raypipe.model.bundle import load_model
from raypipe.pipeline.status import status
from raypipe.reporting.report import report
from raypipe.reprocessing.compare import compare
from raypipe.searching.search import search
from raypipe.store.layout import model_folder
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.spectra_release import MEASURED
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace, publish_table

ROWS = 120
LOST = [0, 1, 5, 60, 61]
FOLDED, PAPER = "folded-test", "paper-test"


def unmeasured(table: pa.Table, rows: list[int]) -> pa.Table:
    """The table with some rows as `embed` leaves those that it could not measure."""
    lost = np.isin(np.arange(len(table)), rows)
    columns = {}
    for name in table.column_names:
        column = table[name]
        if re.fullmatch(MEASURED, name):
            values = column.to_pylist()
            kept = [None if is_lost else v for v, is_lost in zip(values, lost, strict=True)]
            column = pa.array(kept, column.type)
        columns[name] = column
    columns["flags"] = flagged(table["flags"], lost, NOT_MEASURED)
    return pa.table(columns, schema=table.schema)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Catalogs of two presets; detections 0, 1 (of sources 0 and 0), 5, 60 and 61 have no latents.

    Sources are of two detections: that of 60 and 61 has none either, that of 5 is partly measured.
    """
    made = make_workspace(tmp_path_factory.mktemp("w"), ROWS, presets=("folded", "paper"))
    for model_id in made.models:
        table = read_detections(made.workspace, RELEASE, model_id).sort_by("obsid")
        publish(made.workspace, model_id, unmeasured(table, LOST))
    return made


@pytest.fixture(params=[FOLDED, PAPER])
def model_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def publish(workspace: Workspace, model_id: str, table: pa.Table) -> None:
    publish_table(workspace, load_model(workspace.absolute_uri(model_folder(model_id))), table)


def test_sources_say_how_much_of_them_is_measured(made: Synthetic, model_id: str) -> None:
    sources = raypipe.open_sources(made.workspace, model=model_id).set_index("name")
    assert sources.loc["2CXO J000030", "flags"] == NOT_MEASURED
    assert sources.loc["2CXO J000002", "flags"] == "partly_measured"
    assert sources.loc["2CXO J000003", "flags"] == ""
    lost = sources["flags"] == NOT_MEASURED
    shares = [name for name in sources if name.startswith("p_")]
    assert sources.loc[lost, ["z0", "anomaly_score", *shares]].isna().all(axis=None)
    assert sources.loc[~lost, ["z0", "anomaly_score", *shares]].notna().all(axis=None)
    assert sources.loc[~lost, "z0_std"].notna().all() == (model_id == FOLDED)


def test_evaluate_leaves_them_out_and_counts_them(made: Synthetic, model_id: str) -> None:
    data = evaluate(made.workspace, model=model_id, labels=made.truth)["data"]
    assert data["n_catalog_rows"] == ROWS
    assert data["n_rows_without_latents"] == len(LOST)


def test_evaluate_compares_catalogs_that_lack_different_rows(
    made: Synthetic, tmp_path: Path
) -> None:
    table = read_detections(made.workspace, RELEASE, PAPER)
    try:
        publish(made.workspace, PAPER, unmeasured(table, list(range(30))))
        rows = evaluate(made.workspace, model=FOLDED, labels=made.truth)["comparison"]
    finally:
        publish(made.workspace, PAPER, table)
    (paper,) = (row for row in rows if row["model_id"] == PAPER)
    assert re.search(r"\d+ of the detections have no latents there: left out", paper["note"])
    assert paper["cash_per_bin"] is not None


def test_the_report_counts_them(made: Synthetic, model_id: str) -> None:
    page = Path(report(made.workspace, model=model_id, labels=made.truth)).read_text()
    assert f"{len(LOST)} detections could not be measured" in page
    assert ">nan<" not in page


def test_search_finds_none_of_them(made: Synthetic, model_id: str) -> None:
    answer = search(made.workspace, model=model_id, strangest=True, k=ROWS)
    assert len(answer) == 2 * (ROWS - len(LOST))
    assert not answer["flags"].str.contains(NOT_MEASURED).any()
    near = search(made.workspace, model=model_id, detection="sim:3.0.1", k=ROWS)
    assert len(near) == ROWS - len(LOST) - 1
    for asked in {"detection": "sim:60.0.1"}, {"name": "2CXO J000030"}:
        with pytest.raises(UsageError, match="not measured"):
            search(made.workspace, model=model_id, **asked)


@pytest.mark.parametrize("format", ["fits", "votable", "parquet", "hats"])
def test_exports_hold_them(made: Synthetic, format: str, tmp_path: Path) -> None:
    for sources in (False, True):
        export(made.workspace, format=format, model=FOLDED, sources=sources, out=tmp_path)
    if format == "parquet":
        assert pd.read_parquet(tmp_path / "detections.parquet")["z0"].isna().sum() == len(LOST)


def test_compare_knows_no_shift_of_theirs(made: Synthetic) -> None:
    answer = compare(made.workspace, RELEASE, RELEASE, model=FOLDED)
    table = pd.read_parquet(answer["table"]).set_index("name")
    assert answer["sources"]["not_compared"] == table["shift"].isna().sum() > 0
    assert np.isnan(table.loc["2CXO J000030", "shift"])
    assert pd.isna(table.loc["2CXO J000030", "class_first"])
    assert not table["moved"].any()


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_measured_at_all(rows: int, tmp_path: Path, model_id: str) -> None:
    made = make_workspace(tmp_path, 8, presets=(model_id.partition("-")[0],))
    workspace = made.workspace
    table = read_detections(workspace, RELEASE, model_id).slice(0, rows)
    publish(workspace, model_id, unmeasured(table, list(range(rows))))
    assert len(raypipe.open_catalog(workspace)) == rows
    assert raypipe.open_sources(workspace)["z0"].isna().all()
    metrics = evaluate(workspace, labels=made.truth)
    assert metrics["data"]["n_rows"] == 0
    assert metrics["data"]["n_rows_without_latents"] == rows
    assert metrics["summary"]["knn_balanced_accuracy"]["reason"]
    assert Path(report(workspace, labels=made.truth)).exists()
    assert search(workspace, strangest=True).empty
    with pytest.raises(UsageError, match=r"not measured|no detection of this name"):
        search(workspace, detection="sim:0.0.1")
    for format in "fits", "votable", "parquet":
        assert Path(export(workspace, format=format, out=tmp_path / "out")).exists()
    assert compare(workspace, RELEASE, RELEASE)["sources"]["moved"] == 0
    (catalog,) = status(workspace)["releases"][0]["catalogs"]
    assert catalog["rows"] == rows
