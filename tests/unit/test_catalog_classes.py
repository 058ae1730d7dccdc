"""Classes and latents of a catalog are the model's, whatever other columns are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raypipe
from raypipe.catalog.classes import catalog_classes, most_probable
from raypipe.catalog.schema import brought_field
from raypipe.evaluation.selection import latent_columns
from raypipe.model.bundle import load_model
from raypipe.reprocessing.compare import compare
from raypipe.searching.latent_search import open_search
from raypipe.store.layout import model_folder
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import CLASSES, RELEASE, make_workspace, publish_table


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Workspace]:
    """A catalog, and the same with the columns of a match by NWAY and others that look alike."""
    folder = tmp_path_factory.mktemp("matched")
    plain = make_workspace(folder / "plain").workspace
    beside = Workspace(shutil.copytree(folder / "plain", folder / "beside"))
    table = read_detections(plain, RELEASE, "folded-test")
    rng = np.random.default_rng(2)
    for name in ("p_any", "p_i", "p_single"):
        values = pa.array(rng.uniform(0.9, 1.0, table.num_rows))
        table = table.append_column(brought_field(name, values.type, {}), values)
    model = load_model(beside.absolute_uri(model_folder("folded-test")))
    publish_table(beside, model, table.append_column("z8", pa.array(["?"] * table.num_rows)))
    return plain, beside


def test_probabilities_of_a_match_are_no_classes(matched: tuple[Workspace, Workspace]) -> None:
    plain, beside = matched
    scores = [raypipe.evaluate(each)["classification"]["catalog_probabilities"] for each in matched]
    assert scores[0] == scores[1]
    answers = [open_search(each).like_detection("sim:3.0.1") for each in matched]
    pd.testing.assert_frame_equal(*answers)
    assert set(answers[1]["likely_class"]) <= set(CLASSES)
    assert latent_columns(raypipe.open_catalog(beside)) == [f"z{i}" for i in range(8)]
    shutil.rmtree(beside.path(model_folder("folded-test")))
    assert catalog_classes(beside, RELEASE, "folded-test") == catalog_classes(
        plain, RELEASE, "folded-test"
    )


def test_a_position_that_is_none_compares_with_nothing(
    matched: tuple[Workspace, Workspace], tmp_path: Path
) -> None:
    workspace = Workspace(shutil.copytree(matched[0].root, tmp_path / "w"))
    table = read_detections(workspace, RELEASE, "folded-test")
    dec = pa.array([95.0, 95.0, None, None, np.inf, np.inf] + [-5.0] * (table.num_rows - 6))
    table = table.set_column(table.column_names.index("dec"), "dec", dec)
    model = load_model(workspace.absolute_uri(model_folder("folded-test")))
    publish_table(workspace, model, table)
    answer = compare(workspace, RELEASE, RELEASE)
    rows = pq.read_table(answer["table"]).to_pandas()
    assert rows["separation_arcsec"].isna().sum() >= 3
    assert (rows["separation_arcsec"].dropna() == 0.0).all()
    assert answer["sources"]["both"] == len(rows)


def test_the_most_probable_class_is_one_of_the_models() -> None:
    frame = pd.DataFrame(
        {"p_AGN": [0.6, 0.3, np.nan], "p_NS": [0.4, 0.7, np.nan], "p_any": 0.99, "p_note": "text"}
    )
    found = most_probable(frame, ("AGN", "NS"))
    assert found["class"].tolist() == ["AGN", "NS", None]
    assert found["share"].tolist()[:2] == [0.6, 0.7]
    assert most_probable(frame, ())["class"].isna().all()
