from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import raypipe
from raypipe.catalog.schema import describe
from raypipe.config_toml import load_config
from raypipe.discovery.discover import discover
from raypipe.embedding.embed import embed
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import source_keys
from raypipe.ingestion.ingest import ingest
from raypipe.planning.plan import plan
from raypipe.store.workspace import Workspace
from raypipe.training.data import read_roster
from raypipe.training.train import model_id_of, train
from tests.alone import ingest_alone
from tests.pipeline.processes import training_in_processes
from tests.pipeline.training import SETTINGS

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def ingested(ingested_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(shutil.copytree(ingested_survey, tmp_path_factory.mktemp("w") / "w"))


@pytest.fixture(scope="module")
def model_id(ingested: Workspace) -> str:
    return train(ingested, config=SETTINGS)


def test_training_leaves_a_whole_bundle(ingested: Workspace, model_id: str) -> None:
    names = [name.rsplit("/", 1)[1] for name in ingested.files(f"models/{model_id}")]
    assert names == ["README.md", "config.toml", "metrics.json", "model.safetensors"]
    model = raypipe.load_model(ingested.absolute_uri(f"models/{model_id}"))
    history = model.metrics["history"]
    assert [entry["epoch"] for entry in history] == [0, 1, 2, 3]
    # A dozen steps on 100 spectra: the validation loss may still rise, the training loss falls.
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert model.metrics["workers"] == 2
    assert len(model.population.classes) == 8
    card = ingested.read_bytes(f"models/{model_id}/README.md").decode()
    assert model_id in card
    assert model.metrics["data_fingerprint"] in card
    quality = model.metrics["quality"]
    assert sum(row["n_rows"] for row in quality["by_counts"]) == quality["n_rows"] > 0
    assert f"| {quality['by_counts'][0]['n_rows']} |" in card
    assert set(model.metrics["classes"]) == set(model.population.classes)
    assert f"AGN {model.metrics['classes']['AGN']}" in card


def test_a_bundle_records_the_spectra_it_was_trained_on(ingested: Workspace, model_id: str) -> None:
    model = raypipe.load_model(ingested.absolute_uri(f"models/{model_id}"))
    trained_on = model.metrics["trained_on"]
    spectra = ingested.read_folder("spectra/sim", ["name", "detection_id", "rmf_id"])
    keys = source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())
    learned = spectra.filter(pa.array(model.split_of(keys) == "train"))
    assert trained_on["survey"] == "sim"
    assert trained_on["simulated"] is True
    assert trained_on["detections"] == learned.num_rows == model.metrics["spectra"]["train"]
    assert trained_on["sources"] == len(set(learned["name"].to_pylist()))
    assert trained_on["telescopes"] == {"CHANDRA ACIS": learned.num_rows}
    assert trained_on["responses"] == len(set(learned["rmf_id"].to_pylist()))
    assert trained_on["classes"] == model.metrics["classes"]
    low, high = trained_on["counts"]
    assert 0 < low < high
    card = ingested.read_bytes(f"models/{model_id}/README.md").decode()
    assert f"{learned.num_rows} simulated detections" in card
    assert f"{low:,} to {high:,} per training spectrum" in card


def test_a_plan_with_a_model_tells_what_embedding_takes(ingested: Workspace, model_id: str) -> None:
    nodes = Path(__file__).resolve().parents[2] / "cluster.yaml"
    answer = plan(ingested, sample=20, cluster=nodes, model=model_id, config=SETTINGS)
    assert answer["prediction"]["embed_core_hours"] > 0
    assert not any("--model" in line for line in answer["assumptions"])


def test_the_same_command_trains_once(ingested: Workspace, model_id: str) -> None:
    stamp = ingested.modified(f"models/{model_id}/model.safetensors")
    assert train(ingested, config=SETTINGS) == model_id
    assert ingested.modified(f"models/{model_id}/model.safetensors") == stamp


def test_training_goes_on_from_its_checkpoint(ingested: Workspace, model_id: str) -> None:
    """A run that died after its last epoch ends as the unbroken one did."""
    name = f"models/{model_id}/model.safetensors"
    before = raypipe.load_model(ingested.absolute_uri(f"models/{model_id}"))
    ingested.delete(name)
    with training_in_processes():
        assert train(ingested, config=SETTINGS) == model_id
    after = raypipe.load_model(ingested.absolute_uri(f"models/{model_id}"))
    assert after.metrics["history"] == before.metrics["history"]
    for one, other in zip(before.network.parameters(), after.network.parameters(), strict=True):
        assert np.allclose(one.detach(), other.detach())


def test_the_catalog_has_a_described_row_for_each_spectrum(
    ingested: Workspace, model_id: str
) -> None:
    assert embed(ingested, config=SETTINGS) == model_id
    catalog = raypipe.open_catalog(ingested)
    spectra = ingested.read_folder("spectra/sim")
    assert catalog["detection_id"].is_unique
    assert set(catalog["detection_id"]) == set(spectra["detection_id"].to_pylist())
    measured = [f"z{i}" for i in range(8)] + [f"z{i}_err" for i in range(8)]
    measured += ["total_counts", "cash", "cash_expected", "fit_zscore", "anomaly_score"]
    assert np.isfinite(catalog[measured].to_numpy(dtype=float)).all()
    for name in [*measured, "detection_id", "flags", "model_id", "p_AGN", "counts_b"]:
        assert describe(name) is not None, name
    p = catalog[[name for name in catalog if name.startswith("p_")]]
    assert p.sum(axis=1).to_numpy() == pytest.approx(1.0)
    per_source = catalog.groupby("name")["split"].nunique()
    assert per_source.max() == 1
    (first, *_) = ingested.files(f"catalog/sim/{model_id}", ".parquet")
    field = ingested.read_table(first).schema.field("ra")
    assert field.metadata[b"unit"] == b"deg"


