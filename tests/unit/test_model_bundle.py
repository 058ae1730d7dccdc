from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import raypipe
from raypipe.catalog.split import assign_splits
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.errors import RaypipeError
from raypipe.identity import source_keys
from raypipe.model import bundle_weights
from raypipe.model.bundle import Model, load_model, save_model
from raypipe.model.latent_population import Population
from raypipe.model.presets import build
from raypipe.spectra.grid import EnergyGrid
from raypipe.store.workspace import Workspace
from tests.unit.model_spectra import power_laws

DATA = Path(__file__).parents[1] / "data"
FORMAT_1, FORMAT_2 = DATA / "bundle-format-1", DATA / "bundle-format-2"


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    config: Config = load_config(
        settings={"model": {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16}}
    )
    rng = np.random.default_rng(0)
    keys = np.arange(300, dtype=np.int64)
    labels = np.array([None, "AGN", "YSO"] * 100, dtype=object)
    z = rng.normal(size=(300, 8)) + 4.0 * (labels == "YSO")[:, None]
    return Model(
        model_id="folded-test",
        config=config,
        grid=EnergyGrid(),
        network=build(config.model, EnergyGrid()).eval(),
        population=Population.fit(z, labels, keys, references=150, seed=0),
        train_sources=keys[:200],
        validation_sources=keys[200:],
        metrics={"release": "sim", "epochs": 1, "best_epoch": 0, "validation_loss": 1.0},
    )


def test_a_bundle_comes_back_whole(model: Model, tmp_path: Path) -> None:
    save_model(model, Workspace(tmp_path), "m")
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["README.md", "config.toml", "metrics.json", "model.safetensors"]
    loaded = load_model(tmp_path / "m")
    spectra, _ = power_laws(5)
    before, after = model.encode_batch(spectra), loaded.encode_batch(spectra)
    assert before.equals(after)
    assert loaded.split_of(np.array([1, 250, 999])).tolist() == ["train", "validation", "test"]
    assert loaded.population.classes == ("AGN", "YSO")
    assert loaded.population.reference_names == ()


def test_equal_models_have_the_same_fingerprint_and_others_another_one(
    model: Model, tmp_path: Path
) -> None:
    """Files of equal models differ in the order of their metadata."""
    found = set()
    for number in range(8):
        save_model(model, Workspace(tmp_path), str(number))
        found.add(load_model(tmp_path / str(number)).fingerprint)
    assert len(found) == 1
    model.population.weights[:2] += [1e-9, -1e-9]
    save_model(model, Workspace(tmp_path), "other")
    assert load_model(tmp_path / "other").fingerprint not in found


def test_names_of_the_labeled_spectra_come_back(model: Model, tmp_path: Path) -> None:
    keys, labels = np.arange(300), np.array([None, "AGN", "YSO"] * 100, dtype=object)
    z = np.random.default_rng(0).normal(size=(300, 8))
    names = [f"2CXO J{key:06d}.0+000000" for key in keys]
    population = Population.fit(z, labels, keys, references=150, seed=0, names=names)
    save_model(replace(model, population=population), Workspace(tmp_path), "m")
    loaded = load_model(tmp_path / "m").population
    assert loaded.reference_names == tuple(names[key] for key in loaded.reference_source)
    fewer = replace(population, reference_names=population.reference_names[1:])
    save_model(replace(model, population=fewer), Workspace(tmp_path), "few")
    with pytest.raises(RaypipeError, match="149 names of 150 references"):
        load_model(tmp_path / "few")


def test_a_model_shows_itself_in_one_line(model: Model) -> None:
    shown = "Model(folded-test: preset folded, 8 latents, trained on 200 sources; AGN, YSO)"
    assert repr(model) == shown


