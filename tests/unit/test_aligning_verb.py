"""The verb align on a small published catalog: bundle, added columns, search, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import raypipe
from raypipe.alignment.bundle import load_alignment
from raypipe.alignment.spectrum_inputs import read_posteriors
from raypipe.cli import main
from raypipe.errors import RaypipeError, UsageError
from raypipe.model.bundle import load_model
from raypipe.model.integrity import DESCRIPTION, HASH, bundle_hash
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace, publish_table
from tests.unit.text_encoder_folders import write_static

MODEL = "folded-test"
SETTINGS = ["width=16", "epochs=8", "batch_size=32", "dimensions=4", "permutations=1"]
QUICK = {"align": {"width": 16, "epochs": 8, "batch_size": 32, "dimensions": 4}}


def write_view(workspace: Workspace, path: Path) -> Path:
    """Write a view of all sources but one, by name: two latents in noise, and a caption."""
    catalog = read_detections(workspace, RELEASE, MODEL).to_pandas().drop_duplicates("name")
    rng = np.random.default_rng(0)
    z = catalog[["z0", "z1"]].to_numpy()
    view = pa.table(
        {
            "name": catalog["name"].iloc[:-1],
            "seen": (z[:, 0] + 0.1 * rng.standard_normal(len(z)))[:-1],
            "other": np.where(rng.random(len(z)) < 0.2, None, z[:, 1].astype(object))[:-1],
            "caption": [f"a {'hard' if a > 0 else 'soft'} star" for a in z[:-1, 0]],
            "vector": list(z[:-1]),
        }
    )
    pq.write_table(view, path)
    return path


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("w"), detections=160)


@pytest.fixture(scope="module")
def view(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_view(synthetic.workspace, tmp_path_factory.mktemp("view") / "view.parquet")


@pytest.fixture(scope="module")
def aligned(synthetic: Synthetic, view: Path) -> dict[str, Any]:
    """The metrics of an alignment with two numbers of the view."""
    return raypipe.align(
        synthetic.workspace, with_=view, columns="seen,other", key="name", config=QUICK
    )


def test_the_command_line_prints_a_table_and_adds_columns(
    synthetic: Synthetic, view: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(synthetic.workspace.uri, tmp_path / "w")
    settings = [word for each in SETTINGS for word in ("--set", f"align.{each}")]
    arguments = ["align", "--workspace", str(copy), "--with", str(view), "--columns", "seen,other"]
    assert main([*arguments, *settings]) == 0
    printed = capsys.readouterr().out
    assert "| alignment | spectrum to view |" in printed
    assert "| permuted pairs 1 | view to spectrum |" in printed
    assert "| cca (baseline) |" in printed
    catalog = raypipe.open_catalog(copy)
    shared = catalog[[f"shared_{i}" for i in range(4)]].to_numpy()
    assert np.linalg.norm(shared, axis=1) == pytest.approx(np.ones(len(catalog)), abs=1e-5)
    assert (catalog["predicted_seen_lolim"] < catalog["predicted_seen_hilim"]).all()
    name = printed.split("\n")[0]
    made = sorted(path.name for path in (copy / "alignments" / name).iterdir())
    assert made == [
        "README.md",
        "align.safetensors",
        "config.toml",
        "judged.parquet",
        "metrics.json",
    ]
    assert "joined by name" in (copy / "alignments" / name / "README.md").read_text()
    name_of = catalog["name"].iloc[3]
    assert main(["search", "--workspace", str(copy), "--like-view", name_of, "-k", "3"]) == 0
    assert "similarity" in capsys.readouterr().out
    query = ["search", "--workspace", str(copy), "--name", name_of, "--to-view", "--json"]
    assert main(query) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["searched"]["found"] == "views"
    assert len(answer["rows"]) == 10


def test_the_same_command_finds_what_it_made_and_other_settings_make_another(
    synthetic: Synthetic, view: Path, aligned: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = synthetic.workspace
    weights = f"alignments/{aligned['alignment_id']}/align.safetensors"
    before = store.modified(weights)
    with caplog.at_level("INFO"):
        again = raypipe.align(store, with_=view, columns="seen,other", key="name", config=QUICK)
    assert again == aligned
    assert "is already made" in caplog.text
    assert store.modified(weights) == before
    others = {"align": QUICK["align"] | {"seed": 1}}
    other = raypipe.align(store, with_=view, columns="seen,other", key="name", config=others)
    assert other["alignment_id"] != aligned["alignment_id"]
    # The first one is still there: only its columns have to be added again.
    raypipe.align(store, with_=view, columns="seen,other", key="name", config=QUICK)
    assert store.modified(weights) == before


def test_a_bundle_comes_back_as_it_was_saved(synthetic: Synthetic, aligned: dict[str, Any]) -> None:
    store = synthetic.workspace
    made = load_alignment(store.absolute_uri(f"alignments/{aligned['alignment_id']}"))
    assert made.metrics == aligned
    assert made.about.key == "name"
    catalog = raypipe.open_catalog(store)
    posteriors, known = read_posteriors(read_detections(store, RELEASE, MODEL))
    assert known.all()
    shared = catalog[[f"shared_{i}" for i in range(4)]].to_numpy()
    assert made.embed_spectra(posteriors) == pytest.approx(shared, abs=1e-6)
    opened = raypipe.open_alignment(store)
    row = opened.rows.slice(5, 1).to_pylist()[0]
    values = {"seen": float(row["summary"].split(",")[0].split()[1])}
    assert opened.embed_values(json.dumps(values)).shape == (4,)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "align.safetensors").read_bytes())
    data[-3] ^= 1
    (folder / "align.safetensors").write_bytes(bytes(data))


def _cut(folder: Path) -> None:
    data = (folder / "align.safetensors").read_bytes()
    (folder / "align.safetensors").write_bytes(data[: len(data) // 2])


def _config(folder: Path) -> None:
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("seed = 0", "seed = 3"))


def _other_file(folder: Path) -> None:
    save_file({"x": np.ones(3)}, folder / "align.safetensors")


def _without_hash(folder: Path) -> None:
    save_file(load_file(folder / "align.safetensors"), folder / "align.safetensors")


def _any_size(folder: Path) -> None:
    """Ask for a network of a hundred million latents, with a hash that fits."""
    tensors = load_file(folder / "align.safetensors")
    with safe_open(folder / "align.safetensors", "numpy") as opened:
        description = opened.metadata()[DESCRIPTION].replace('"latents": 8', '"latents": 100000000')
    config = (folder / "config.toml").read_bytes()
    metadata = {DESCRIPTION: description, HASH: bundle_hash(description, config, tensors)}
    save_file(tensors, folder / "align.safetensors", metadata)


def _gone(folder: Path) -> None:
    (folder / "align.safetensors").unlink()


@pytest.mark.parametrize(
    "harm", [_flip, _cut, _config, _other_file, _without_hash, _any_size, _gone]
)
def test_a_damaged_bundle_is_refused(
    synthetic: Synthetic, aligned: dict[str, Any], tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    source = Path(synthetic.workspace.uri) / "alignments" / aligned["alignment_id"]
    folder = shutil.copytree(source, tmp_path / "bundle")
    load_alignment(folder)
    harm(folder)
    with pytest.raises(RaypipeError, match=r"align\.safetensors.*(again|is not the bundle)"):
        load_alignment(folder)


def test_search_goes_from_views_to_spectra_and_back(
    synthetic: Synthetic, aligned: dict[str, Any]
) -> None:
    store = synthetic.workspace
    catalog = raypipe.open_catalog(store)
    name = catalog["name"].iloc[10]
    found = raypipe.search(store, like_view=name, k=len(catalog))
    assert (found["similarity"].diff().dropna() <= 1e-6).all()
    assert set(found.loc[found["is_own"], "name"]) == {name}
    back = raypipe.search(store, detection=catalog["detection_id"].iloc[10], to_view=True, k=5)
    assert {"row", "name", "summary", "similarity"} <= set(back)
    by_values = raypipe.search(store, like_view='{"seen": 1.0}', k=3)
    assert len(by_values) == 3
    numbered = raypipe.search(store, like_view="#1", k=3)
    assert numbered.attrs["query"]["row"] == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"like_view": "nobody"}, "has no row of this name"),
        ({"like_view": "#100000"}, "has no row of this name"),
        ({"like_view": "[1, 2]"}, "a view of seen, other"),
        ({"like_view": '{"x": 1}'}, "the view has no column x"),
        ({"like_view": '{"seen": "much"}'}, "column seen"),
        ({"like_view": '{"seen": NaN}'}, "column seen"),
        ({"like_view": '{"seen": true}'}, "column seen: True: expected a number"),
        ({"like_view": '{"seen": null}'}, "at least one column"),
        ({"like_view": "{"}, "nor JSON"),
        ({"text": "a star"}, "has no texts"),
        ({"strangest": True, "to_view": True}, "--to-view belongs to"),
        ({"like_view": "#1", "text": "a"}, "exactly one"),
        ({"like_view": "#1", "k": 0}, "must be at least 1"),
    ],
)
def test_queries_that_cannot_be_answered_are_refused(
    synthetic: Synthetic, aligned: dict[str, Any], query: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        raypipe.search(synthetic.workspace, **query)


def test_texts_are_read_by_an_encoder_and_searched_by_words(
    synthetic: Synthetic, view: Path, tmp_path: Path
) -> None:
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    write_static(tmp_path / "words")
    options: dict[str, Any] = {"with_": view, "columns": ["caption"], "key": "name"}
    settings = {"align": QUICK["align"] | {"epochs": 60, "test_fraction": 0.4}}
    raypipe.align(store, text_encoder=tmp_path / "words", config=settings, **options)
    means = {
        word: raypipe.open_catalog(store)
        .set_index("detection_id")
        .loc[raypipe.search(store, text=f"a {word} star", k=20)["detection_id"], "z0"]
        .mean()
        for word in ("soft", "hard")
    }
    assert means["hard"] > means["soft"]
    write_static(tmp_path / "words", size=6)
    with pytest.raises(UsageError, match="another text encoder"):
        raypipe.search(store, text="a hard star")


def test_the_spectrum_of_a_view_has_a_band(synthetic: Synthetic, aligned: dict[str, Any]) -> None:
    opened = raypipe.open_alignment(synthetic.workspace)
    row = opened.rows.slice(3, 1).to_pylist()[0]
    predicted = opened.predict_spectrum(row["name"], draws=64)
    energy, width = predicted.energy_kev, np.gradient(predicted.energy_kev)
    assert predicted.value.shape == (1, len(energy))
    assert (predicted.lolim <= predicted.value).all()
    assert (predicted.value < predicted.hilim).any()
    inside = (energy > 0.5) & (energy < 7)
    assert (predicted.value[0] * width)[inside].sum() == pytest.approx(1, abs=0.2)
    assert np.array_equal(predicted.value, opened.predict_spectrum("#4", draws=64).value)
    assert opened.predict_spectrum('{"seen": 0.5}').value.shape == predicted.value.shape
    other = load_model(synthetic.workspace.absolute_uri(f"models/{MODEL}"))
    other.model_id = "another"
    with pytest.raises(UsageError, match="not with another"):
        opened.predict_spectrum("#4", other)


def test_columns_of_an_earlier_catalog_are_refused_until_aligned_again(
    synthetic: Synthetic, view: Path, aligned: dict[str, Any], tmp_path: Path
) -> None:
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    model = load_model(store.absolute_uri(f"models/{MODEL}"))
    publish_table(store, model, read_detections(store, RELEASE, MODEL).slice(0, 150))
    with pytest.raises(RaypipeError, match="run raypipe align again"):
        raypipe.search(store, like_view="#1")
    raypipe.align(store, with_=view, columns="seen,other", key="name", config=QUICK)
    assert len(raypipe.search(store, like_view="#1", k=200)) == 150


def test_a_target_in_the_view_is_refused_and_others_are_scored(
    synthetic: Synthetic, view: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"with_": view, "columns": "seen", "key": "name"}
    for names, message in (
        (["seen"], "seen is in the view"),
        (["nothing"], "no column 'nothing'"),
    ):
        settings = {"align": QUICK["align"] | {"targets": names}}
        with pytest.raises(UsageError, match=message):
            raypipe.align(synthetic.workspace, config=settings, **options)
    wanted = {"targets": ["class", "z2", "other"], "test_fraction": 0.8}
    settings = {"align": QUICK["align"] | wanted | {"epochs": 3, "validation_fraction": 0.1}}
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    metrics = raypipe.align(store, config=settings, **options)
    for scores in (metrics["usefulness"], metrics["permuted"][0]["usefulness"]):
        assert scores["z2"]["score"] == "R²"
        assert scores["z2"]["latents"]["value"] > 0.3
        assert set(scores) == {"class", "z2", "other"}


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("name,x\nnobody,1\nelse,2\n", {}, "no row matches a detection.*neither by"),
        ("name,x\nnobody,1\nelse,2\n", {"key": "name"}, "no row matches a detection.*by name"),
        ("name,x\nnobody,1\nelse,2\n", {"key": "redshift"}, "--key redshift: expected one of"),
        ("name,x\n2CXO J000003,1\n2CXO J000004,2\n", {}, "only 2 sources have both"),
        ("name,x\n2CXO J000003,1\n2CXO J000003,2\n", {}, "several rows have the same name"),
        ("name,x\n2CXO J000003,1\n2CXO J000004,1\n", {"columns": "x"}, "the same value in all"),
        ("name\n2CXO J000003\n2CXO J000004\n", {}, "no column can serve as a view"),
    ],
)
def test_tables_that_cannot_be_aligned_are_refused_and_leave_nothing(
    synthetic: Synthetic, tmp_path: Path, table: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.csv").write_text(table)
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    runs = store.folders("runs")
    with pytest.raises(UsageError, match=message):
        raypipe.align(store, with_=tmp_path / "t.csv", config=QUICK, **options)
    assert store.folders("runs") == runs


def _list_of(values: list[Any], wrong: Any) -> list[Any]:
    return [wrong if place == 4 else each for place, each in enumerate(values)]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (lambda n: pa.nulls(n, pa.float64()), "can serve as a view: x .constant or empty"),
        (lambda n: _list_of([[0.5, float(i)] for i in range(n)], [1.0, np.nan]), "row 5: NaN"),
        (lambda n: _list_of([[0.5, float(i)] for i in range(n)], [1.0]), "different lengths, 1 to"),
        (lambda n: [["a", str(i)] for i in range(n)], r"holds list<.*string>; expected numbers"),
        (lambda n: [[[1.0, float(i)]] for i in range(n)], r"holds list<.*list<.*; expected"),
        (lambda n: [f"{i / 7:.3f}" for i in range(n)], "holds numbers as text; store numbers"),
        (lambda n: _list_of([str(i) for i in range(n)], "n/a"), "row 5: 'n/a' is no number"),
        (lambda n: [f"caption {i}" for i in range(n)], "different texts, at most 64"),
        (lambda n: _list_of([float(i) for i in range(n)], np.inf), "row 5: infinite"),
    ],
)
def test_a_broken_column_is_refused_with_its_row_and_the_mend(
    synthetic: Synthetic, tmp_path: Path, column: Callable[[int], Any], message: str
) -> None:
    names = raypipe.open_catalog(synthetic.workspace)["name"].unique()
    table = pa.table({"name": names, "x": column(len(names))})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=message):
        raypipe.align(synthetic.workspace, with_=tmp_path / "t.parquet", config=QUICK)
    with pytest.raises(UsageError, match=r"column x|x \("):
        raypipe.align(synthetic.workspace, with_=tmp_path / "t.parquet", columns="x", config=QUICK)
