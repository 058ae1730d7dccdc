"""The page of `raypipe explore` in a browser, for the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import raypipe
from raypipe.catalog.added_columns import write_added
from raypipe.model.bundle import Model, load_model
from raypipe.store.layout import model_folder
from raypipe.store.publication import detections_of, require_publication
from tests.chromium import Page, chromium_page
from tests.unit.exploring.explorer_page import CLASSES, READY
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    made = make_workspace(tmp_path_factory.mktemp("w"), detections=80, classes=CLASSES)
    publication = require_publication(made.workspace, RELEASE, made.models[0])
    ids = detections_of(made.workspace, publication)["detection_id"]
    groups = pa.array([None if i == 3 else i % 5 for i in range(80)], pa.int32())
    shares = pa.array(np.linspace(0, 1, 80), pa.float32())
    added = pa.table({"detection_id": ids, "cluster": groups, "p_cluster_1": shares})
    write_added(made.workspace, publication, "cluster", added, {})
    return made


@pytest.fixture(scope="module")
def model(made: Synthetic) -> Model:
    return load_model(made.workspace.absolute_uri(model_folder(made.models[0])))


@pytest.fixture(scope="module")
def catalog(made: Synthetic) -> pd.DataFrame:
    return raypipe.open_catalog(made.workspace)


@pytest.fixture(scope="module")
def browser(made: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("chromium")) as page:
        table = tmp_path_factory.mktemp("t") / "brought.csv"
        rows = [f'sim:{i}.0.1,{i % 7},"<b>{i % 2}</b>"' for i in range(80)]
        table.write_text("\n".join(["detection_id,weekday,mark", *rows]))
        page.open(Path(raypipe.explore(made.workspace, with_=table)))
        page.wait(READY)
        yield page


@pytest.fixture
def page(browser: Page) -> Page:
    browser.move(0, 0)  # On a point it would show that one whenever the page moves below it.
    browser.run("window.scrollTo(0, 0)")
    browser.run("explorer.models('points').selected.indices = []")
    browser.run("document.querySelectorAll('.filter button').forEach((each) => each.click())")
    return browser
