"""The explorer's page has what the catalog has, and says what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import raypipe
from raypipe.catalog.sky_index import SkyIndex
from raypipe.cli import main
from raypipe.errors import UsageError
from raypipe.exploring.columns import choose_columns, join_table
from raypipe.exploring.explorer_data import draw_sample
from raypipe.exploring.explorer_page import json_in_html
from raypipe.exploring.latent_maps import kept_neighbors, make_maps
from raypipe.exploring.packing import logarithms, varints
from raypipe.exploring.sky import aitoff, sky_positions
from raypipe.exploring.spectra import _flux_scatter, latent_covariance
from raypipe.model.bundle import load_model
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import model_folder, part_name, spectra_folder
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("explorer"), detections=60)


def test_it_is_published_beside_the_report_and_recorded(made: Synthetic) -> None:
    (model_id,) = made.models
    uri = raypipe.explore(made.workspace)
    assert uri == made.workspace.absolute_uri(f"explorer/{RELEASE}/{model_id}.html")
    text = Path(uri).read_text()
    assert "60 detections, latents by folded-test" in text
    assert "src=" not in text.split("</style>")[0]
    (record,) = Path(made.workspace.absolute_uri("runs")).glob("*-explore/run.json")
    assert json.loads(record.read_text())["figures"]["detections"] == 60


def test_a_sample_keeps_the_strangest_and_says_what_it_leaves_out(made: Synthetic) -> None:
    text = Path(raypipe.explore(made.workspace, sample=40)).read_text()
    assert "40 of 60 detections are on this page: the strangest, and others drawn at" in text
    assert "20 are left out" in text
    rows = draw_sample(1000, 50, np.array([7, 999, 7]))
    assert len(rows) == 50
    assert {7, 999} <= set(rows)
    assert (np.diff(rows) > 0).all()
    assert draw_sample(10, 50, np.array([3])).tolist() == list(range(10))


def test_the_command_takes_a_table_and_refuses_one_that_matches_nothing(
    made: Synthetic, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("detection_id,mass\nsim:3.0.1,1.5\n")
    workspace = made.workspace.absolute_uri()
    assert main(["explore", "--workspace", workspace, "--with", str(table)]) == 0
    page = Path(made.workspace.absolute_uri(f"explorer/{RELEASE}/{made.models[0]}.html"))
    assert "1 of 60 detections have a row of" in page.read_text()
    table.write_text("detection_id,mass\nsim:none,1.5\n")
    assert main(["explore", "--workspace", workspace, "--with", str(table)]) == 2
    assert main(["explore", "--workspace", workspace, "--sample", "0"]) == 2


def _frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "detection_id": ["r:1.0.1", "r:2.0.1", "r:3.0.1"],
            "obsid": [1, 2, 3],
            "obi": 0,
            "region_id": 1,
            "name": ["A", "B", "B"],
            "ra": [10.0, 20.0, 0.0001],
            "dec": [1.0, -1.0, 0.0],
            "mass": [0.0, 0.0, 0.0],
        }
    )


@pytest.mark.parametrize(
    ("text", "how", "expected"),
    [
        ("detection_id,lum\nr:2.0.1,5\n", "detection_id", [None, 5, None]),
        ("obsid,obi,region_id,lum\n3,0,1,7\n", "obsid, obi, region_id", [None, None, 7]),
        ("name,lum\nB,2.5\n", "name", [None, 2.5, 2.5]),
        ("ra,dec,lum\n20.0001,-1.0,4\n359.9999,0,6\n", "position", [None, 4, 6]),
        ("name,ra,dec,lum\nZ,10,1,8\n", "position", [8, None, None]),
    ],
)
def test_a_table_is_joined_by_id_name_or_position(
    tmp_path: Path, text: str, how: str, expected: list[float | None]
) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    joined, added, sentence = join_table(_frame(), file, 1.0)
    assert added == {"lum"}
    assert f"joined by {how}" in sentence
    assert [None if pd.isna(each) else each for each in joined["lum"]] == expected


def test_a_joined_column_does_not_replace_one_of_the_catalog(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("name,mass\nA,9\n")
    joined, added, _ = join_table(_frame(), file, 1.0)
    assert added == {"catalog_mass"}
    assert joined["mass"].tolist() == [0, 0, 0]


def test_a_table_whose_rows_disagree_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("name,lum\nB,1\nB,2\n")
    with pytest.raises(UsageError, match=r"several rows have the same name, for instance B"):
        join_table(_frame(), file, 1.0)


def test_columns_are_numbers_and_few_words() -> None:
    frame = pd.DataFrame(
        {
            "detection_id": [f"r:{i}" for i in range(100)],
            "z0": np.arange(100.0),
            "kind": ["a", None] * 50,
            "remark": [f"remark {i}" for i in range(100)],
            "empty": [None] * 100,
            "whole": pd.array([1, None] * 50, "Int64"),
            "is_far": [True, False] * 50,
        }
    )
    found = choose_columns(frame, {"whole"})
    assert [each.name for each in found.columns] == ["whole", "z0", "is_far", "kind"]
    assert found.left_out == ["remark"]
    kind = found.columns[3]
    assert kind.categories == ["a"]
    assert kind.values[0] == 0
    assert np.isnan(kind.values[1])


def test_the_share_of_kept_neighbors_is_one_on_a_plane_and_chance_without_order() -> None:
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(600, 2))
    assert kept_neighbors(plane, 3 * plane + 1, seed=0) == 1.0
    assert kept_neighbors(plane, rng.normal(size=(600, 2)), seed=0) < 0.06
    assert np.isnan(kept_neighbors(plane[:20], plane[:20], seed=0))
    assert kept_neighbors(np.zeros((100, 2)), np.zeros((100, 2)), seed=0) <= 1.0


def test_maps_carry_the_posterior() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(300, 3)) * [3.0, 1.0, 0.2]
    covariance = np.tile(np.diag([0.04, 0.01, 0.0]), (300, 1, 1))
    covariance[5] = np.nan
    maps = {each.name: each for each in make_maps(z, seed=0)}
    drawn = z[7] + rng.multivariate_normal(np.zeros(3), covariance[7], 20_000)
    for name, tolerance in (("PCA", 0.05), ("t-SNE", 1.0)):
        sampled = np.cov(maps[name].carry(drawn).T)
        got = maps[name].ellipses(z, covariance)[7]
        scale = np.trace(sampled)
        assert np.allclose(
            [sampled[0, 0], sampled[0, 1], sampled[1, 1]], got, atol=tolerance * scale
        )
    tsne = maps["t-SNE"]
    ellipses = tsne.ellipses(z, covariance)
    assert np.isnan(ellipses[5]).all()
    assert np.isfinite(ellipses[[4, 6]]).all()
    wider = tsne.ellipses(z, 25 * covariance)
    assert np.nanmedian(wider[:, 0]) > 4 * np.nanmedian(ellipses[:, 0])
    assert np.allclose(tsne.carry(z[:9]), tsne.places[:9])
    assert make_maps(z[:2], seed=0) == []


def test_the_sky_has_its_middles_and_its_outline() -> None:
    center = sky_positions(np.array([266.405]), np.array([-28.936]), "galactic")
    assert np.allclose(center, 0, atol=1e-3)
    assert np.allclose(sky_positions(np.array([180.0]), np.zeros(1), "equatorial"), 0)
    east = sky_positions(np.array([190.0]), np.zeros(1), "equatorial")
    assert east[0, 0] < 0  # longitude grows to the left
    edge = aitoff(np.array([179.999, 0.0]), np.array([0.0, 90.0]), "galactic")
    assert np.allclose(edge, [[-np.pi, 0], [0, np.pi / 2]], atol=1e-3)
    assert np.isnan(sky_positions(np.array([np.nan]), np.zeros(1), "galactic")).all()


def test_positions_match_within_the_radius_and_across_zero() -> None:
    others = SkyIndex(np.array([359.9999, 51.0]), np.zeros(2))
    found = others.nearest(np.array([0.0001, 50.0]), np.zeros(2), 1.0)
    assert found.places.tolist() == [0, -1]
    assert found.separation_arcsec[0] == pytest.approx(0.72, abs=1e-3)


def test_logarithms_are_within_half_a_step() -> None:
    values = np.array([[1e-9, 1e-3, 1.0, 5e4, np.nan]])
    back = np.exp(np.cumsum(logarithms(values, 0.01, 1e-6), axis=1) * 0.01)
    assert np.allclose(back[0, 1:4], values[0, 1:4], rtol=0.0051)
    assert np.allclose(back[0, [0, 4]], 1e-6, rtol=0.0051)


def test_small_integers_take_one_byte() -> None:
    assert varints(np.array([0, -1, 1, -2, 63])) == bytes([0, 1, 2, 3, 126])
    assert len(varints(np.array([64, 8191, 2**31 - 1, -(2**31)]))) == 2 + 2 + 5 + 5


def test_json_does_not_end_its_element() -> None:
    content = {"a": '</script><!-- & "\u2028'}
    text = json_in_html(content)
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text) == content


def test_the_band_of_the_flux_is_that_of_draws(made: Synthetic) -> None:
    """Draws of the latents, each with the amplitude that fits its counts best."""
    store = made.workspace
    model = load_model(store.absolute_uri(model_folder(made.models[0])))
    table = store.read_table(part_name(spectra_folder(RELEASE), 0)).slice(20, 4)
    batch = SpectraBatch.from_table(table, ResponseLibrary(store))
    frame = model.encode_batch(batch)
    z = frame[[f"z{i}" for i in range(8)]].to_numpy(np.float64)
    covariance = 0.3 * latent_covariance(frame)
    fold = model.reconstruct(batch, z)
    source = (fold.total - fold.background).sum(axis=1)
    band = _flux_scatter(model, batch, z, covariance, source)
    rng = np.random.default_rng(0)
    for i in range(len(z)):
        draws = rng.multivariate_normal(z[i], covariance[i], 400)
        same = batch.take(np.full(400, i))
        with torch.no_grad():
            logs = np.log(model.flux(same, draws, smooth=True))
        amplitude = np.sqrt(batch.counts[i].sum()) / source[i]
        expected = np.sqrt(logs.var(axis=0) + amplitude**2)
        assert np.median(np.abs(band[i] / expected - 1)) < 0.15
