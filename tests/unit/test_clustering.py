from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

import raypipe
from raypipe.cli import main
from raypipe.clustering.members import Members, Space
from raypipe.clustering.numbering import Numbering, number_clusters
from raypipe.display.clusters_figure import clusters_figure
from raypipe.errors import RaypipeError, UsageError
from raypipe.latents.flux_shapes import FluxShapes, flux_roots, photons_in_bins
from raypipe.latents.look_alikes import graph_clusters
from raypipe.model.bundle import load_model
from raypipe.store.layout import model_folder
from raypipe.store.publication import find_publication, read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace, publish_table

OPTIONS = {"cluster": {"directions": 3, "starts": 1, "most_clusters": 4}}


@pytest.fixture
def made(tmp_path: Path) -> Synthetic:
    return make_workspace(tmp_path, 80)


def columns_of(workspace: Workspace) -> pd.DataFrame:
    frame = raypipe.open_catalog(workspace)
    wanted = [name for name in frame if name == "cluster" or name.startswith("p_cluster_")]
    return frame.set_index("detection_id")[wanted]


def test_every_row_with_latents_has_a_cluster_and_probabilities(made: Synthetic) -> None:
    answer = raypipe.cluster(made.workspace, clusters=3, config=OPTIONS)
    table = raypipe.open_clusters(made.workspace)
    numbers = table["cluster"].tolist()
    assert answer["clusters"] == len(numbers)
    frame = columns_of(made.workspace)
    shares = frame[[f"p_cluster_{number}" for number in numbers]].to_numpy()
    assert shares.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert frame["cluster"].tolist() == [numbers[best] for best in shares.argmax(axis=1)]
    sizes = frame["cluster"].value_counts()
    assert table["n_detections"].tolist() == [sizes[number] for number in numbers]
    sources = raypipe.open_sources(made.workspace)
    assert table["n_sources"].sum() == len(sources) == sources["cluster"].notna().sum()
    for _, row in table.iterrows():
        members = frame.index[frame["cluster"] == row["cluster"]]
        assert {*row["typical"], *row["extreme"]} <= set(members)
        assert sum(row["class_sources"]) == (sources["cluster"] == row["cluster"]).sum()


def test_the_median_flux_is_that_of_the_members(made: Synthetic) -> None:
    raypipe.cluster(made.workspace, clusters=2, config=OPTIONS)
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    frame = raypipe.open_catalog(made.workspace)
    for _, row in raypipe.open_clusters(made.workspace).iterrows():
        z = frame.loc[frame["cluster"] == row["cluster"], [f"z{i}" for i in range(8)]].to_numpy()
        edges = np.append(row["energy_lo_kev"], row["energy_hi_kev"][-1]).astype(np.float64)
        photons = photons_in_bins(model.network, z, edges)
        band = photons_in_bins(model.network, z, np.array([0.5, 7.0]))
        median = np.median(photons / band / np.diff(edges), axis=0)
        assert row["flux"] == pytest.approx(median, rel=1e-4)
        assert (row["flux_lolim"] <= row["flux"]).all()
        assert (row["flux"] <= row["flux_hilim"]).all()


def test_the_same_call_changes_nothing_and_other_settings_make_them_again(made: Synthetic) -> None:
    raypipe.cluster(made.workspace, clusters=2, config=OPTIONS)
    model_id = made.models[0]
    first = find_publication(made.workspace, RELEASE, model_id, "cluster")
    raypipe.cluster(made.workspace, clusters=2, config=OPTIONS)
    assert find_publication(made.workspace, RELEASE, model_id, "cluster") == first
    raypipe.cluster(made.workspace, clusters=3, config=OPTIONS)
    second = find_publication(made.workspace, RELEASE, model_id, "cluster")
    assert first is not None
    assert second is not None
    assert second.number == first.number + 1


def test_the_same_data_and_seed_give_the_same_clusters(tmp_path: Path) -> None:
    found = []
    for name in "ab":
        made = make_workspace(tmp_path / name, 60)
        raypipe.cluster(made.workspace, clusters=3, config=OPTIONS)
        found.append(columns_of(made.workspace))
    pd.testing.assert_frame_equal(*found)


def test_a_changed_catalog_keeps_the_numbers_of_its_clusters(made: Synthetic) -> None:
    workspace, model_id = made.workspace, made.models[0]
    raypipe.cluster(workspace, clusters=3, config=OPTIONS)
    before = columns_of(workspace)["cluster"]
    model = load_model(workspace.absolute_uri(model_folder(model_id)))
    rows = read_detections(workspace, RELEASE, model_id)
    publish_table(workspace, model, rows.slice(0, 70))
    with pytest.raises(RaypipeError, match="run raypipe cluster again"):
        raypipe.open_clusters(workspace)
    raypipe.cluster(workspace, clusters=3, config=OPTIONS)
    after = columns_of(workspace)["cluster"]
    assert (after == before.loc[after.index]).mean() > 0.8


