"""Views from tables: what is read, how it is scaled, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.alignment.view_table import ViewColumn, read_view_table
from raypipe.alignment.views import ViewScale, from_scores, normal_scores
from raypipe.errors import UsageError

NAMES = [f"s{i}" for i in range(6)]


def write(folder: Path, **columns: Any) -> Path:
    path = folder / "view.parquet"
    pq.write_table(pa.table({"name": NAMES, **columns}), path)
    return path


def test_columns_are_read_by_their_kind(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        flux=[1.0, None, 3.0, float("nan"), 5.0, 6.0],
        kind=["a", "b", "", None, "a", " b "],
        flag=[True, False, None, True, True, True],
        vector=pa.array([[1.0, 2.0]] * 5 + [None], pa.list_(pa.float32(), 2)),
        when=[[2.0, 1.0], [1.0], None, [], [1.0], [1.0]],
        rate=[[20.0, 10.0], [1.0], [1.0], [], [1.0], [1.0]],
    )
    columns = ["flux", "kind", "flag", "when:rate"]
    read = {each.name: each for each in read_view_table(path, columns).columns}
    assert [read[name].kind for name in columns] == ["number", "category", "category", "curve"]
    assert read["flux"].is_known.tolist() == [True, False, True, False, True, True]
    assert read["kind"].values.tolist() == ["a", "b", None, None, "a", "b"]
    assert read["flag"].values.tolist() == ["true", "false", None, "true", "true", "true"]
    assert read["when:rate"].values[0].tolist() == [[1.0, 2.0], [10.0, 20.0]]
    assert read["when:rate"].is_known.tolist() == [True, True, False, False, True, True]
    texts = read_view_table(path, ["kind"], texts=True)
    assert texts.columns[0].kind == "text"
    assert texts.identity["name"].tolist() == NAMES


def test_by_default_all_that_can_be_used_is_and_the_rest_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(
        tmp_path,
        ra=np.arange(6.0),
        flux=np.arange(6.0),
        same=np.ones(6),
        empty=pa.nulls(6, pa.float64()),
        vector=[[float(i), 1.0] for i in range(6)],
        ragged=[[1.0], [1.0, 2.0], None, None, None, None],
        z0=np.arange(6.0) ** 2,
    )
    with caplog.at_level("INFO"):
        names = [each.name for each in read_view_table(path).columns]
    assert names == ["flux", "z0", "vector"]
    assert "same (constant or empty)" in caplog.text
    assert "vectors of different lengths" in caplog.text


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ({"x": np.ones(6)}, ["x"], "column x has the same value in all rows"),
        ({"x": pa.nulls(6, pa.float64())}, ["x"], "column x has no value"),
        ({"x": np.arange(6.0)}, ["y"], "no column 'y'; it has x"),
        ({"x": [1.0, float("inf"), 2, 3, 4, 5]}, ["x"], "column x, row 2: infinite"),
        ({"x": [[1.0], [1.0, 2.0]] * 3}, ["x"], "vectors of different lengths, 1 to 2"),
        ({"x": [[1.0, float("nan")]] * 6}, ["x"], "column x, row 1: NaN or infinity"),
        ({"x": [[1.0, None]] * 6}, ["x"], "column x, row 1: NaN or infinity"),
        (
            {"x": [[]] * 6},
            ["x"],
            "no number or text|vectors of 0 numbers|expected numbers|no column",
        ),
        (
            {"t": [[1.0]] * 6, "r": [[1.0, 2.0]] * 6},
            ["t:r"],
            "row 1 has 1 t and 2 r",
        ),
        ({"t": [[1.0]] * 6}, ["t:r"], "no column 'r' of lists"),
    ],
)
def test_values_that_cannot_be_used_are_refused_with_their_place(
    tmp_path: Path, columns: dict[str, Any], wanted: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        read_view_table(write(tmp_path, **columns), wanted)
    assert "view.parquet" in str(error.value)


def test_many_different_texts_are_no_categories(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("name,text\n" + "".join(f"s{i},words {i}\n" for i in range(100)))
    with pytest.raises(UsageError, match=r"100 different texts.*--text-encoder"):
        read_view_table(path, ["text"])
    assert read_view_table(path, ["text"], texts=True).columns[0].kind == "text"


def test_normal_scores_keep_the_order_over_decades_and_go_back() -> None:
    rng = np.random.default_rng(0)
    flux = 10.0 ** rng.uniform(-16, -10, 2000)
    flux[:300] = 0.0
    column = ViewScale.fit([ViewColumn("flux", "number", flux)], 64).columns[0]
    scores = normal_scores(column, flux)
    assert abs(scores.mean()) < 0.1
    assert 0.8 < scores.std() < 1.1
    order = np.argsort(flux)
    assert (np.diff(scores[order]) >= 0).all()
    inside = (flux > np.quantile(flux, 0.2)) & (flux < np.quantile(flux, 0.95))
    assert from_scores(column, scores)[inside] == pytest.approx(flux[inside], rel=1e-6)
    assert np.isnan(normal_scores(column, np.array([np.nan]))).all()


def test_few_training_rows_do_not_make_different_numbers_equal() -> None:
    rng = np.random.default_rng(0)
    column = ViewScale.fit([ViewColumn("x", "number", rng.standard_normal(11))], 64).columns[0]
    assert len(np.unique(normal_scores(column, rng.standard_normal(200)))) == 200
    rare = np.zeros(2000)
    rare[:3] = 1.0
    column = ViewScale.fit([ViewColumn("x", "number", rare)], 64).columns[0]
    assert np.diff(normal_scores(column, np.array([0.0, 1.0])))[0] > 2


def test_numbers_beyond_all_training_rows_stay_different_and_bounded() -> None:
    column = ViewScale.fit([ViewColumn("x", "number", np.linspace(-1, 1, 200))], 64).columns[0]
    beyond = np.array([-1e30, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 1e30])
    scores = normal_scores(column, beyond)
    assert (np.diff(scores) > 0).all()
    assert np.abs(scores).max() < 5
    ends = from_scores(column, scores)
    assert ends.min() > -1.01
    assert ends.max() < 1.01


def test_a_word_that_training_has_not_seen_counts_as_missing() -> None:
    seen = ViewColumn("c", "category", np.array(["a", "b", "a"], dtype=object))
    scale = ViewScale.fit([seen], 64)
    inputs = scale.transform([ViewColumn("c", "category", np.array(["b", "x", None], object))])
    assert inputs.values.tolist() == [[0, 1], [0, 0], [0, 0]]
    assert inputs.known[:, 0].tolist() == [True, False, False]


def test_a_long_light_curve_is_thinned_evenly() -> None:
    curves = np.full(2, None, dtype=object)
    curves[0] = np.stack([np.arange(1000.0), np.arange(1000.0)])
    curves[1] = np.stack([np.arange(5.0), np.ones(5)])
    scale = ViewScale.fit([ViewColumn("t:r", "curve", curves)], 64)
    inputs = scale.transform([ViewColumn("t:r", "curve", curves)])
    assert inputs.points is not None
    assert inputs.curves is not None
    assert inputs.points.tolist() == [64, 5]
    assert inputs.curves[0, [0, 63], 0].tolist() == [0.0, 1.0]
