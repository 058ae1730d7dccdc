"""A new table of names and columns for the same files: no spectrum is read or encoded again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raypipe
from raypipe.embedding import embed as embed_module
from raypipe.embedding import part as embedding_part
from raypipe.identity import source_keys
from raypipe.ingestion import ingest as ingest_module
from raypipe.ingestion import reader
from raypipe.model.bundle import load_model, save_model
from raypipe.pipeline.status import status_lines
from raypipe.store.layout import model_folder
from raypipe.store.workspace import Workspace
from tests.alone import embed_alone, ingest_alone
from tests.unit.synthetic_workspace import CLASSES, make_workspace

DETECTIONS = 24
RELEASE = "sim"


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survey")
    raypipe.simulate(folder, detections=DETECTIONS, seed=3)
    return folder


@pytest.fixture
def tables(survey: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The table of before, with two detections of each source, and that of after.

    Of the sources of before, a third is called differently, a third is split and a third stays; a
    column has another name, and one is new.
    """
    numbers = np.arange(DETECTIONS)
    truth = pq.read_table(survey / "truth.parquet", columns=["detection_id", "class"]).to_pandas()
    before = truth.assign(name=[f"source {i // 2}" for i in numbers], flux=numbers * 1.5)
    names = [
        (f"2CXO J{i // 2}", f"source {i // 2}{'ab'[i % 2]}", f"source {i // 2}")[i // 2 % 3]
        for i in numbers
    ]
    after = truth.assign(name=names, flux_aper=numbers * 1.5, new=[f"new {i}" for i in numbers])
    files = tmp_path / "before.parquet", tmp_path / "after.parquet"
    for file, frame in zip(files, (before, after), strict=True):
        frame.to_parquet(file)
    return files


def add_model(workspace: Workspace, folder: Path) -> str:
    """Save a model of random weights, some of whose training spectra are of "source 1a"."""
    made = make_workspace(folder, detections=4)
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    population = model.population
    sources = population.reference_source.copy()
    sources[::2] = source_keys(["source 1a"], ["x"])[0]
    model = replace(model, population=replace(population, reference_source=sources))
    save_model(model, workspace, model_folder(model.model_id))
    return model.model_id


def discover(workspace: Workspace, survey: Path, catalog: Path) -> None:
    raypipe.discover(workspace, source=str(survey), catalog=catalog, release=RELEASE)


def contents(workspace: Workspace) -> tuple[pd.DataFrame, pd.DataFrame]:
    detections = raypipe.open_catalog(workspace).sort_values("detection_id", ignore_index=True)
    return detections, raypipe.open_sources(workspace)


def test_rows_are_those_of_a_run_from_the_beginning_and_nothing_is_read_or_encoded(
    survey: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, fresh = (Workspace(tmp_path / name) for name in ("w", "fresh"))
    before, after = tables
    for each, table in ((workspace, before), (fresh, after)):
        discover(each, survey, table)
        ingest_alone(each, RELEASE)
        model_id = add_model(each, tmp_path / f"model-{each.uri.rsplit('/')[-1]}")
        embed_alone(each, RELEASE, model_id)
    detections, sources = contents(workspace)
    assert len(sources) == DETECTIONS // 2

    encoded: list[int] = []
    measure = embedding_part.PartEncoder._measure_batch

    def count(encoder: embedding_part.PartEncoder, spectra: pa.Table) -> pd.DataFrame:
        encoded.append(spectra.num_rows)
        return measure(encoder, spectra)

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a file is read, or Ray started")

    monkeypatch.setattr(embedding_part.PartEncoder, "_measure_batch", count)
    for module, name in (
        (reader, "read_pha"),
        (reader.Fetcher, "fetch"),
        (ingest_module, "ray_session"),
        (embed_module, "ray_session"),
    ):
        monkeypatch.setattr(module, name, refuse)
    discover(workspace, survey, after)
    assert raypipe.ingest(workspace) == {
        "manifest": DETECTIONS,
        "spectra": DETECTIONS,
        "rejects": 0,
    }
    raypipe.embed(workspace, model=model_id)
    assert sum(encoded) == 0

    renewed, regrouped = contents(workspace)
    expected, expected_sources = contents(fresh)
    pd.testing.assert_frame_equal(renewed, expected, check_exact=True)
    pd.testing.assert_frame_equal(regrouped, expected_sources, check_exact=True)
    assert len(regrouped) == DETECTIONS // 2 + DETECTIONS // 6, "a third of the sources is split"
    assert {"new", "flux_aper"} <= set(renewed)
    assert "flux" not in renewed
    # A source's own training spectra have no vote on its class, so these had to be counted again.
    votes = [f"p_{name}" for name in CLASSES]
    moved = np.flatnonzero((renewed[votes] != detections[votes]).any(axis=1))
    assert renewed["name"][moved].tolist() == ["source 1a"]


def test_columns_that_verbs_have_added_have_to_be_made_again(
    survey: Path,
    tables: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Names decide which detections are of one source: clusters of sources need the new ones."""
    workspace = Workspace(tmp_path / "w")
    discover(workspace, survey, tables[0])
    ingest_alone(workspace, RELEASE)
    model_id = add_model(workspace, tmp_path / "model")
    embed_alone(workspace, RELEASE, model_id)
    raypipe.cluster(workspace, clusters=2)
    before = raypipe.open_catalog(workspace).set_index("detection_id")["cluster"]
    assert ": 24 rows, cluster" in shown(workspace)
    discover(workspace, survey, tables[1])
    raypipe.ingest(workspace)
    with caplog.at_level(logging.WARNING):
        raypipe.embed(workspace, model=model_id)
    said = "leave the columns of cluster out until raypipe cluster has run again"
    assert said in caplog.text
    assert "cluster" not in raypipe.open_catalog(workspace)
    assert "cluster of an earlier state (run raypipe cluster again)" in shown(workspace)
    raypipe.cluster(workspace, clusters=2)
    after = raypipe.open_catalog(workspace).set_index("detection_id")["cluster"]
    pd.testing.assert_series_equal(after, before.loc[after.index])
    caplog.clear()
    raypipe.embed(workspace, model=model_id)
    assert said not in caplog.text


def shown(workspace: Workspace) -> str:
    return "\n".join(status_lines(raypipe.status(workspace)))


def test_counts_are_not_even_read_to_copy_rows(
    survey: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "w")
    discover(workspace, survey, tables[0])
    ingest_alone(workspace, RELEASE)
    model_id = add_model(workspace, tmp_path / "model")
    embed_alone(workspace, RELEASE, model_id)
    discover(workspace, survey, tables[1])
    raypipe.ingest(workspace)
    read_table, columns_read = Workspace.read_table, set()

    def read(self: Workspace, name: str, columns: list[str] | None = None) -> pa.Table:
        table = read_table(self, name, columns)
        if name.startswith("spectra/"):
            columns_read.update(table.column_names)
        return table

    monkeypatch.setattr(Workspace, "read_table", read)
    raypipe.embed(workspace, model=model_id)
    assert "content_sha256" in columns_read
    assert not columns_read & {"counts", "background_counts", "arf_cm2"}


def test_a_new_file_is_read_and_encoded_and_no_other(
    survey: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file is written again beside a new table: only that detection costs anything."""
    workspace, files = Workspace(tmp_path / "w"), tmp_path / "files"
    files.mkdir()
    for path in survey.glob("*.fits.gz"):
        (files / path.name).write_bytes(path.read_bytes())
    discover(workspace, files, tables[0])
    ingest_alone(workspace, RELEASE)
    model_id = add_model(workspace, tmp_path / "model")
    embed_alone(workspace, RELEASE, model_id)
    paths = sorted(files.glob("*_pha3*"))
    paths[0].write_bytes(paths[1].read_bytes())  # the photons of another detection
    read_pha, read = reader.read_pha, []
    monkeypatch.setattr(
        reader, "read_pha", lambda *given, **named: read.append(1) or read_pha(*given, **named)
    )
    discover(workspace, files, tables[1])
    ingest_alone(workspace, RELEASE)
    assert sum(read) == 1
    encoded: list[int] = []
    measure = embedding_part.PartEncoder._measure

    def count(encoder: embedding_part.PartEncoder, spectra: pa.Table) -> pd.DataFrame:
        encoded.append(spectra.num_rows)
        return measure(encoder, spectra)

    monkeypatch.setattr(embedding_part.PartEncoder, "_measure", count)
    embed_alone(workspace, RELEASE, model_id)
    assert sum(encoded) == 1
    assert len(raypipe.open_catalog(workspace)) == DETECTIONS