def test_numbers_follow_the_members_and_new_clusters_get_new_numbers() -> None:
    earlier = Numbering(
        keys=np.arange(8), clusters=np.array([0, 0, 0, 4, 4, 4, 2, 2]), used=6, made_by="r"
    )
    sources = np.array([0, 1, 3, 4, 5, 2, 20, 21])
    clusters = np.array([1, 1, 0, 0, 0, 0, 2, 2])
    numbers, used = number_clusters(sources, clusters, 3, earlier)
    assert numbers.tolist() == [4, 0, 6]
    assert used == 7
    assert number_clusters(sources, clusters, 3, None)[0].tolist() == [0, 1, 2]


def test_a_graph_separates_what_is_apart_and_names_what_is_missing(
    made: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(60, 2)), rng.normal(size=(40, 2)) + 30.0])
    pytest.importorskip("leidenalg")
    shares = graph_clusters(values, np.arange(100), 0.05, 0)
    labels = shares.argmax(axis=1)
    assert not set(labels[:60]) & set(labels[60:])
    joined = graph_clusters(values, np.r_[np.arange(60), np.arange(40)], 0.05, 0)
    assert joined.shape[0] == 100
    raypipe.cluster(made.workspace, method="graph", config=OPTIONS)
    assert columns_of(made.workspace)["cluster"].notna().all()
    monkeypatch.setitem(__import__("sys").modules, "leidenalg", None)
    with pytest.raises(UsageError, match=r"pip install 'raypipe\[graph\]'"):
        graph_clusters(values, np.arange(100), 1.0, 0)


def test_errors_of_latents_become_errors_of_flux_shapes(made: Synthetic) -> None:
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    rng = np.random.default_rng(1)
    z = rng.normal(size=(200, 8))
    shapes = FluxShapes.fit(model.network, z, 3)
    assert shapes.values(z).std(axis=0) == pytest.approx(1.0, abs=0.01)
    roots = flux_roots(model.network, z)
    assert (roots**2).sum(axis=1) == pytest.approx(1.0)
    cov = np.diag(np.linspace(0.01, 0.04, 8))
    carried = shapes.covariance(z[:1], cov[None])[0]
    draws = shapes.values(rng.multivariate_normal(z[0], cov, 20_000))
    assert carried == pytest.approx(np.cov(draws.T), abs=0.005)


def test_a_model_without_a_flux_has_clusters_of_latents(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, 60, presets=("paper",))
    raypipe.cluster(made.workspace, clusters=2, config=OPTIONS)
    table = raypipe.open_clusters(made.workspace)
    assert table["flux"].isna().all()
    assert len(clusters_figure(table).axes)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--release", "other"], "has no release other"),
        (["--model", "other"], "has no catalog by other"),
        (["--clusters", "9"], "at most 8 clusters can be fitted to 80 of them"),
        (["--clusters", "0"], "expected at least 1"),
        (["--previous", "earlier"], "has no release earlier"),
        (["--previous", RELEASE], "has no clusters of this release"),
        (["--method", "graph", "--clusters", "3"], "set cluster.resolution instead"),
        (["--plot", "a.pdf"], "expected a name that ends in .png, .svg"),
        (["--method", "tree"], "invalid choice"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(
    made: Synthetic, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    try:
        code: object = main(["cluster", "--workspace", made.workspace.uri, *arguments])
    except SystemExit as usage:
        code = usage.code
    assert code == 2
    assert problem in capsys.readouterr().err
    assert not made.workspace.exists("columns")


def test_too_few_rows_with_latents_are_refused(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, 16)
    with pytest.raises(UsageError, match="16 detections have latents; clusters need 20"):
        raypipe.cluster(made.workspace)


def test_clusters_are_exported_with_their_meaning(made: Synthetic, tmp_path: Path) -> None:
    raypipe.cluster(made.workspace, clusters=2, config=OPTIONS)
    for sources in (False, True):
        uri = raypipe.export(made.workspace, format="votable", sources=sources)
        table = Table.read(uri)
        assert table["cluster"].description.startswith("most probable cluster")
        assert table["p_cluster_0"].meta["ucd"] == "stat.probability"
        assert table["p_cluster_0"].description == "probability of cluster 0"
    fits = Table.read(raypipe.export(made.workspace, format="fits"))
    assert set(fits["cluster"]) == set(raypipe.open_clusters(made.workspace)["cluster"])


def test_the_command_line_draws_the_clusters(
    made: Synthetic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "pictures" / "clusters.png"
    arguments = ["cluster", "--workspace", made.workspace.uri, "--clusters", "2", "--json"]
    assert main([*arguments, "--plot", str(plot)]) == 0
    assert json.loads(capsys.readouterr().out)["detections"] == 80
    assert plot.stat().st_size > 1000


def test_rows_without_errors_are_taken_as_exact(made: Synthetic) -> None:
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    z = np.random.default_rng(0).normal(size=(30, 8))
    nothing = np.full((30, 36), np.nan, np.float32)
    none = np.full(30, None, dtype=object)
    members = Members(none, np.arange(30), z, nothing, none, np.zeros((30, 0)))
    space = Space.fit(model, members, 2)
    covariance = space.covariance(members)
    assert np.isfinite(covariance).all()
    assert covariance.max() < 0.1
