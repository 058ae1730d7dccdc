"""The verb classify: columns added to a catalog, and a classifier that is taken along."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import raypipe
from raypipe.classifying.classify import classifier_name, classify, metrics_name
from raypipe.cli import main
from raypipe.errors import RaypipeError, UsageError
from raypipe.model.bundle import load_model
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, make_workspace, publish_table

CLASSES = ["AGN", "CV", "YSO"]
FAST = {"classify": {"trees": 12, "folds": 2}}
MODEL = "folded-test"


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("classify")
    make_workspace(folder / "labeled", detections=96, classes=CLASSES)
    make_workspace(folder / "bare", detections=96, labels=False, classes=CLASSES)
    return {name: folder / name for name in ("labeled", "bare")}


@pytest.fixture
def labeled(_made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(_made["labeled"], tmp_path / "labeled"))


@pytest.fixture
def bare(_made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(_made["bare"], tmp_path / "bare"))


def columns_of(workspace: Path) -> list[str]:
    return Workspace(workspace).files(f"columns/{RELEASE}/{MODEL}/classify")


def test_probabilities_take_the_place_of_the_votes_which_stay(labeled: Path) -> None:
    before = raypipe.open_catalog(labeled)
    classify(labeled, config=FAST)
    after, sources = raypipe.open_catalog(labeled), raypipe.open_sources(labeled)
    names = [f"p_{name}" for name in CLASSES]
    for table in (after, sources):
        assert table[names].sum(axis=1).to_numpy() == pytest.approx(1)
        assert set(table["best_class"].dropna()) <= set(CLASSES)
        assert table["class_set"].str.split("|").explode().isin([*CLASSES, ""]).all()
        assert table["class_unlike"].isin([True, False]).all()
    assert not np.allclose(after[names], before[names])
    for name in CLASSES:
        assert np.array_equal(after[f"votes_{name}"], before[f"p_{name}"])
    assert list(after["detection_id"]) == list(before["detection_id"])
    assert after["best_class"].isna().equals(after["class_unlike"])


def test_repeating_the_call_does_nothing(labeled: Path) -> None:
    first = classify(labeled, config=FAST)
    files = {name: Workspace(labeled).modified(name) for name in columns_of(labeled)}
    assert classify(labeled, config=FAST) == first
    assert {name: Workspace(labeled).modified(name) for name in columns_of(labeled)} == files


def test_other_labels_or_settings_make_it_again(labeled: Path, tmp_path: Path) -> None:
    prints = [classify(labeled, config=FAST)["fingerprint"]]
    catalog = raypipe.open_catalog(labeled)
    table = tmp_path / "labels.csv"
    catalog.assign(**{"class": np.where(catalog["class"] == "AGN", "YSO", catalog["class"])})[
        ["detection_id", "class"]
    ].to_csv(table, index=False)
    found = classify(labeled, labels=table, config=FAST)
    assert "AGN" not in found["sources"]["classes"]
    # The model knows AGN: the column stays, and says that the classifier gives it no chance.
    assert (raypipe.open_catalog(labeled)["p_AGN"] == 0).all()
    prints.append(found["fingerprint"])
    prints.append(classify(labeled, context="none", config=FAST)["fingerprint"])
    prints.append(classify(labeled, config={"classify": {"trees": 16, "folds": 2}})["fingerprint"])
    assert len(set(prints)) == 4


def test_an_interrupted_run_is_completed(labeled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classify(labeled, config=FAST)
    shutil.rmtree(labeled / "columns")
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("raypipe.classifying.classify.write_added", fail)
        with pytest.raises(KeyboardInterrupt):
            classify(labeled, config=FAST)
    assert "best_class" not in raypipe.open_catalog(labeled)
    assert classify(labeled, config=FAST) == whole
    assert "best_class" in raypipe.open_catalog(labeled)


def test_context_has_its_own_classifier(labeled: Path) -> None:
    assert classify(labeled, config=FAST)["features"]["spectrum"]
    bare = classify(labeled, context="none", config=FAST)
    assert bare["features"]["context"] == []
    assert Workspace(labeled).exists(classifier_name(MODEL, "all"))
    assert Workspace(labeled).exists(classifier_name(MODEL, "none"))
    with pytest.raises(UsageError, match="expected all or none"):
        classify(labeled, context="some", config=FAST)


def test_a_classifier_is_taken_along(labeled: Path, bare: Path) -> None:
    trained = classify(labeled, config=FAST)
    file = labeled / classifier_name(MODEL, "all")
    found = classify(bare, classifier=file, config=FAST)
    assert found["judged"].startswith("nothing")
    there, here = raypipe.open_catalog(labeled), raypipe.open_catalog(bare)
    # The same sources: in both workspaces, each is judged by the forest that has not seen it.
    pd.testing.assert_series_equal(here["best_class"], there["best_class"])
    assert found["prior"] == trained["prior"]


def test_without_labels_the_classifier_beside_the_model_is_used(labeled: Path, bare: Path) -> None:
    classify(labeled, config=FAST)
    name = classifier_name(MODEL, "all")
    shutil.copy(labeled / name, bare / name)
    assert classify(bare, config=FAST)["classifier"].endswith(name)


def test_labels_of_new_sources_measure_a_classifier(labeled: Path, tmp_path: Path) -> None:
    catalog = raypipe.open_catalog(labeled)
    half = catalog.iloc[:48]
    table = tmp_path / "half.csv"
    half[["detection_id", "class"]].to_csv(table, index=False)
    classify(labeled, labels=table, config=FAST)
    file = labeled / classifier_name(MODEL, "all")
    found = classify(labeled, classifier=file, config=FAST)
    keys = set(catalog["name"]) - set(half["name"])
    assert found["judged"] == "labeled sources that are new to the classifier"
    assert found["sources"]["rows"] == len(keys)


def test_a_classifier_of_another_model_is_refused(labeled: Path, tmp_path: Path) -> None:
    classify(labeled, config=FAST)
    other = make_workspace(tmp_path / "paper", detections=40, presets=("paper",))
    with pytest.raises(UsageError, match=r"latents of folded-test; this catalog is by paper-test"):
        classify(other.workspace, classifier=labeled / classifier_name(MODEL, "all"), config=FAST)
    with pytest.raises(UsageError, match="trained with --context all"):
        classify(labeled, classifier=labeled / classifier_name(MODEL, "all"), context="none")


def _with_rows(workspace: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Publish the catalog again with other rows."""
    store = Workspace(workspace)
    model = load_model(store.absolute_uri(f"models/{MODEL}"))
    publish_table(store, model, change(read_detections(store, RELEASE, MODEL)))


