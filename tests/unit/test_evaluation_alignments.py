"""Evaluation of a catalog with an alignment: what it scores, and what the report shows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import raypipe
from raypipe.alignment.judged import read_judged
from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation.alignments import score_alignment
from raypipe.evaluation.evaluated_catalog import choose_catalog, labeled_catalog
from raypipe.reporting.aligned import NOT_ALIGNED
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace
from tests.unit.test_aligning_verb import MODEL, write_view

SETTINGS = {
    "align": {
        **{"width": 16, "epochs": 30, "batch_size": 32, "dimensions": 4},
        **{"test_fraction": 0.5, "targets": ["z2"]},
    }
}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("w"), detections=300)


@pytest.fixture(scope="module")
def view(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_view(synthetic.workspace, tmp_path_factory.mktemp("view") / "view.parquet")


@pytest.fixture(scope="module")
def labels(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels that follow the latents: a column density, and two classes."""
    catalog = raypipe.open_catalog(synthetic.workspace)
    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    pd.DataFrame(
        {
            "detection_id": catalog["detection_id"],
            "log_nh": 21.5 + catalog["z0"],
            "class": np.where(catalog["z0"] > 0, "AGN", "YSO"),
        }
    ).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def variability(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the catalog's own detections, with a variability that nothing predicts."""
    table = raypipe.open_catalog(synthetic.workspace)[["obsid", "obi", "region_id"]]
    path = tmp_path_factory.mktemp("real") / "real.parquet"
    random = np.random.default_rng(1).random(len(table))
    table.assign(var_intra_prob_b=random).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def aligned(synthetic: Synthetic, view: Path) -> dict[str, Any]:
    return raypipe.align(
        synthetic.workspace, with_=view, columns="seen,other", key="name", config=SETTINGS
    )


@pytest.fixture(scope="module")
def metrics(
    synthetic: Synthetic, labels: Path, variability: Path, aligned: dict[str, Any]
) -> dict[str, Any]:
    return raypipe.evaluate(synthetic.workspace, labels=labels, catalog=variability)


def test_evaluate_scores_the_alignment_of_the_catalog(
    metrics: dict[str, Any], aligned: dict[str, Any]
) -> None:
    found = metrics["alignment"]
    assert found["alignment_id"] == aligned["alignment_id"]
    for name in ("retrieval", "baselines", "chance", "translation"):
        assert found[name] == aligned[name]
    summary = metrics["summary"]["alignment_at_5_percent"]
    assert summary["value"] == aligned["retrieval"]["to_view"]["at_5_percent"]
    assert summary["best_baseline"] in [
        each["to_view"]["at_5_percent"] for each in aligned["baselines"].values()
    ]


def test_evaluate_measures_what_the_shared_space_adds_for_labels(
    metrics: dict[str, Any], aligned: dict[str, Any]
) -> None:
    found = metrics["alignment"]["usefulness"]
    assert set(found) == {"z2", "class", "log_nh", "var_intra_prob_b"}
    assert found["z2"] == aligned["usefulness"]["z2"]
    assert found["log_nh"]["score"] == "R²"
    assert found["log_nh"]["latents"]["value"] > 0.5
    assert found["log_nh"]["view"]["value"] > 0.5
    assert found["class"]["score"] == "balanced accuracy"
    assert found["class"]["view"]["value"] > 0.8
    assert found["var_intra_prob_b"]["latents + view"]["value"] < 0.2
    null = metrics["alignment"]["permuted"][0]
    assert set(null["usefulness"]) == set(found)
    assert null["usefulness"]["log_nh"]["latents"] == found["log_nh"]["latents"]
    assert null["usefulness"]["log_nh"]["shared"] != found["log_nh"]["shared"]


def test_the_report_shows_recall_and_gains(
    synthetic: Synthetic, metrics: dict[str, Any], labels: Path
) -> None:
    page = Path(raypipe.report(synthetic.workspace, labels=labels)).read_text()
    assert "Alignment with a second view" in page
    assert NOT_ALIGNED not in page
    gain = metrics["alignment"]["usefulness"]["log_nh"]["gain"]["latents + shared - latents"]
    assert f"{abs(gain['value']):.3f}" in page
    assert "permuted pairs 1" in page


def test_an_alignment_is_scored_by_its_id_after_another_has_replaced_its_columns(
    synthetic: Synthetic, view: Path, labels: Path, aligned: dict[str, Any], tmp_path: Path
) -> None:
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    other = tmp_path / "other.parquet"
    pd.read_parquet(view)[["name", "seen"]].rename(columns={"seen": "log_nh"}).to_parquet(other)
    second = raypipe.align(store, with_=other, columns="log_nh", key="name", config=SETTINGS)
    found = raypipe.evaluate(store, labels=labels)["alignment"]
    assert found["alignment_id"] == second["alignment_id"]
    # The view would predict the label that it holds.
    assert set(found["usefulness"]) == {"z2", "class"}
    first = aligned["alignment_id"]
    catalog, _ = labeled_catalog(store, RELEASE, MODEL, labels)
    by_id = score_alignment(store, choose_catalog(store, None, None), catalog, None, first, 0)
    assert by_id is not None
    assert by_id["alignment_id"] == first
    assert set(by_id["usefulness"]) == {"z2", "class", "log_nh"}
    with pytest.raises(UsageError, match=f"no alignment 'align-0'; it has.*{first}"):
        raypipe.evaluate(store, alignment="align-0")


def test_a_catalog_without_alignment_has_no_scores_of_one(tmp_path: Path) -> None:
    store = make_workspace(tmp_path, detections=60).workspace
    assert raypipe.evaluate(store)["alignment"] is None
    assert NOT_ALIGNED in Path(raypipe.report(store)).read_text()


def test_judged_pairs_that_are_damaged_are_refused(
    synthetic: Synthetic, aligned: dict[str, Any], tmp_path: Path
) -> None:
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    name = aligned["alignment_id"]
    judged = read_judged(store, name)
    assert len(set(judged.detection_ids)) == len(judged.latents) == len(judged.view)
    file = f"alignments/{name}/judged.parquet"
    store.write_table(file, store.read_table(file).drop_columns(["view"]))
    with pytest.raises(RaypipeError, match=r"judged\.parquet.*run raypipe align again"):
        raypipe.evaluate(store, alignment=name)
    store.delete(file)
    with pytest.raises(RaypipeError, match=r"judged\.parquet: no such file; delete .*again"):
        raypipe.evaluate(store, alignment=name)
    # Without being asked for it, the catalog still gets its other metrics.
    found = raypipe.evaluate(store)
    assert "no such file" in found["alignment"]["reason"]
    assert found["reconstruction"]["fit_zscore"]["width"] > 0
    assert "Not scored: " in Path(raypipe.report(store)).read_text()