@pytest.mark.parametrize("keep", [0, 5, 100, 5000, -1])
def test_a_cut_bundle_is_refused(model: Model, tmp_path: Path, keep: int) -> None:
    save_model(model, Workspace(tmp_path), "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(RaypipeError, match=r"model\.safetensors"):
        load_model(tmp_path / "m")


def test_a_model_of_another_shape_is_refused(model: Model, tmp_path: Path) -> None:
    save_model(model, Workspace(tmp_path), "m")
    _without_hash(tmp_path / "m" / "model.safetensors")
    config = tmp_path / "m" / "config.toml"
    config.write_text(config.read_text().replace("width = 16", "width = 32"))
    with pytest.raises(RaypipeError, match="not a whole raypipe model"):
        load_model(tmp_path / "m")
    with pytest.raises(RaypipeError, match="not a model bundle"):
        load_model(tmp_path)


def test_a_bundle_whose_settings_were_edited_is_refused(model: Model, tmp_path: Path) -> None:
    save_model(model, Workspace(tmp_path), "m")
    config = tmp_path / "m" / "config.toml"
    config.write_text(config.read_text().replace("refine_steps = ", "refine_steps = 1"))
    with pytest.raises(RaypipeError, match=r"model\.safetensors: it, or config\.toml.*has changed"):
        load_model(tmp_path / "m")


def test_a_bundle_without_a_hash_says_that_it_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(FORMAT_2, tmp_path / "m")
    _without_hash(tmp_path / "m" / "model.safetensors")
    with caplog.at_level("INFO", "raypipe"):
        load_model(tmp_path / "m")
    assert "saved without a hash" in caplog.text


def test_settings_that_are_none_name_their_bundle(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_2, tmp_path / "m")
    _without_hash(tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.toml").write_text("[model]\nwidht = 16\n")
    with pytest.raises(RaypipeError, match=r"/m: .*widht"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("network", np.nan, "not finite"),
        ("network", -np.inf, "not finite"),
        ("population.means", np.nan, "not finite"),
        ("population.reference_z", np.inf, "not finite"),
        ("population.reference_class", 2, "reference_class names"),
        ("population.reference_class", -1, "reference_class names"),
        ("population.weights", -0.5, "negative"),
        ("population.weights", 5.0, "sum to 1"),
        ("population.precisions_cholesky", 0.0, "precisions"),
        ("population.temperature", 0.0, "temperature is 0.0"),
        ("population.temperature", -1.0, "temperature is -1.0"),
        ("population.temperature", np.nan, "not finite"),
    ],
)
def test_numbers_that_no_model_has_are_refused(
    model: Model, tmp_path: Path, name: str, change: float, problem: str
) -> None:
    """Of bundles without a hash, too: one number is put first in the first such tensor."""

    def put_first(tensors: dict[str, np.ndarray]) -> None:
        chosen = next(key for key in sorted(tensors) if key.startswith(name))
        tensors[chosen].flat[0] = change

    with pytest.raises(RaypipeError, match=rf"model\.safetensors: .*{problem}"):
        load_model(_changed(model, tmp_path, put_first))


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("means", slice(1, None), slice(None)),
        ("means", slice(None), slice(4)),
        ("precisions_cholesky", slice(None), slice(4)),
        ("reference_z", slice(None), slice(4)),
        ("reference_z", slice(-1), slice(None)),
        ("reference_class", slice(-1), None),
        ("reference_source", slice(-1), None),
        ("weights", slice(0), None),
    ],
)
def test_population_arrays_that_do_not_fit_are_refused(
    model: Model, tmp_path: Path, name: str, rows: slice, columns: slice | None
) -> None:
    def cut(tensors: dict[str, np.ndarray]) -> None:
        values = tensors[f"population.{name}"][rows]
        kept = values if columns is None else values[:, columns]
        tensors[f"population.{name}"] = np.ascontiguousarray(kept)

    with pytest.raises(RaypipeError, match=r"model\.safetensors: .*population: "):
        load_model(_changed(model, tmp_path, cut))


def test_text_in_place_of_numbers_is_refused(model: Model, tmp_path: Path) -> None:
    def confuse(tensors: dict[str, np.ndarray]) -> None:
        classes = tensors["population.reference_class"]
        tensors["population.reference_class"] = classes.astype(np.float64)

    with pytest.raises(RaypipeError, match="reference_class has values of type float64"):
        load_model(_changed(model, tmp_path, confuse))


