"""The catalog is that of its spectra, whatever becomes of them while `embed` runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import raypipe
from raypipe.errors import BusyError
from raypipe.spectra.decoding import vectors
from raypipe.store.layout import part_name, spectra_folder
from raypipe.store.publication import require_publication
from raypipe.store.workspace import Workspace
from tests.unit.spectra_release import (
    RELEASE,
    embed_here,
    lists,
    publish_manifest,
    publish_spectra,
    spectra_table,
)

NAMES = [f"r:{number}.0.1" for number in range(10)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A release of ten detections, two of which are rejects for now."""
    workspace = Workspace(tmp_path)
    publish_manifest(workspace, NAMES)
    publish_spectra(workspace, spectra_table(workspace, 10, NAMES).slice(0, 8))
    return workspace


def rows_and_names(workspace: Workspace, model_id: str) -> tuple[int, tuple[str, ...]]:
    published = require_publication(workspace, RELEASE, model_id)
    assert published.rows == sum(workspace.count_rows(name) for name in published.parts)
    return published.rows, published.parts


def test_spectra_that_come_while_parts_are_measured_are_in_the_catalog(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two rejects become spectra between the measuring of a part and its naming."""

    def ingest() -> None:
        publish_spectra(workspace, spectra_table(workspace, 10, NAMES))

    monkeypatch.setattr(logging.getLogger("raypipe"), "propagate", True)
    with caplog.at_level(logging.INFO):
        model_id = embed_here(monkeypatch, ingest)(workspace)
    assert "the spectra of 1 parts have changed meanwhile" in caplog.text
    rows, parts = rows_and_names(workspace, model_id)
    assert rows == 10
    assert set(raypipe.open_catalog(workspace)["detection_id"]) == set(NAMES)
    folder = parts[0].rsplit("/", 1)[0]
    assert workspace.files(folder, ".parquet") == list(parts), "a part that is not published stays"
    assert embed_here(monkeypatch, pytest.fail)(workspace) == model_id, "there is more to do"


def test_a_catalog_has_fluxes_and_means_of_the_posterior_by_default(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_here(monkeypatch)(workspace)
    detections, sources = raypipe.open_catalog(workspace), raypipe.open_sources(workspace)
    wanted = {"flux_b", "flux_b_lolim", "photflux_h_hilim", "hard_hs"}
    assert {"z0_mean", "z0_sd", "posterior_ess", *wanted} <= set(detections.columns)
    assert wanted - {"hard_hs"} <= set(sources.columns)
    assert (detections["posterior_ess"] > 0).all()


def test_a_part_is_named_by_the_very_rows_that_were_measured(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many other spectra take the place of those that an encoder has just read."""
    read_table = Workspace.read_table
    spectra = part_name(spectra_folder(RELEASE), 0)
    before = read_table(workspace, spectra)
    twice = lists(2 * vectors(before["counts"]))
    late = before.set_column(before.column_names.index("counts"), "counts", twice)
    late = late.set_column(
        late.column_names.index("content_sha256"),
        "content_sha256",
        pa.array([f"twice {name}" for name in NAMES[:8]]),
    )

    def read_and_change(store: Workspace, name: str, columns: list[str] | None = None) -> pa.Table:
        table = read_table(store, name, columns)
        if name == spectra and columns is None:
            publish_spectra(workspace, late)
        return table

    embed = embed_here(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "read_table", read_and_change)
        model_id = embed(workspace)
    assert rows_and_names(workspace, model_id)[0] == 8
    catalog = raypipe.open_catalog(workspace).set_index("detection_id")["total_counts"]
    assert catalog[NAMES[:8]].tolist() == vectors(late["counts"]).sum(1).tolist()


def test_spectra_that_never_rest_are_an_error_that_says_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = spectra_table(workspace, 10, NAMES)
    sizes: Iterator[int] = iter([3, 5, 7, 9])

    def ingest() -> None:
        publish_spectra(workspace, table.slice(0, next(sizes)))

    with pytest.raises(BusyError, match="wait until raypipe ingest has ended"):
        embed_here(monkeypatch, ingest)(workspace)
    assert next(sizes) == 9, "it gives up after three rounds"


def test_a_part_that_is_short_of_rows_is_made_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = embed_here(monkeypatch)
    (part,) = rows_and_names(workspace, embed(workspace))[1]
    short = workspace.read_table(part).slice(2)
    workspace.write_table(part, short, {"recipe_sha256": "that of another version"})
    model_id = embed(workspace)
    assert rows_and_names(workspace, model_id) == (8, (part,))
    assert raypipe.open_sources(workspace)["n_detections"].sum() == 8


def test_rejects_alone_make_an_empty_catalog(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_spectra(workspace, spectra_table(workspace, 10, NAMES).slice(0, 0))
    model_id = embed_here(monkeypatch)(workspace)
    assert rows_and_names(workspace, model_id)[0] == 0
    assert raypipe.open_catalog(workspace).empty
    assert "z0" in raypipe.open_sources(workspace)
