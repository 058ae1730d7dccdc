"""The report's section on clusters: their spectra and members, or what to do without any."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import raypipe
from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.model.bundle import load_model
from raypipe.reporting.clusters import NOT_CLUSTERED, clusters_section
from raypipe.reporting.report_data import gather_report_data
from raypipe.store.layout import model_folder
from raypipe.store.publication import read_detections
from tests.unit.synthetic_workspace import RELEASE, make_workspace, publish_table

OPTIONS = {"cluster": {"directions": 3, "starts": 1}}


def test_a_report_shows_the_clusters_of_its_catalog(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_workspace(tmp_path, 80)
    store, model_id = made.workspace, made.models[0]

    def section() -> str:
        evaluated = choose_catalog(store, RELEASE, model_id)
        data = gather_report_data(store, evaluated, None, raypipe.Config().report)
        return clusters_section(data)

    assert NOT_CLUSTERED in section()
    raypipe.cluster(store, clusters=3, config=OPTIONS)
    table = raypipe.open_clusters(store)
    page = section()
    assert page.count("<svg") == len(table)
    assert "mathdefault" not in page, "labels of axes are text"
    for _, row in table.iterrows():
        assert row["typical"][0] in page
        assert f">{row['n_detections']}<" in page

    model = load_model(store.absolute_uri(model_folder(model_id)))
    publish_table(store, model, read_detections(store, RELEASE, model_id).slice(0, 70))
    assert NOT_CLUSTERED in section(), "clusters of another state of the catalog are left out"
    assert "clusters are left out" in caplog.text


def test_clusters_without_a_flux_have_a_table_and_no_picture(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, 60, presets=("paper",))
    raypipe.cluster(made.workspace, clusters=2, config=OPTIONS)
    table = raypipe.open_clusters(made.workspace)
    page = clusters_section(SimpleNamespace(clusters=table))  # type: ignore[arg-type]
    assert "<svg" not in page
    assert page.count("<tr>") == 1 + len(table)