def _without_hash(
    weights: Path, change: Callable[[dict[str, np.ndarray]], None] | None = None
) -> None:
    """Save the weights of a bundle again, with their tensors changed and without their hash."""
    with safe_open(weights, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = file.metadata()["raypipe"]
    if change is not None:
        change(tensors)
    save_file(tensors, weights, metadata={"raypipe": description})


def _changed(model: Model, folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    save_model(model, Workspace(folder), "m")
    _without_hash(folder / "m" / "model.safetensors", change)
    return folder / "m"


def test_a_bundle_of_format_1_is_to_be_trained_again() -> None:
    """It was made for another energy grid, and reads no other telescope than ACIS."""
    with pytest.raises(
        RaypipeError, match=r"bundle-format-1/model\.safetensors: .*format 1.*train it again"
    ):
        load_model(FORMAT_1)


def test_a_bundle_for_another_grid_is_to_be_trained_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bundle_weights, "_grid_as_json", lambda grid: {"n_energy": 590})
        save_model(model, Workspace(tmp_path), "m")
    with pytest.raises(RaypipeError, match=r"another energy grid, .*590.*; train it again"):
        load_model(tmp_path / "m")


def test_a_bundle_of_format_2_says_what_it_said() -> None:
    """`python -m tests.make_bundle` makes it."""
    model = load_model(FORMAT_2)
    columns = model.encode_batch(power_laws(3, seed=9)[0])
    said = {
        "z0": ([0.3651, 0.6938, 0.7099], 2e-3),
        "z0_err": ([0.1498, 0.1654, 0.1620], 1e-3),
        "z0_std": ([0.1516, 0.1678, 0.1643], 1e-3),
        "cash": ([174.005, 179.215, 191.321], 0.05),
        "cash_expected": ([191.486, 190.339, 188.353], 0.05),
        "anomaly_score": ([38.826, 27.080, 26.099], 0.1),
    }
    for name, (values, tolerance) in said.items():
        assert columns[name].to_numpy() == pytest.approx(values, abs=tolerance), name
    assert columns["total_counts"].tolist() == [533, 509, 526]
    assert model.population.classes == ("AGN", "YSO")
    assert model.split_of(np.array([0, 700, 900])).tolist() == ["train", "validation", "test"]


def test_real_spectra_encode_as_one_reads_them(model: Model, shared_data: Path) -> None:
    spectra = [
        raypipe.read_spectrum(shared_data / "ciao" / name) for name in ("3c273.pi", "obs1.pi")
    ]
    frame = model.encode(spectra)
    assert len(frame) == 2
    assert frame["total_counts"].tolist() == pytest.approx([659, 49], rel=0.05)
    numbers = frame.drop(columns=["detection_id", "path", "z_cov"]).astype(float)
    assert np.isfinite(numbers).all(axis=None)
    assert "flux_b" not in frame, "fluxes are asked for by name"
    # ACIS sees too little of the ultrasoft band to measure its flux.
    fluxes = model.band_flux(spectra)
    assert fluxes["flux_u"].isna().all()
    assert np.isfinite(fluxes["flux_b"]).all()
    assert np.isfinite(np.stack(frame["z_cov"])).all()
    assert len(model.encode(spectra[0])) == 1


def test_densities_and_classes_know_the_population(model: Model) -> None:
    near, far = np.zeros((1, 8)), np.full((1, 8), 20.0)
    score = model.population.anomaly_score(np.concatenate([near, far]))
    assert score[1] > score[0] + 50
    p = model.population.class_probabilities(np.concatenate([near, np.full((1, 8), 4.0)]))
    assert p.sum(1) == pytest.approx([1.0, 1.0])
    assert p[0, 0] > 0.9
    assert p[1, 1] > 0.9


def test_a_source_has_no_vote_on_itself() -> None:
    z = np.concatenate([np.zeros((1, 8)), np.full((40, 8), 5.0)])
    labels = np.array(["AGN"] + ["YSO"] * 40, dtype=object)
    keys = np.arange(41, dtype=np.int64)
    population = Population.fit(z, labels, keys, references=100, seed=0)
    stranger = population.class_probabilities(z[:1], np.array([99]))
    itself = population.class_probabilities(z[:1], np.array([0]))
    assert stranger[0, 0] > itself[0, 0]
    assert itself[0, 0] < 0.1


def test_splits_go_by_source_and_stay() -> None:
    names = [f"2CXO J{i}" for i in range(4000)]
    keys = source_keys(names, names)
    split = assign_splits(keys, 0, 0.2, 0.1)
    assert np.mean(split == "test") == pytest.approx(0.2, abs=0.02)
    assert np.mean(split == "validation") == pytest.approx(0.1, abs=0.02)
    assert (assign_splits(keys[:50], 0, 0.2, 0.1) == split[:50]).all()
    assert (assign_splits(keys, 1, 0.2, 0.1) != split).any()
    assert source_keys(["a", None], ["x", "y"])[0] == source_keys(["a"], ["z"])[0]
