"""The page of `raypipe explore --serve` works in a browser, with the panels of the file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest

import raypipe
from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.exploring.samp import Samp
from raypipe.exploring.serve import ExplorerServer
from raypipe.exploring.served_catalog import ServedCatalog
from raypipe.exploring.served_page import answers_from, served_page
from raypipe.exploring.shading import warm_up
from raypipe.store.layout import part_name, spectra_folder
from tests.chromium import Page, chromium_page
from tests.unit.exploring.explorer_page import (
    CLASSES,
    HOSTILE,
    PIXELS,
    READY,
    choose,
    hover,
    select_by,
)
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("w"), detections=80, classes=CLASSES)


@pytest.fixture(scope="module")
def frame(made: Synthetic) -> pd.DataFrame:
    return raypipe.open_catalog(made.workspace)


@pytest.fixture(scope="module")
def server(made: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExplorerServer]:
    catalog = ServedCatalog(made.workspace, choose_catalog(made.workspace, None, None), None, 1.0)
    warm_up()
    with pytest.MonkeyPatch.context() as patch:
        no_hub = tmp_path_factory.mktemp("hub") / "none"
        patch.setenv("SAMP_HUB", f"std-lockurl:{no_hub.as_uri()}")
        samp = Samp(catalog)
        answers = answers_from(catalog) | samp.answers()
        server = ExplorerServer("127.0.0.1", 0, served_page(catalog), answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        server.server_close()
        samp.close()


@pytest.fixture(scope="module")
def browser(server: ExplorerServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("chromium")) as page:
        page.open(server.address)
        page.wait(READY)
        page.wait("explorer.plane.images >= 2", 240)
        yield page


@pytest.fixture
def page(browser: Page) -> Page:
    browser.run("window.scrollTo(0, 0)")
    browser.run("explorer.select([])")
    return browser


def images(page: Page) -> int:
    return int(page.run("explorer.plane.images"))


def test_it_loads_without_errors_and_asks_only_its_server(
    page: Page, server: ExplorerServer
) -> None:
    assert page.errors == []
    own = server.address.split("?")[0]
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:", own))]
    assert outside == []


def test_the_image_shows_the_points_where_they_are(page: Page, frame: pd.DataFrame) -> None:
    """Where the page has points, the picture that the server has drawn is not empty."""
    code = """(async () => {
        const source = explorer.models("map_image").data, [x, y] = explorer.places.map;
        const image = new Image();
        await new Promise((done) => { image.onload = done; image.src = source.url[0]; });
        const { width, height } = image, canvas = new OffscreenCanvas(width, height);
        const pen = canvas.getContext("2d");
        pen.drawImage(image, 0, 0);
        return Array.from(x, (_, i) => {
            const [u, v] = [(x[i] - source.x[0]) / source.w[0], (y[i] - source.y[0]) / source.h[0]];
            const place = [Math.floor(u * width), Math.floor((1 - v) * height)];
            return pen.getImageData(...place, 1, 1).data[3];
        });
    })()"""
    assert len(frame) == 80
    assert np.count_nonzero(page.run(code)) == 80


def test_the_point_under_the_pointer_is_shown(
    page: Page, made: Synthetic, frame: pd.DataFrame
) -> None:
    pixels = np.array(page.run(PIXELS))
    apart = np.hypot(*(pixels[:, None] - pixels[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    row = int(np.argmax(apart.min(axis=1)))
    hover(page, pixels[row], row)
    shown = page.run("document.getElementById('shown-id').textContent")
    assert shown == frame["detection_id"].iloc[row]
    table = made.workspace.read_table(part_name(spectra_folder(RELEASE), 0))
    counts = page.run("explorer.spectrum.counts.reduce((sum, each) => sum + each, 0)")
    assert counts == frame["total_counts"].iloc[row]
    assert page.run("explorer.spectrum.exposure") == table["exposure_s"][row].as_py()
    page.wait("explorer.models('map_ellipse').xs.length === 61", 20)


def test_a_box_selects_the_rows_inside(page: Page, frame: pd.DataFrame) -> None:
    pixels = np.array(page.run(PIXELS))
    (left, top), (right, bottom) = np.quantile(pixels, [0.3, 0.7], axis=0) + 0.37
    inside = ((pixels > [left, top]) & (pixels < [right, bottom])).all(axis=1)
    select_by(page, "BoxSelectTool", (left, top), (right, bottom))
    assert page.run("explorer.selection") == np.flatnonzero(inside).tolist()
    rows = "document.querySelectorAll('#table-body tr').length"
    page.wait(f"{rows} === {inside.sum()}", 20)
    drawn = page.run("[...explorer.models('points').data.x].length")
    assert drawn == inside.sum()


def test_colors_and_filters_make_another_image(page: Page, frame: pd.DataFrame) -> None:
    before = images(page)
    choose(page, "#color-choice", "exposure_s")
    page.wait(f"explorer.plane.images > {before}", 20)
    before = images(page)
    page.run("document.getElementById('add-filter').click()")
    choose(page, ".filter select", "total_counts")
    page.wait("document.querySelector('.filter input')", 20)
    page.run(
        """(() => { const low = document.querySelector(".filter input");
        low.value = "1000"; low.dispatchEvent(new Event("input")); })()"""
    )
    bright = int((frame["total_counts"] >= 1000).sum())
    text = "document.getElementById('filter-count').textContent"
    page.wait(f"{text}.startsWith('{bright} of 80')", 20)
    page.wait(f"explorer.plane.images > {before}", 20)
    page.run("document.querySelectorAll('.filter button').forEach((each) => each.click())")


def test_search_and_look_alikes_ask_the_server(page: Page) -> None:
    page.run("document.getElementById('search').value = 'j000003'")
    page.run("document.getElementById('search-form').requestSubmit()")
    page.wait("explorer.selection.length === 2", 20)
    assert page.run("explorer.selection") == [6, 7]
    page.wait("!document.getElementById('find-alike').disabled", 20)
    page.run("document.getElementById('find-alike').click()")
    page.wait("document.querySelectorAll('#alike button').length === 20", 60)
    assert not {6, 7} & set(page.run("explorer.similar"))


def test_classes_and_names_do_not_run(page: Page) -> None:
    page.run("explorer.select([0])")
    choose(page, "#color-choice", "class")
    page.wait("document.getElementById('legend').textContent.includes('AGN')", 20)
    assert HOSTILE in page.run("document.getElementById('legend').textContent")
    assert page.run("typeof window.harmed") == "undefined"
    assert page.errors == []


def test_without_a_hub_samp_says_what_to_start(page: Page) -> None:
    assert page.run("document.getElementById('samp').hidden") is False
    page.run("document.getElementById('samp-connect').click()")
    page.wait("document.getElementById('samp-status').textContent.includes('start TOPCAT')", 60)


def test_a_server_that_has_ended_is_said(page: Page, server: ExplorerServer) -> None:
    kept, server.answers = server.answers, {}
    said = "document.getElementById('trouble').textContent.includes('no such question')"
    for _ in range(4):  # The answer to an earlier question may still come and clear the message.
        page.run("explorer.catalog.points.clear(); explorer.show(50).catch(() => 0)")
        with suppress(AssertionError):
            page.wait(said, 5)
            break
    else:
        raise AssertionError("the page does not say that the server has ended")
    server.answers = kept