def test_embedding_is_idempotent_and_order_does_not_matter(
    ingested: Workspace, model_id: str
) -> None:
    embed(ingested, config=SETTINGS)
    before = raypipe.open_catalog(ingested).sort_values("detection_id", ignore_index=True)
    names = ingested.files(f"catalog/sim/{model_id}", ".parquet")
    stamps = [ingested.modified(name) for name in names]
    ingested.delete(names[2])
    embed(ingested, config=SETTINGS)
    changed = [n for n, s in zip(names, stamps, strict=True) if ingested.modified(n) != s]
    assert changed == [names[2]]
    after = raypipe.open_catalog(ingested).sort_values("detection_id", ignore_index=True)
    z = [f"z{i}" for i in range(8)]
    assert after[z].to_numpy() == pytest.approx(before[z].to_numpy(), abs=1e-4)


def test_a_model_from_elsewhere_has_seen_nothing(
    ingested: Workspace, model_id: str, shared_data: Path, tmp_path: Path
) -> None:
    """Of the parts of one detection each, one has a reject and no spectrum."""
    small = {**SETTINGS, "discover": {"part_rows": 1}, "embed": {**SETTINGS["embed"], "actors": 1}}
    workspace = Workspace(tmp_path)
    discover(workspace, source=str(shared_data / "csc"), config=small)
    ingest(workspace, config=small)
    assert 0 in [workspace.count_rows(name) for name in workspace.files("spectra/csc")]
    with pytest.raises(RaypipeError, match="too few to train on"):
        train(workspace, config=small)
    with pytest.raises(UsageError, match="neither a model"):
        embed(workspace, model="absent")
    embed(workspace, model=ingested.absolute_uri(f"models/{model_id}"), config=small)
    catalog = raypipe.open_catalog(workspace)
    assert len(catalog) == 6
    assert set(catalog["split"]) == {"test"}
    assert workspace.folders("models") == [model_id]
    shutil.rmtree(tmp_path / "catalog")
    with pytest.raises(UsageError, match="run raypipe embed first"):
        raypipe.open_catalog(workspace)


def test_new_labels_and_names_make_another_model(survey: Path, tmp_path: Path) -> None:
    def fingerprint(catalog: Path | None) -> str:
        discover(tmp_path, source=str(survey), catalog=catalog, config=SETTINGS)
        ingest_alone(Workspace(tmp_path), "sim")
        settings = load_config(settings=SETTINGS)
        return model_id_of(settings, read_roster(Workspace(tmp_path), "sim", settings.train))

    without, with_truth = fingerprint(None), fingerprint(survey / "truth.parquet")
    assert without != with_truth
    assert fingerprint(survey / "truth.parquet") == with_truth


def test_spectra_that_are_behind_the_manifest_are_refused(survey: Path, tmp_path: Path) -> None:
    discover(tmp_path, source=str(survey), config=SETTINGS)
    with pytest.raises(RaypipeError, match="run raypipe ingest first"):
        train(tmp_path, config=SETTINGS)


def test_more_workers_than_cpus_are_refused_not_waited_for(ingested: Workspace) -> None:
    greedy = {**SETTINGS, "train": {**SETTINGS["train"], "cpus_per_worker": 64.0, "seed": 9}}
    with pytest.raises(UsageError, match=r"128 CPUs and Ray has 2"):
        train(ingested, config=greedy)


def test_an_error_in_a_worker_arrives_as_itself(
    ingested: Workspace, model_id: str, tmp_path: Path
) -> None:
    broken = Workspace(tmp_path / "w")
    shutil.copytree(ingested.root, broken.root)
    for name in broken.files("responses"):
        broken.delete(name)
    shutil.rmtree(tmp_path / "w" / "catalog", ignore_errors=True)
    with pytest.raises(RaypipeError, match="redistribution is missing"):
        embed(broken, model=model_id, config={**SETTINGS, "embed": {"actors": 1}})


def test_one_validation_spectrum_for_two_workers(survey: Path, tmp_path: Path) -> None:
    """A worker without validation spectra takes its part in training all the same."""
    settings = {
        **SETTINGS,
        "train": {**SETTINGS["train"], "epochs": 1, "validation_fraction": 0.008},
    }
    discover(tmp_path, source=str(survey), catalog=survey / "truth.parquet", config=settings)
    ingest_alone(Workspace(tmp_path), "sim")
    roster = read_roster(Workspace(tmp_path), "sim", load_config(settings=settings).train)
    assert roster.sizes()["validation"] == 1
    with training_in_processes():
        assert train(tmp_path, config=settings).startswith("folded-")
