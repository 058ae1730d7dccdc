"""The verb search, in Python and on the command line, on a small published catalog."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import raypipe
from raypipe.cli import main
from raypipe.errors import OgipError, RaypipeError, UsageError
from raypipe.searching.answers import answer_json, answer_text
from raypipe.searching.latent_search import LatentSearch
from raypipe.searching.query import SpectrumFiles
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace, publish_table

NAME = "2CXO J000003"
"""A source of two detections, sim:6.0.1 and sim:7.0.1."""


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("w"), presets=("folded", "paper"))


@pytest.fixture(scope="module")
def opened(synthetic: Synthetic) -> LatentSearch:
    return raypipe.open_search(synthetic.workspace, model="folded-test")


@pytest.fixture
def pha(shared_data: Path, tmp_path: Path) -> Path:
    """A real spectrum with nothing beside it."""
    source = shared_data / "ciao" / "3c273.pi"
    return Path(shutil.copy(source, tmp_path / "mine.pi"))


def test_an_opened_catalog_shows_itself_in_one_line(opened: LatentSearch) -> None:
    shown = repr(opened)
    assert f"{len(opened.detections)} detections" in shown
    assert len(shown) < 300


def test_a_detection_is_not_its_own_neighbor_but_its_sibling_may_be(opened: LatentSearch) -> None:
    answer = opened.like_detection("sim:6.0.1", k=200)
    assert len(answer) == 119
    assert "sim:6.0.1" not in set(answer["detection_id"])
    assert "sim:7.0.1" in set(answer["detection_id"])
    assert answer["rank"].tolist() == list(range(1, 120))
    assert (answer["log_overlap"].diff().dropna() <= 1e-9).all()
    assert answer.attrs["query"]["detection_id"] == "sim:6.0.1"
    assert answer.attrs["query"]["name"] == NAME


def test_the_answer_tells_what_the_catalog_says(opened: LatentSearch) -> None:
    answer = opened.like_detection("sim:6.0.1", k=5).set_index("detection_id")
    catalog = raypipe.open_catalog(opened.workspace, model="folded-test").set_index("detection_id")
    rows = catalog.loc[answer.index]
    for column in ("name", "ra", "dec", "class", "total_counts", "flags"):
        assert answer[column].tolist() == rows[column].tolist()
    shares = rows.filter(regex="^p_")
    assert answer["p_likely_class"].to_numpy() == pytest.approx(shares.max(axis=1).to_numpy())
    assert ("p_" + answer["likely_class"]).tolist() == shares.idxmax(axis=1).tolist()
    latents = [f"z{i}" for i in range(8)]
    plain = np.linalg.norm(rows[latents] - catalog.loc["sim:6.0.1", latents].astype(float), axis=1)
    assert answer["euclidean"].to_numpy() == pytest.approx(plain, abs=1e-5)


def test_none_of_a_sources_own_detections_are_among_its_neighbors(opened: LatentSearch) -> None:
    answer = opened.like_source(NAME, k=200)
    assert len(answer) == 118
    assert NAME not in set(answer["name"])
    assert answer.attrs["query"]["best_detection_id"] in {"sim:6.0.1", "sim:7.0.1"}


def test_without_errors_neighbors_are_the_nearest_in_plain_space(synthetic: Synthetic) -> None:
    answer = raypipe.search(synthetic.workspace, detection="sim:6.0.1", model="paper-test", k=7)
    assert len(answer) == 7
    assert answer["log_overlap"].isna().all()
    assert (answer["euclidean"].diff().dropna() >= 0).all()
    assert len(raypipe.search(synthetic.workspace, strangest=True, model="paper-test", k=3)) == 6


def test_a_spectrum_of_the_catalog_is_like_itself(
    opened: LatentSearch, shared_data: Path, tmp_path: Path
) -> None:
    """Measured from its files, then found in a catalog that has it."""
    path = shared_data / "csc" / "acisf01575_001N001_r0085_pha3.fits.gz"
    spectrum = SpectrumFiles(path).read()
    measured = opened.model.encode(spectrum)
    store = Workspace(shutil.copytree(opened.workspace.uri, tmp_path / "w"))
    table = read_detections(store, RELEASE, "folded-test")
    mine = {name: measured[name].iloc[0] for name in measured}
    row = table.slice(0, 1).to_pylist()[0] | mine | {"detection_id": "mine"}
    both = pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)])
    publish_table(store, opened.model, both)
    steps = {"embed": {"refine_steps": 2}}
    answer = raypipe.search(store, pha=path, model="folded-test", k=200, config=steps)
    itself = answer.set_index("detection_id").loc["mine"]
    assert itself["distance"] == answer["distance"].min() == pytest.approx(0.0, abs=1e-3)
    assert itself["euclidean"] == answer["euclidean"].min() == pytest.approx(0.0, abs=1e-3)
    query = answer.attrs["query"]
    assert query["total_counts"] == 836
    strange = raypipe.search(store, strangest=True, model="folded-test", k=200)
    own = strange[strange["detection_id"] == "mine"].set_index("ranking")["sigmas"]
    assert own["far"] == pytest.approx(query["far_sigmas"], abs=1e-3)
    assert own["badly fit"] == pytest.approx(query["fit_sigmas"], abs=1e-3)


def test_every_acis_spectrum_is_a_query(opened: LatentSearch, shared_data: Path) -> None:
    files = [
        *(shared_data / "csc").glob("acis*_pha3.fits.gz"),
        *(shared_data / "ciao").glob("*.pi"),
        shared_data / "ciao" / "q1127_src1.pi.gz",
    ]
    sources = [file for file in files if "_bg" not in file.name]
    assert len(sources) == 13
    for file in sources:
        answer = opened.like_spectrum(SpectrumFiles(file), k=2)
        assert len(answer) == 2
        assert np.isfinite(answer["log_overlap"]).all()
        assert answer.attrs["query"]["total_counts"] > 0


def test_responses_given_take_the_place_of_those_not_there(
    opened: LatentSearch, shared_data: Path, pha: Path
) -> None:
    folder = shared_data / "ciao"
    with pytest.raises(OgipError, match=r"mine\.pi: its ARF is missing: put .*--arf FILE"):
        SpectrumFiles(pha).read()
    with pytest.raises(OgipError, match=r"mine\.pi: its RMF is missing: put .*--rmf FILE"):
        SpectrumFiles(pha, arf=folder / "3c273.arf").read()
    given = SpectrumFiles(pha, folder / "3c273.arf", folder / "3c273.rmf", folder / "3c273_bg.pi")
    one = opened.like_spectrum(given, k=4)
    other = opened.like_spectrum(SpectrumFiles(folder / "3c273.pi"), k=4)
    assert one["detection_id"].tolist() == other["detection_id"].tolist()
    assert one.attrs["query"]["causes"] == "zeroth_order"
    without = opened.like_spectrum(SpectrumFiles(pha, given.arf, given.rmf), k=1)
    assert "no_background" in without.attrs["query"]["flags"]
    assert any("BACKFILE" in note for note in without.attrs["query"]["notes"])


def test_a_header_that_names_caldb_asks_for_the_file(shared_data: Path) -> None:
    caldb = shared_data / "cases" / "header-oddities" / "caldb.pi"
    with pytest.raises(OgipError, match=r"caldb\.pi: its ARF is missing: give --arf FILE"):
        SpectrumFiles(str(caldb)).read()


def test_what_the_model_cannot_judge_is_refused_by_name(
    opened: LatentSearch, shared_data: Path
) -> None:
    hrc = next((shared_data / "csc").glob("hrc*_pha3.fits.gz"))
    with pytest.raises(OgipError, match=r"hrcf24564.*HRC has almost no energy resolution"):
        opened.like_spectrum(SpectrumFiles(hrc))


@pytest.mark.parametrize("name", ["sim:6.0.1", "6.0.1"])
def test_a_name_may_be_a_detection(opened: LatentSearch, name: str) -> None:
    answer = opened.like_source(name, k=5)
    assert answer.attrs["query"]["detection_id"] == "sim:6.0.1"
    pd.testing.assert_frame_equal(answer, opened.like_detection("sim:6.0.1", k=5))


def test_a_catalog_without_names_says_so(
    synthetic: Synthetic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    table = read_detections(store, RELEASE, "folded-test")
    at = table.schema.get_field_index("name")
    nothing = pa.nulls(len(table), table.schema.field(at).type)
    model = raypipe.load_model(Path(synthetic.workspace.uri) / "models" / "folded-test")
    publish_table(store, model, table.set_column(at, table.schema.field(at), nothing))
    line = ["search", "--workspace", store.uri, "--model", "folded-test", "--name"]
    assert main([*line, NAME]) == 2
    assert "no detection of this catalog has the name of a source" in capsys.readouterr().err
    assert main([*line, "6.0.1"]) == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "exactly one"),
        ({"detection": "sim:6.0.1", "strangest": True}, "exactly one"),
        ({"strangest": True, "arf": "a.arf"}, "belong to --pha"),
        ({"detection": "sim:6.0.1", "k": 0}, "at least 1"),
        ({"strangest": True, "k": -2}, "at least 1"),
        ({"detection": "sim:66.0.l"}, r"no detection of this name.*sim:66\.0\.1"),
        ({"name": "2cxo j000003"}, "no source of this name; is it 2CXO J000003"),
        ({"name": "2CXO J004000.0-050000"}, r"nearest on the sky is .*, 0\.0 arcsec away"),
        ({"name": "", "release": "csc9"}, "csc9"),
        ({"strangest": True, "model": "other"}, "no catalog by other"),
    ],
)
def test_bad_questions_are_usage_errors(synthetic: Synthetic, asked: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        raypipe.search(synthetic.workspace, **asked)


def test_a_workspace_half_made_says_what_is_missing(synthetic: Synthetic, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no release"):
        raypipe.open_search(tmp_path)
    store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / "w"))
    store.delete_folder("models/folded-test")
    opened = raypipe.open_search(store, model="folded-test")
    assert len(opened.like_detection("sim:6.0.1", k=3)) == 3
    with pytest.raises(RaypipeError, match=r"folded-test/model\.safetensors: no such file"):
        opened.strangest()
    table = read_detections(store, RELEASE, "folded-test")
    model = raypipe.load_model(Path(synthetic.workspace.uri) / "models" / "folded-test")
    publish_table(store, model, table)
    store.write_table(
        store.files("catalog/sim/folded-test", ".parquet")[0], table.drop_columns(["z_cov"])
    )
    with pytest.raises(RaypipeError, match=r"no errors of latents .* run raypipe embed again"):
        raypipe.open_search(store, model="folded-test")


def test_a_catalog_without_labels_has_no_classes_to_tell(tmp_path: Path) -> None:
    synthetic = make_workspace(tmp_path, detections=12, labels=False)
    answer = raypipe.search(synthetic.workspace, detection="sim:6.0.1", k=3)
    assert "likely_class" not in answer
    assert answer["class"].isna().all()


def test_the_command_prints_a_table_or_json(
    synthetic: Synthetic, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--workspace", synthetic.workspace.uri, "--model", "folded-test"]
    assert main([*command, "--name", NAME, "-k", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("query: ")
    assert NAME in printed
    assert "most similar of 120 detections of release sim by folded-test" in printed
    assert len(_table_of(printed)) == 2 + 3
    assert main([*command, "--strangest", "-k", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["ranking"] for row in answer["rows"]] == ["far"] * 2 + ["badly fit"] * 2
    assert set(answer["remarks"]) == {"far", "badly fit"}
    assert answer["searched"]["detections"] == 120
    assert main([*command, "--detection", "sim:6.0.1", "-k", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["query"]["detection_id"] == "sim:6.0.1"
    expected = raypipe.search(
        synthetic.workspace, detection="sim:6.0.1", k=1, model="folded-test"
    ).iloc[0]
    assert answer["rows"][0]["distance"] == pytest.approx(expected["distance"])
    assert main([*command, "--model", "paper-test", "--detection", "sim:6.0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["log_overlap"] is None


def _table_of(printed: str) -> list[str]:
    """Return the lines of the first table: title, units and rows."""
    (block, *_) = [each for each in printed.split("\n\n") if each.lstrip().startswith("rank")]
    return block.splitlines()


def test_the_table_has_units_rounded_numbers_and_a_legend(opened: LatentSearch) -> None:
    answer = opened.like_detection("sim:6.0.1", k=3)
    shown = answer_text(answer)
    title, units, first, *_ = _table_of(shown)
    assert title.split()[:5] == ["rank", "detection", "name", "ra", "dec"]
    assert units.split() == ["deg", "deg", "ct", "sigma"]
    best = answer.iloc[0]
    assert f"  {best['distance']:.2f}  " in first
    assert f"{best['distance']!r}" not in first
    assert "hardness" in title
    assert "(h - s) / (h + s) of net counts" in shown
    catalog = raypipe.open_catalog(opened.workspace, model="folded-test").set_index("detection_id")
    row = catalog.loc[best["detection_id"]]
    net = {
        band: row[f"counts_{band}"] - row[f"background_counts_{band}"] * row["background_scale"]
        for band in "hs"
    }
    hardness = (net["h"] - net["s"]) / (net["h"] + net["s"])
    assert best["hardness"] == pytest.approx(hardness)
    assert f"{hardness:+.2f}" in first


def test_the_table_shows_the_columns_that_verbs_have_added(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, 40)
    raypipe.cluster(made.workspace, clusters=2)
    raypipe.classify(made.workspace, config={"classify": {"folds": 2, "trees": 10}})
    catalog = raypipe.open_catalog(made.workspace).set_index("detection_id")
    answer = raypipe.search(made.workspace, detection="sim:6.0.1", k=5)
    rows = catalog.loc[answer["detection_id"]]
    assert answer["cluster"].tolist() == rows["cluster"].tolist()
    assert answer["best_class"].tolist() == rows["best_class"].tolist()
    shown = answer_text(answer)
    title, _, first, *_ = _table_of(shown)
    assert {"cluster", "best class"} <= set(re.split("  +", title))
    assert f"  {rows['cluster'].iloc[0]}  " in first
    assert "most probable cluster, found without labels" in shown
    assert "equally frequent; null for what is unlike" in shown


def test_the_table_leaves_out_empty_columns_and_json_keeps_them(
    synthetic: Synthetic, opened: LatentSearch
) -> None:
    answer = opened.like_detection("sim:6.0.1", k=3)
    title = _table_of(answer_text(answer))[0]
    assert "flags" not in title
    assert "no detection of this list has flags" in answer_text(answer)
    assert "flags" in answer_json(answer)["rows"][0]
    without_errors = raypipe.search(
        synthetic.workspace, detection="sim:6.0.1", model="paper-test", k=3
    )
    title = _table_of(answer_text(without_errors))[0]
    assert "euclidean" in title
    assert "distance" not in title


def test_nothing_strange_is_said_to_be_nothing_strange(opened: LatentSearch) -> None:
    """Latents of random weights lie close to the center: the first of them is no discovery."""
    answer = opened.strangest(k=2)
    assert not answer.loc[answer["ranking"] == "far", "beyond_chance"].any()
    assert "none is unusual: the largest" in answer.attrs["remarks"]["far"]
    shown = answer_text(answer)
    assert answer.attrs["remarks"]["far"] in shown
    assert "120 detections" in answer.attrs["remarks"]["far"]


def test_the_command_refuses_what_it_should(
    synthetic: Synthetic, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["search", "--workspace", synthetic.workspace.uri, "--model", "folded-test"]
    for asked in ([], ["--strangest", "--name", NAME], ["--strangest", "-k", "x"]):
        with pytest.raises(SystemExit) as refused:
            main([*command, *asked])
        assert refused.value.code == 2
    assert main([*command, "--detection", "sim:6.O.1"]) == 2
    assert "is it sim:6.0.1" in capsys.readouterr().err
    assert main([*command, "--pha", str(tmp_path / "absent.pi")]) == 1
    assert "absent.pi" in capsys.readouterr().err


def test_strangest_keeps_what_has_known_causes(opened: LatentSearch) -> None:
    answer = opened.strangest(k=120)
    assert isinstance(answer, pd.DataFrame)
    assert answer.groupby("ranking")["detection_id"].nunique().tolist() == [120, 120]
