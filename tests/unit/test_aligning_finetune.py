"""Tuning of the catalog's model to a view: the base, the bundle, the split, what may go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import raypipe
from raypipe.aligning import paired_spectra
from raypipe.alignment.bundle import load_alignment
from raypipe.catalog.schema import catalog_table
from raypipe.catalog.split import TEST, assign_splits
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import source_keys
from raypipe.model.bundle import load_model
from raypipe.model.choice import choose_model, default_model, models_of
from raypipe.model.features import prepare
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace, publish_table
from tests.unit.test_aligning_verb import MODEL, write_view

QUICK: dict[str, Any] = {
    "width": 16,
    "epochs": 8,
    "batch_size": 32,
    "dimensions": 4,
    "permutations": 0,
    "finetune_epochs": 3,
}
MARGIN = 0.01
"""Share by which the loss of the reconstruction may rise for sources that tuning has not seen."""


class Case:
    """A workspace with a catalog and a view of its sources."""

    def __init__(self, folder: Path, synthetic: Synthetic) -> None:
        self.store = Workspace(shutil.copytree(synthetic.workspace.uri, folder / "w"))
        self.view = write_view(self.store, folder / "view.parquet")

    def align(self, columns: str = "seen,other", **settings: Any) -> dict[str, Any]:
        return raypipe.align(
            self.store,
            with_=self.view,
            columns=columns,
            key="name",
            model=MODEL,
            finetune=True,
            config={"align": QUICK | settings},
        )

    def weights(self, model_id: str) -> dict[str, np.ndarray]:
        return load_file(Path(self.store.uri) / "models" / model_id / "model.safetensors")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("w"), detections=160)


@pytest.fixture
def case(synthetic: Synthetic, tmp_path: Path) -> Case:
    return Case(tmp_path, synthetic)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_tuned_model_is_another_bundle_and_the_base_stays_as_it_was(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    base = Path(case.store.uri) / "models" / MODEL
    before = _contents(base)
    with caplog.at_level("INFO"):
        metrics = case.align()
    found = metrics["finetuned"]
    assert _contents(base) == before
    assert models_of(case.store) == sorted([MODEL, found["model_id"]])
    assert f"raypipe embed --model {found['model_id']}" in caplog.messages[-1]
    model = load_model(case.store.absolute_uri(f"models/{found['model_id']}"))
    assert model.metrics["finetuned"] == found
    card = (base.parent / found["model_id"] / "README.md").read_text()
    assert f"It is {MODEL}, tuned to a second view" in card
    assert f"seen, other of {case.view}" in card
    # Both losses are those of sources that only chose the epoch.
    assert found["after"]["validation_loss"] < (1 + MARGIN) * found["before"]["validation_loss"]
    assert found["after"]["validation_contrast"] < found["before"]["validation_contrast"]


def test_the_tuned_model_makes_a_catalog_that_is_aligned(case: Case) -> None:
    model_id = case.align()["finetuned"]["model_id"]
    model = load_model(case.store.absolute_uri(f"models/{model_id}"))
    spectra = case.store.read_table("spectra/sim/part-00000.parquet")
    batch = SpectraBatch.from_table(spectra, ResponseLibrary(case.store))
    keys = source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())
    measured = model.encode_batch(batch, keys, model.config.embed)
    assert np.isfinite(measured[["z0", "z7", "cash", "p_AGN"]].to_numpy()).all()
    # Over the spectra of the tuning the latents of the encoder are white, as after a training.
    learned = np.flatnonzero(np.isin(keys, model.population.reference_source))
    with torch.no_grad():
        z = model.network.encode(prepare(batch.take(learned)))
    assert torch.cov(z.T).numpy() == pytest.approx(np.eye(8), abs=2e-2)

    rows = catalog_table(spectra, measured, model.split_of(keys), model_id)
    publish_table(case.store, model, rows)
    options: dict[str, Any] = {"with_": case.view, "columns": "seen,other", "key": "name"}
    metrics = raypipe.align(case.store, model=model_id, config={"align": QUICK}, **options)
    assert metrics["data"]["train"] > 50
    assert "shared_3" in raypipe.open_catalog(case.store, model=model_id)


def test_the_split_of_the_alignment_holds(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = paired_spectra.iterate_spectra

    def watched(workspace: Any, release: str, ids: list[str], columns: list[str]) -> Any:
        asked.extend(ids)
        return read(workspace, release, ids, columns)

    monkeypatch.setattr(paired_spectra, "iterate_spectra", watched)
    metrics = case.align()
    catalog = read_detections(case.store, RELEASE, MODEL)
    ids = catalog["detection_id"].to_pylist()
    keys = source_keys(catalog["name"].to_pylist(), ids)
    splits = assign_splits(keys, 0, 0.2, 0.1)
    held = {name for name, split in zip(ids, splits, strict=True) if split == TEST}
    assert asked
    assert held
    assert not held & set(asked)
    base = load_model(case.store.absolute_uri(f"models/{MODEL}"))
    tuned = load_model(case.store.absolute_uri(f"models/{metrics['finetuned']['model_id']}"))
    assert set(base.train_sources) < set(tuned.train_sources)
    assert not set(tuned.train_sources) & set(tuned.validation_sources)
    unseen = np.setdiff1d(np.unique(keys[splits == TEST]), base.train_sources)
    unseen = np.setdiff1d(unseen, base.validation_sources)
    assert len(unseen)
    assert set(tuned.split_of(unseen)) == {"test"}


def test_the_same_seed_makes_the_same_bytes_and_another_makes_others(
    synthetic: Synthetic, tmp_path: Path
) -> None:
    files = []
    for name in ("a", "b"):
        case = Case(tmp_path / name, synthetic)
        model_id = case.align()["finetuned"]["model_id"]
        files.append(_contents(Path(case.store.uri) / "models" / model_id)["model.safetensors"])
    assert files[0] == files[1]
    other = case.align(seed=1)["finetuned"]["model_id"]
    assert other != model_id
    first, second = case.weights(model_id), case.weights(other)
    assert any(not np.array_equal(first[name], second[name]) for name in first if name in second)


def test_without_weight_the_view_has_no_influence(case: Case) -> None:
    """Two views train the model further in the same way; with a weight they differ."""

    def networks(**settings: Any) -> list[dict[str, np.ndarray]]:
        found = [case.align(columns, **settings)["finetuned"] for columns in ("seen", "vector")]
        assert found[0]["model_id"] != found[1]["model_id"]
        return [
            {k: v for k, v in case.weights(each["model_id"]).items() if k.startswith("network.")}
            for each in found
        ]

    first, second = networks(finetune_weight=0.0)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    base = case.weights(MODEL)
    name = "network.autoencoder.encoder.embed.weight"
    assert not np.array_equal(first[name], base[name])
    first, second = networks(finetune_weight=1.0)
    assert not np.array_equal(first[name], second[name])


def test_the_settings_of_tuning_leave_the_alignment_as_it_is(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    first = case.align()
    weights = f"alignments/{first['alignment_id']}/align.safetensors"
    before = case.store.modified(weights)
    other = case.align(finetune_weight=0.0)
    assert other["alignment_id"] == first["alignment_id"]
    assert other["finetuned"]["model_id"] != first["finetuned"]["model_id"]
    assert case.store.modified(weights) == before
    with caplog.at_level("INFO"):
        assert case.align() == first
    assert "is already made" in caplog.text


def test_a_tuned_model_whose_description_is_lost_is_an_error_with_the_mend(case: Case) -> None:
    model_id = case.align()["finetuned"]["model_id"]
    (Path(case.store.uri) / "models" / model_id / "metrics.json").write_text("{}")
    with pytest.raises(RaypipeError, match="delete the model's folder and run raypipe align"):
        case.align()


def test_a_tuned_model_is_used_only_if_it_is_named(case: Case) -> None:
    model_id = case.align()["finetuned"]["model_id"]
    assert default_model(case.store).model_id == MODEL
    assert choose_model(case.store, RELEASE, None) == MODEL
    shutil.rmtree(Path(case.store.uri) / "models" / MODEL)
    assert default_model(case.store).model_id != model_id


def test_a_killed_run_leaves_no_half_model_and_the_next_one_makes_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Workspace.write_bytes

    def killed(self: Workspace, name: str, *data: Any) -> None:
        if "tuned-" in name and name.endswith(".safetensors"):
            raise KeyboardInterrupt
        write(self, name, *data)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            case.align()
    assert models_of(case.store) == [MODEL]
    (left,) = [name for name in case.store.folders("models") if name != MODEL]
    with pytest.raises(RaypipeError, match="no such file"):
        load_model(case.store.absolute_uri(f"models/{left}"))
    made = case.align()["finetuned"]["model_id"]
    assert made == left
    assert models_of(case.store) == sorted([MODEL, made])


def _without_spectra(store: Workspace) -> None:
    shutil.rmtree(Path(store.uri) / "spectra")


def _with_some_spectra(store: Workspace) -> None:
    name = "spectra/sim/part-00000.parquet"
    store.write_table(name, store.read_table(name).slice(0, 100))


@pytest.mark.parametrize("harm", [_without_spectra, _with_some_spectra])
def test_missing_spectra_are_an_error_that_names_the_folder_and_the_mend(
    case: Case, harm: Callable[[Workspace], None]
) -> None:
    harm(case.store)
    with pytest.raises(UsageError, match=r"spectra/sim: no spectrum of .* run raypipe ingest"):
        case.align()
    assert models_of(case.store) == [MODEL]


def test_more_spectra_than_fit_into_memory_are_refused_with_the_figure(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 1_000_000

    monkeypatch.setattr(paired_spectra.psutil, "virtual_memory", Memory)
    with pytest.raises(RaypipeError, match=r"spectra with a view need 0\.\d+ GB, and 0\.0005 GB"):
        case.align()


def test_a_model_without_a_likelihood_is_refused_before_any_work(tmp_path: Path) -> None:
    synthetic = make_workspace(tmp_path / "w", detections=120, presets=("paper",))
    runs = synthetic.workspace.folders("runs")
    with pytest.raises(UsageError, match="--finetune needs a model of preset folded"):
        raypipe.align(synthetic.workspace, with_=tmp_path / "none.parquet", finetune=True)
    assert synthetic.workspace.folders("runs") == runs
    assert synthetic.workspace.folders("alignments") == []


def test_the_alignment_itself_is_the_same_with_and_without_tuning(case: Case) -> None:
    options: dict[str, Any] = {"with_": case.view, "columns": "seen,other", "key": "name"}
    plain = raypipe.align(case.store, model=MODEL, config={"align": QUICK}, **options)
    found = case.align()
    assert found["alignment_id"] == plain["alignment_id"]
    assert {k: v for k, v in found.items() if k != "finetuned"} == plain
    assert (
        load_alignment(case.store.absolute_uri(f"alignments/{plain['alignment_id']}")).metrics
        == plain
    )
