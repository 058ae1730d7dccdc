"""The model in the box: it opens, measures real spectra sensibly, and is chosen when it should."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import raypipe
from raypipe.box import MODEL_ID, box_folder, is_from_box
from raypipe.cli import main
from raypipe.config import PRESET_BINS
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import source_keys
from raypipe.model.bundle import Model, load_model
from raypipe.model.card import model_card, model_summary
from raypipe.model.choice import adopt_model, choose_model, default_model, resolve_model
from raypipe.model.training_record import training_record
from raypipe.pipeline.run import run
from raypipe.pipeline.status import status, status_lines
from raypipe.store.layout import spectra_folder
from raypipe.store.workspace import Workspace
from tests.unit.model_spectra import power_laws
from tests.unit.synthetic_workspace import RELEASE, make_workspace, publish_catalog

BUNDLE = Path(__file__).parents[1] / "data" / "bundle-format-2"
MOST_BYTES = 4_000_000
"""Size of the bundle above which a wheel would be a burden."""


@pytest.fixture
def boxed() -> Model:
    return load_model()


def put_model(workspace: Path, model_id: str, modified: float) -> None:
    """Put a folder that passes for a model of this id, last written at a time."""
    folder = workspace / "models" / model_id
    shutil.copytree(BUNDLE, folder)
    os.utime(folder / "model.safetensors", (modified, modified))


def test_it_opens_without_arguments_and_by_its_id(boxed: Model) -> None:
    assert boxed.model_id == MODEL_ID
    assert boxed.preset == "folded"
    assert load_model(MODEL_ID).fingerprint == boxed.fingerprint
    assert raypipe.load_model().fingerprint == boxed.fingerprint
    assert load_model() is not boxed


def test_it_names_the_sources_of_its_references(boxed: Model) -> None:
    population = boxed.population
    names = population.reference_names
    assert all(name.startswith("2CXO J") for name in names)
    np.testing.assert_array_equal(source_keys(names, names), population.reference_source)


def test_its_files_are_few_and_small() -> None:
    files = {path.name: path.stat().st_size for path in Path(box_folder()).iterdir()}
    assert set(files) == {"README.md", "config.toml", "metrics.json", "model.safetensors"}
    assert sum(files.values()) < MOST_BYTES


def test_a_bundle_of_its_name_in_the_working_directory_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLE, tmp_path / MODEL_ID)
    assert load_model(MODEL_ID).model_id == "folded-format2"


def test_no_trained_model_can_pass_for_it() -> None:
    assert is_from_box(MODEL_ID)
    assert not any(is_from_box(f"{preset}-1a2b3c4d") for preset in PRESET_BINS)


def test_it_records_what_it_was_trained_on(boxed: Model) -> None:
    record = training_record(boxed.metrics, MODEL_ID)
    trained_on = record.trained_on
    assert trained_on.survey
    assert trained_on.simulated is True
    assert trained_on.detections is not None
    # A training that draws detections as it learns knows only the expected numbers.
    assert trained_on.detections > 1000
    assert sum(trained_on.telescopes.values()) < 1.01 * trained_on.detections
    assert trained_on.counts is not None
    assert trained_on.counts[0] < trained_on.counts[1]
    assert {"CHANDRA", "XMM"} <= {name.split()[0].upper() for name in trained_on.telescopes}
    assert set(trained_on.classes) == set(boxed.population.classes)
    assert record.version


def test_it_explains_power_laws_better_than_noise_would(boxed: Model) -> None:
    columns = boxed.encode_batch(power_laws(40, seed=9)[0])
    latents = columns[[f"z{i}" for i in range(8)]].to_numpy()
    assert np.isfinite(latents).all()
    # Training spectra have latents of variance 1.
    assert np.abs(latents).max() < 10
    assert columns["fit_zscore"].median() < 3
    assert (columns["z0_err"] > 0).all()


def test_it_describes_real_spectra(boxed: Model, shared_data: Path) -> None:
    paths = sorted((shared_data / "csc").glob("acisf01575*pha3*"))
    assert paths
    frame = boxed.encode([raypipe.read_spectrum(path) for path in paths])
    assert frame["z0"].notna().all()
    assert (frame["fit_zscore"] < 5).all()
    assert np.allclose(frame[[f"p_{name}" for name in boxed.population.classes]].sum(axis=1), 1)


def test_a_workspace_without_models_uses_it_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(tmp_path)
    with caplog.at_level("INFO", "raypipe"):
        assert resolve_model(workspace, None) == box_folder()
    assert f"using model {MODEL_ID}: it ships with raypipe" in caplog.text
    assert resolve_model(workspace, MODEL_ID) == box_folder()
    with pytest.raises(UsageError, match=f"{MODEL_ID} in the box"):
        resolve_model(workspace, "folded-absent")


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        ({"folded-1": 1.0, "any-telescope-0": 2.0}, "folded-1"),
        ({"paper-1": 1.0, "any-telescope-0": 2.0}, "paper-1"),
        ({"folded-1": 1.0, "paper-1": 2.0}, "folded-1"),
        ({"folded-1": 1.0, "folded-2": 2.0}, "folded-2"),
        ({"any-telescope-0": 1.0}, "any-telescope-0"),
    ],
)
def test_a_model_of_the_workspace_wins(
    tmp_path: Path, models: dict[str, float], chosen: str
) -> None:
    for model_id, modified in models.items():
        put_model(tmp_path, model_id, modified)
    choice = default_model(Workspace(tmp_path))
    assert choice.model_id == chosen
    assert choice.uri == str(tmp_path / "models" / chosen)


def test_a_workspace_keeps_a_copy_of_the_model_that_it_uses(tmp_path: Path, boxed: Model) -> None:
    workspace = Workspace(tmp_path)
    assert adopt_model(workspace, resolve_model(workspace, None)) == MODEL_ID
    copy = f"{tmp_path}/models/{MODEL_ID}"
    assert load_model(copy).fingerprint == boxed.fingerprint
    assert resolve_model(workspace, None) == copy
    assert resolve_model(workspace, MODEL_ID) == copy


def test_its_catalog_is_found_without_a_name(tmp_path: Path, boxed: Model) -> None:
    """A catalog by the model in the box ranks with those by trained models of its preset."""
    made = make_workspace(tmp_path, detections=20, presets=("paper",))
    spectra = made.workspace.read_folder(spectra_folder(RELEASE))
    publish_catalog(made.workspace, spectra, boxed)
    assert choose_model(made.workspace, RELEASE, None) == MODEL_ID
    catalog = raypipe.open_catalog(tmp_path)
    assert catalog["fit_zscore"].notna().all()
    assert set(catalog["split"]) == {"test"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": True, "model": "folded-1"}, "one of the two"),
        ({"config": {"train": {"epochs": 3}}}, r"train\.epochs.*--train"),
        ({"config": {"model": {"width": 16}}}, r"model\.width.*--train"),
        ({"config": {"evaluate": {"baseline_presets": ["paper"]}}}, "baseline_presets"),
    ],
)
def test_a_run_that_may_be_meant_to_train_is_refused(
    tmp_path: Path, given: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run(tmp_path / "w", source="simulated", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "w").exists()


def test_models_lists_the_one_in_the_box(capsys: pytest.CaptureFixture[str]) -> None:
    (only,) = raypipe.models()
    assert (only["model_id"], only["place"], only["is_default"]) == (MODEL_ID, "box", True)
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [only]
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert f"{MODEL_ID} (in the box, the default): preset folded, 8 latents" in printed
    assert f"{only['trained_on']['detections']:,} simulated detections" in printed


def test_models_lists_those_of_a_workspace_and_which_is_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(tmp_path, "folded-format2", 1.0)
    put_model(tmp_path, "folded-spoilt", 0.0)
    (tmp_path / "models" / "folded-spoilt" / "metrics.json").write_text('{"epochs": "many"}')
    known = {each["model_id"]: each for each in raypipe.models(tmp_path)}
    assert list(known) == [MODEL_ID, "folded-format2", "folded-spoilt"]
    assert [name for name, each in known.items() if each["is_default"]] == ["folded-format2"]
    old = known["folded-format2"]
    assert old["trained_on"]["survey"] == "power laws"
    assert old["trained_on"]["detections"] == 600
    assert old["trained_on"]["simulated"] is None
    assert old["trained_on"]["counts"] is None
    assert "metrics.json: epochs" in known["folded-spoilt"]["problem"]
    assert main(["models", "--workspace", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "folded-format2 (in the workspace, the default)" in printed
    assert "600 detections, release power laws" in printed
    assert "counts: unknown" in printed


def test_models_of_a_misspelled_workspace_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no raypipe workspace there"):
        raypipe.models(tmp_path / "absent")


def test_status_names_the_model_that_verbs_would_use(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    state = status(tmp_path)
    assert state["default_model"]["model_id"] == MODEL_ID
    assert f"  model by default: {MODEL_ID} (it ships with raypipe" in "\n".join(
        status_lines(state)
    )


@pytest.mark.parametrize(
    "metrics",
    [{}, {"validation_loss": None, "spectra": None, "made_by": None}, {"trained_on": None}],
)
def test_a_card_states_what_is_unknown(boxed: Model, metrics: dict[str, object]) -> None:
    boxed.metrics = metrics
    card = model_card(boxed)
    assert "validation loss unknown" in card
    assert "None" not in card
    assert model_summary(boxed)["validation"] == ""


@pytest.mark.parametrize(
    "metrics",
    [
        {"epochs": "many"},
        {"made_by": ["raypipe"]},
        {"trained_on": {"counts": [1]}},
        {"trained_on": {"telescopes": {"CHANDRA ACIS": "some"}}},
        {"trained_on": "spectra"},
    ],
)
def test_a_damaged_record_names_the_key(metrics: dict[str, object]) -> None:
    with pytest.raises(RaypipeError, match=rf"w/m: metrics\.json: {next(iter(metrics))}"):
        training_record(metrics, "w/m")
