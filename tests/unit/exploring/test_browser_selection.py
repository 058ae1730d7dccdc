"""What is selected, searched and filtered in the explorer is what the catalog has."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from astropy.io.votable import parse

from raypipe.searching.batched_gaussians import Posteriors
from raypipe.searching.neighbors import Posterior, nearest
from tests.chromium import Page
from tests.unit.exploring.explorer_page import CLASSES, PIXELS, choose, saved, select_by


def _along(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return places along the sides of a polygon, as a pointer passes them."""
    closed = np.array([*corners, corners[0]])
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None]
    sides = [a + steps * (b - a) for a, b in pairwise(closed)]
    return [(float(x), float(y)) for x, y in np.concatenate(sides)]


@pytest.mark.parametrize("tool", ["BoxSelectTool", "LassoSelectTool"])
def test_box_and_lasso_select_the_names_inside(
    page: Page, catalog: pd.DataFrame, tool: str
) -> None:
    pixels = np.array(page.run(PIXELS))
    (left, top), (right, bottom) = np.quantile(pixels, [0.3, 0.7], axis=0) + 0.37
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    select_by(page, tool, *(_along(corners) if tool == "LassoSelectTool" else corners[::2]))
    inside = ((pixels > [left, top]) & (pixels < [right, bottom])).all(axis=1)
    page.wait(f"explorer.selection.length === {inside.sum()}", 10)
    assert 3 < inside.sum() < 60
    text = page.run(saved("csvText", "explorer.selection"))
    rows = list(csv.DictReader(io.StringIO(text)))
    chosen = catalog[inside]
    assert sorted(each["detection_id"] for each in rows) == sorted(chosen["detection_id"])
    assert sorted(each["name"] for each in rows) == sorted(chosen["name"])
    shown = page.run("document.querySelectorAll('#table-body tr').length")
    assert shown == inside.sum()


def test_the_selection_is_saved_as_votable(page: Page, catalog: pd.DataFrame) -> None:
    text = page.run(saved("votableText", "[0, 2, 41]"))
    votable = parse(io.BytesIO(text.encode()), verify="exception").get_first_table()
    table = votable.to_table()
    chosen = catalog.iloc[[0, 2, 41]]
    assert list(table["name"]) == list(chosen["name"])
    assert list(table["class"]) == list(chosen["class"])
    assert np.allclose(table["total_counts"], chosen["total_counts"])
    assert np.allclose(table["z3"], chosen["z3"], rtol=1e-4)
    assert str(table["exposure_s"].unit) == "s"
    ucds = {field.name: field.ucd for field in votable.fields}
    assert ucds["ra"] == "pos.eq.ra;meta.main"
    assert ucds["total_counts"] == "phot.count"


def test_look_alikes_are_those_of_search(page: Page, catalog: pd.DataFrame) -> None:
    z = catalog[[f"z{i}" for i in range(8)]].to_numpy(np.float32).T
    triangles = np.stack(catalog["z_cov"].to_list()).astype(np.float32).T
    known = Posteriors(z, triangles)
    page.run("explorer.select([12])")
    page.run("document.getElementById('alike-number').value = 8")
    page.wait("!document.getElementById('find-alike').disabled", 20)
    page.run("document.getElementById('find-alike').click()")
    page.wait("document.querySelectorAll('#alike button').length === 8", 20)
    query = Posterior(z[:, 12].astype(float), known.covariance[12])
    expected = nearest(query, known, 8, np.array([12]))
    assert page.run("explorer.similar") == expected.rows.tolist()
    found = page.run("explorer.catalog.similar([12], 8)")
    assert np.allclose([each["overlap"] for each in found], expected.log_overlap, atol=0.1)
    assert np.allclose([each["distance"] for each in found], expected.distance, rtol=0.02)
    page.run("document.getElementById('select-alike').click()")
    page.wait("explorer.selection.length === 8", 20)
    both = page.run("explorer.catalog.similar([12, 30], 79)")
    assert not {12, 30} & {each["row"] for each in both}
    alone = page.run("explorer.catalog.similar([30], 79)")
    overlap = {each["row"]: each["overlap"] for each in found}
    for each in alone:
        overlap[each["row"]] = max(overlap.get(each["row"], -np.inf), each["overlap"])
    assert both[0]["overlap"] == max(v for row, v in overlap.items() if row not in (12, 30))


def test_filters_keep_ranges_and_words(page: Page, catalog: pd.DataFrame) -> None:
    page.run("document.getElementById('add-filter').click()")
    choose(page, ".filter select", "total_counts")
    page.run(
        """(() => { const low = document.querySelector(".filter input");
        low.value = "1000"; low.dispatchEvent(new Event("input")); })()"""
    )
    bright = (catalog["total_counts"] >= 1000).to_numpy()
    assert page.run("explorer.models('kept').booleans") == bright.tolist()
    page.run("document.getElementById('add-filter').click()")
    choose(page, ".filter:last-child select", "class")
    page.run("document.querySelector('.filter:last-child input').click()")
    first = sorted(CLASSES)[0]
    both = bright & (catalog["class"] != first).to_numpy()
    assert page.run("explorer.models('kept').booleans") == both.tolist()
    assert f"{both.sum()} of 80" in page.run("document.getElementById('filter-count').textContent")


def test_points_are_colored_and_filtered_by_columns_of_other_verbs(page: Page) -> None:
    choose(page, "#color-choice", "cluster")
    assert page.run("explorer.colored.categories") == ["0", "1", "2", "3", "4"]
    codes = page.run("[...explorer.colored.values]")
    assert codes[:3] + codes[4:] == [i % 5 for i in range(80) if i != 3]
    assert codes[3] is None  # NaN
    assert "2 (16)" in page.run("document.getElementById('legend').textContent")
    choose(page, "#color-choice", "p_cluster_1")
    shown = page.run("[...explorer.models('points').data.value]")
    assert np.allclose(shown, np.linspace(0, 1, 80), rtol=1e-4)
    page.run("document.getElementById('add-filter').click()")
    choose(page, ".filter select", "p_cluster_1")
    page.run(
        """(() => { const low = document.querySelector(".filter input");
        low.value = "0.5"; low.dispatchEvent(new Event("input")); })()"""
    )
    kept = page.run("explorer.models('kept').booleans")
    assert np.flatnonzero(kept).tolist() == list(range(40, 80))


@pytest.mark.parametrize(
    ("text", "radius", "rows"),
    [
        ("j000003", 10, [6, 7]),
        ("sim:41.0.1", 10, [41]),
        ("<script>", 10, [0]),
        ("10.0 -5.0", 1, list(range(80))),
        ("0:40:00 -05:00:00.5", 1, list(range(80))),
        ("0:40:00 -05:00:05", 1, []),
        ("J004000.0-050000", 1, list(range(80))),
    ],
)
def test_search_finds(page: Page, text: str, radius: float, rows: list[int]) -> None:
    page.run(
        f"""(() => {{ document.getElementById("search").value = {text!r};
        document.getElementById("radius").value = {radius};
        document.getElementById("search-form").requestSubmit(); }})()"""
    )
    number = "document.querySelectorAll('#found button').length"
    page.wait(f"{number} === {len(rows)} && explorer.selection.length === {len(rows)}", 20)
    assert sorted(page.run("explorer.selection")) == rows
    assert page.run("document.getElementById('found-count').textContent").startswith(
        f"{len(rows)} detection"
    )
