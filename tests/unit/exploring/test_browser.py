"""The explorer works in a browser: its numbers are the catalog's, and no text of it runs."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from raypipe.display.spectrum_figure import group_bins
from raypipe.evaluation.selection import read_spectra
from raypipe.model.bundle import Model
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import part_name, spectra_folder
from tests.chromium import Page
from tests.unit.exploring.explorer_page import CLASSES, HOSTILE, MOVE, PIXELS, choose, hover, saved
from tests.unit.synthetic_workspace import NASTY_NAME, RELEASE, Synthetic


def _source(page: Page, name: str) -> dict[str, npt.NDArray[np.float64]]:
    code = f"Object.entries(explorer.models('{name}_data').data).map(([k, v]) => [k, [...v]])"
    return {key: np.array(values, float) for key, values in page.run(code)}


def test_it_loads_without_errors_or_requests(page: Page) -> None:
    assert page.errors == []
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert len(outside) == 1  # the page itself
    assert outside[0].startswith("file:")


def test_the_spectrum_is_that_of_the_detection_under_the_pointer(
    page: Page, made: Synthetic, model: Model, catalog: pd.DataFrame
) -> None:
    pixels = np.array(page.run(PIXELS))
    apart = np.hypot(*(pixels[:, None] - pixels[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    for row in np.argsort(-apart.min(axis=1))[:3]:
        hover(page, pixels[row], int(row))
        _assert_spectrum(page, int(row), made, model, catalog)


def _assert_spectrum(
    page: Page, row: int, made: Synthetic, model: Model, catalog: pd.DataFrame
) -> None:
    here = catalog.iloc[[row]]
    assert (
        page.run("document.getElementById('shown-id').textContent") == here["detection_id"].item()
    )
    spectra = read_spectra(made.workspace, RELEASE, here, model)
    assert spectra is not None
    assert spectra.model_counts is not None
    bins = spectra.bins[0]
    counts = spectra.counts[0, : len(bins)].astype(float)
    starts = group_bins(counts, float(np.clip(counts.sum() / 40, 5, 25)), 24 * len(bins) // 256)
    crosses = _source(page, "crosses")
    assert np.allclose(crosses["lo"], bins.lo_kev[starts])
    per = (crosses["hi"] - crosses["lo"]) * here["exposure_s"].item()
    grouped = np.add.reduceat(counts, starts)
    assert np.allclose(crosses["rate"] * per, grouped, rtol=1e-4)
    fold = np.add.reduceat(spectra.model_counts[0, : len(bins)], starts)
    assert np.allclose(_source(page, "fold")["y"][::2] * per, fold, rtol=0.006)
    residuals = (grouped - fold) / np.sqrt(fold)
    assert np.allclose(_source(page, "residuals")["value"], residuals, atol=0.1)
    table = made.workspace.read_table(part_name(spectra_folder(RELEASE), 0)).slice(row, 1)
    batch = SpectraBatch.from_table(table, ResponseLibrary(made.workspace))
    z = here[[f"z{i}" for i in range(8)]].to_numpy(float)
    flux = _source(page, "flux")
    expected = np.interp(flux["x"], model.grid.mid_kev, model.flux(batch, z, smooth=True)[0])
    assert np.allclose(flux["y"], expected, rtol=0.011)
    assert (flux["low"] < flux["y"]).all()
    assert (flux["high"] > flux["y"]).all()


def test_the_pointer_marks_a_point_without_drawing_all_of_them_again(page: Page) -> None:
    page.run(
        """window.drawings = 0;
        for (const name of ["map", "sky"]) {
          const { computed_renderer_views } = Bokeh.index.get_one(explorer.models(name));
          const points = computed_renderer_views.find((v) => v.model.name === `${name}_points`);
          const paint = points.paint.bind(points);
          points.paint = (...given) => { window.drawings += 1; return paint(...given); };
        }"""
    )
    page.run("document.getElementById('follow').click()")  # The pointer may be on a point.
    frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    for row in (20, 21):
        page.run(f"explorer.show({row}).then(() => {frames})")
        x, y = page.run(f"explorer.places.map.map((each) => each[{row}])")
        for mark in ("map_ring", "map_ellipse"):
            corners = np.array(page.run(f"['xs', 'ys'].map((k) => explorer.models('{mark}')[k])"))
            middle = (corners.min(axis=1) + corners.max(axis=1)) / 2
            assert np.allclose(middle, [x, y], atol=0.01)
    assert page.run("window.drawings") == 0
    page.run(MOVE)
    page.wait("window.drawings > 0", 20)
    page.run("document.getElementById('follow').click()")


def test_a_part_of_the_points_is_drawn_while_the_view_moves_where_drawing_is_slow(
    page: Page,
) -> None:
    visible = "['points', 'coarse'].map((part) => explorer.models(`map_${part}`).visible)"
    page.run("explorer.plane.mostMoving = 10")
    page.run(f"explorer.plane.slow = false; {MOVE}")
    assert page.run(visible) == [True, False]
    assert page.run(f"explorer.plane.slow = true; {MOVE}; {visible}") == [False, True]
    drawn = page.run("[...explorer.models('coarse').data.x]")
    assert drawn == page.run("[...explorer.places.map[0]].filter((_, i) => i % 8 === 0)")
    page.wait(f"({visible})[0] && !({visible})[1]", 20)
    page.run("explorer.plane.slow = false")


def test_the_ellipse_is_that_of_the_covariance(page: Page, catalog: pd.DataFrame) -> None:
    choose(page, "#map-choice", "two latents")
    choose(page, "#x-latent", "z2")
    choose(page, "#y-latent", "z5")
    page.run("explorer.show(30)")
    got = page.run("explorer.variance()")
    triangle = np.array(catalog["z_cov"].iloc[30])
    at = {(i, j): triangle[i * (i + 1) // 2 + j] for i in range(8) for j in range(i + 1)}
    tolerance = float(0.006 * np.sqrt(at[2, 2] * at[5, 5]))
    assert got[0] == pytest.approx(at[2, 2], rel=0.02)
    assert got[1] == pytest.approx(at[5, 2], rel=0.02, abs=tolerance)
    assert got[2] == pytest.approx(at[5, 5], rel=0.02)
    choose(page, "#map-choice", "t-SNE")


def test_links_lead_to_the_position_and_nothing_is_asked_before(page: Page) -> None:
    page.run("explorer.select([41])")
    page.wait("explorer.drawn === 41", 20)
    links = dict(
        page.run("[...document.querySelectorAll('#links a')].map((a) => [a.textContent, a.href])")
    )
    assert list(links) == ["SIMBAD", "NED", "ESASky", "CSC", "spectrum (tar)"]
    assert all(re.findall(r"-?\d+\.\d{6}", links[name]) == ["10.000000", "-5.000000"]
               for name in ("SIMBAD", "NED", "ESASky", "CSC"))  # fmt: skip
    products = "41.0.1/spectrum/b,41.0.1/arf/b,41.0.1/rmf/b"
    assert links["spectrum (tar)"].endswith(f"retrieve?version=cur&packageset={products}")
    assert page.run("document.querySelectorAll('iframe').length") == 0
    assert not any("aladin" in url for url in page.requests)
    page.run("document.querySelector('#aladin-buttons button').click()")
    address = urlsplit(page.run("document.querySelector('iframe').src"))
    assert address.netloc == "aladin.cds.unistra.fr"
    asked = {"target": ["10.000000 -5.000000"], "fov": ["0.1"]}
    assert parse_qs(address.query) == asked | {"survey": ["cxc.harvard.edu/P/cda/hips/allsky/rgb"]}
    page.run("explorer.show(3)")
    page.wait("document.querySelectorAll('iframe').length === 0", 20)


def test_points_are_colored_by_any_column(page: Page, catalog: pd.DataFrame) -> None:
    def values() -> npt.NDArray[np.float64]:
        found = page.run("[...explorer.models('points').data.value]")
        return np.array([np.nan if each is None else each for each in found], float)

    choose(page, "#color-choice", "weekday")
    assert np.allclose(values(), np.arange(80) % 7)
    assert page.run("[explorer.models('colors').low, explorer.models('colors').high]") == [0, 6]
    choose(page, "#color-choice", "total_counts")
    counts = catalog["total_counts"].to_numpy(float)
    order = np.argsort(counts, kind="stable")
    assert (np.diff(values()[order]) >= 0).all()
    choose(page, "#color-choice", "class")
    shapes = page.run("[...explorer.models('points').data.shape]")
    pairs = set(zip(catalog["class"], shapes, values(), strict=True))
    assert len(pairs) == len(CLASSES) == len({shape for _, shape, _ in pairs})


def test_size_follows_the_counts(page: Page, catalog: pd.DataFrame) -> None:
    page.run("document.getElementById('sized').click()")
    size = np.array(page.run("[...explorer.models('points').data.size]"))
    order = np.argsort(catalog["total_counts"].to_numpy())
    assert (np.diff(size[order]) >= 0).all()
    assert size.max() > 1.2 * size.min()
    page.run("document.getElementById('sized').click()")


def test_the_strangest_are_a_click_away(page: Page, catalog: pd.DataFrame) -> None:
    page.run("document.querySelector('#strangest button').click()")
    page.wait("explorer.selection.length === 1", 20)
    rows = page.run("explorer.selection")
    assert rows == [page.run("explorer.packed.strangest[0].rows[0][0]")]
    page.wait(f"explorer.drawn === {rows[0]}", 20)
    shown = page.run("document.getElementById('shown-id').textContent")
    assert shown == catalog["detection_id"].iloc[rows[0]]


def test_detections_of_a_source_are_joined(page: Page, catalog: pd.DataFrame) -> None:
    page.run("document.getElementById('joined').click()")
    extra = len(catalog) - catalog["name"].nunique()
    assert page.run("explorer.models('map_joins').data.x0.length") == extra
    page.run("document.getElementById('joined').click()")
    assert page.run("explorer.models('map_joins').data.x0.length") == 0


def test_names_and_classes_do_not_run(page: Page) -> None:
    page.run("explorer.select([0])")
    page.wait("explorer.drawn === 0", 20)
    assert page.run("document.getElementById('shown-name').textContent") == NASTY_NAME
    choose(page, "#color-choice", "class")
    page.run("document.getElementById('add-filter').click()")
    choose(page, ".filter select", "class")
    assert HOSTILE in page.run("document.getElementById('legend').textContent")
    assert page.run("document.querySelectorAll('main img, main script').length") == 0
    assert page.run("typeof window.harmed") == "undefined"
    text = page.run(saved("csvText", "[0, 2]"))
    assert "'=1+1" in text
    assert page.errors == []


def test_every_control_is_reached_by_the_keyboard(page: Page) -> None:
    code = """[...document.querySelectorAll("header *, main *")].filter((each) =>
        each.matches("button, select, input, a, summary") && each.tabIndex < 0).length"""
    assert page.run(code) == 0
    page.run("document.getElementById('next').focus()")
    before = page.run("explorer.drawn")
    key: dict[str, Any] = {"key": "Enter", "code": "Enter", "text": "\r"}
    page.call("Input.dispatchKeyEvent", type="keyDown", windowsVirtualKeyCode=13, **key)
    page.call("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=13, **key)
    page.wait(f"explorer.drawn !== {before}", 20)


def test_an_address_leads_to_a_detection(page: Page) -> None:
    page.run("location.hash = '#detection=' + encodeURIComponent('sim:4.0.1')")
    page.wait("explorer.drawn === 4", 20)
    assert page.run("explorer.selection") == [4]
    page.run("location.hash = '#detection=none'")
    assert page.run("explorer.follow().then(() => explorer.selection)") == [4]
    page.run("location.hash = ''")


def test_the_theme_changes(page: Page) -> None:
    color = "explorer.models('map').background_fill_color"
    before = json.dumps(page.run(color))
    page.run("document.getElementById('theme').click()")
    assert json.dumps(page.run(color)) != before
    page.run("document.getElementById('theme').click()")
    assert json.dumps(page.run(color)) == before
