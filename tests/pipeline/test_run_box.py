"""Without a model of its own, a workspace goes from spectra to a report by the model in the box."""

from __future__ import annotations

from pathlib import Path

import pytest

import raypipe
from raypipe.box import MODEL_ID
from raypipe.store.workspace import Workspace
from tests.pipeline.training import SETTINGS

pytestmark = pytest.mark.usefixtures("local_ray")

CONFIG = {
    "discover": SETTINGS["discover"],
    "embed": SETTINGS["embed"],
    "evaluate": {"folds": 2},
    "classify": {"folds": 2, "trees": 20},
}


def test_a_run_without_a_model_uses_the_one_in_the_box(
    survey: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = survey / "truth.parquet"
    workspace = Workspace(tmp_path)
    with caplog.at_level("INFO", "raypipe"):
        done = raypipe.run(tmp_path, source=str(survey), catalog=truth, labels=truth, config=CONFIG)
    assert done["model_id"] == MODEL_ID
    assert f"using model {MODEL_ID}: it ships with raypipe" in caplog.text
    assert done["catalog"] == str(tmp_path / "catalog" / "sim" / MODEL_ID)
    assert MODEL_ID in Path(done["report"]).read_text()
    assert not workspace.exists("checkpoints")
    catalog = raypipe.open_catalog(tmp_path)
    assert len(catalog) == 160
    assert catalog["best_class"].notna().mean() > 0.9
    assert "Recall and coverage" in Path(done["report"]).read_text()
    assert catalog["fit_zscore"].median() < 3
    assert set(catalog["split"]) == {"test"}

    # Whoever reads the workspace later finds the model there, and need not have it in a box.
    copy = raypipe.load_model(tmp_path / "models" / MODEL_ID)
    assert copy.fingerprint == raypipe.load_model().fingerprint
    places = {each["place"]: each["is_default"] for each in raypipe.models(tmp_path)}
    assert places == {"box": False, "workspace": True}
    found = raypipe.search(tmp_path, detection=catalog["detection_id"][0], k=3)
    assert len(found) == 3
    assert raypipe.export(tmp_path, format="parquet").endswith(f"{MODEL_ID}/detections.parquet")
    assert raypipe.embed(tmp_path, config=CONFIG) == MODEL_ID