def test_rows_without_latents_get_no_class(labeled: Path) -> None:
    def blank(table: pa.Table) -> pa.Table:
        z0 = table["z0"].to_numpy().copy()
        z0[:9] = np.nan
        place = table.column_names.index("z0")
        return table.set_column(place, table.schema.field("z0"), pa.array(z0, from_pandas=True))

    _with_rows(labeled, blank)
    found = classify(labeled, config=FAST)
    catalog = raypipe.open_catalog(labeled)
    assert found["classified"]["detections"] == 87
    assert (
        catalog.loc[:8, ["p_AGN", "best_class", "class_set", "class_unlike"]].isna().all(axis=None)
    )
    assert catalog.loc[9:, "p_AGN"].notna().all()
    # The source of rows 9 and 10 has a latent in one of them.
    sources = raypipe.open_sources(labeled).set_index("name")
    names = catalog["name"]
    assert np.isfinite(sources.loc[names[9], "p_AGN"])
    assert np.isnan(sources.loc[names[2], "p_AGN"])


def test_a_catalog_without_rows_stays_one(labeled: Path, bare: Path) -> None:
    classify(labeled, config=FAST)
    _with_rows(bare, lambda table: table.slice(0, 0))
    found = classify(bare, classifier=labeled / classifier_name(MODEL, "all"), config=FAST)
    assert found["classified"]["detections"] == 0
    assert "best_class" in raypipe.open_catalog(bare)


def test_a_changed_catalog_is_classified_again(labeled: Path) -> None:
    classify(labeled, config=FAST)
    _with_rows(labeled, lambda table: table.slice(0, 90))
    assert "best_class" not in raypipe.open_catalog(labeled)
    assert classify(labeled, config=FAST)["classified"]["detections"] == 90
    assert raypipe.open_catalog(labeled)["p_AGN"].notna().all()


def test_without_labels_the_error_says_what_to_give(bare: Path) -> None:
    with pytest.raises(UsageError, match=r"no detection.*--labels.*--classifier"):
        classify(bare, config=FAST)
    assert not Workspace(bare).exists("columns")


def test_labels_that_match_nothing_are_refused(labeled: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    pd.DataFrame({"detection_id": ["x:1.0.1"], "class": ["AGN"]}).to_csv(table, index=False)
    with pytest.raises(UsageError, match="no row matches"):
        classify(labeled, labels=table, config=FAST)


def test_a_table_without_a_class_is_not_replaced_by_another_classifier(
    labeled: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    ids = raypipe.open_catalog(labeled)[["detection_id"]]
    ids.assign(**{"class": None}).to_csv(table, index=False)
    with pytest.raises(UsageError, match="--labels has no class of a detection"):
        classify(labeled, labels=table, config=FAST)


def test_one_class_is_not_enough(labeled: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    catalog = raypipe.open_catalog(labeled)
    catalog[["detection_id"]].assign(**{"class": "AGN"}).to_csv(table, index=False)
    with pytest.raises(UsageError, match=r"at least two classes.*AGN \(49\)"):
        classify(labeled, labels=table, config=FAST)


def test_a_prior_of_an_unknown_class_is_refused(labeled: Path) -> None:
    with pytest.raises(UsageError, match=r"classify\.prior.*QSO"):
        classify(labeled, config={"classify": {"trees": 12, "folds": 2, "prior": {"QSO": 0.5}}})


def test_a_damaged_classifier_in_the_workspace_says_how_to_mend_it(
    labeled: Path, bare: Path
) -> None:
    classify(labeled, config=FAST)
    name = classifier_name(MODEL, "all")
    data = (labeled / name).read_bytes()
    (bare / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(RaypipeError, match=r"classifier.*run raypipe classify with --labels"):
        classify(bare, config=FAST)


def test_the_command_line_prints_the_headlines(
    labeled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "classify.trees=12", "--set", "classify.folds=2"]
    assert main(["classify", "--workspace", str(labeled), *options]) == 0
    assert "balanced accuracy, sources: 0." in capsys.readouterr().out
    metrics = json.loads((labeled / metrics_name(RELEASE, MODEL)).read_text())
    assert main(["classify", "--workspace", str(labeled), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics


def test_measurements_have_what_the_page_shows(labeled: Path) -> None:
    found = classify(labeled, config=FAST)
    for kind in ("detections", "sources"):
        each = found[kind]
        assert set(each["classes"]) == set(CLASSES)
        assert each["ece_error"] > 0
        assert sum(map(sum, each["confusion"]["sources"])) == pytest.approx(each["sources"])
        assert sum(row["sources"] for row in each["reliability"]) == pytest.approx(
            3 * each["sources"]
        )
    assert set(found["unseen_class"]) == set(CLASSES)
    assert 0 < found["neighbor_votes"]["balanced_accuracy"] < 1
