"""Files like those that users reported of other tools: what ingestion makes of each."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.errors import OgipError
from raypipe.ingestion.part import ingest_part
from raypipe.ogip import read_spectrum
from raypipe.spectra.channel_bins import Resolution, acis_bins, channel_bins_of
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.gridding import grid_detection, put_on_grid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace

GRID = EnergyGrid()


@pytest.fixture
def cases(shared_data: Path) -> Path:
    return shared_data / "cases"


class Ingested:
    """A folder that was ingested: its spectra and rejects by the name of the detection."""

    def __init__(self, folder: Path, workspace: Path) -> None:
        self.workspace = Workspace(workspace)
        discover(self.workspace, source=str(folder), release="r")
        ingest_part(self.workspace, "r", 0, IngestConfig())
        self.spectra, self.rejects = self._read("spectra"), self._read("rejects")

    def _read(self, kind: str) -> pd.DataFrame:
        table = self.workspace.read_folder(f"{kind}/r").to_pandas()
        return table.set_index(table.detection_id.str.removeprefix("file:"))

    def flags(self, name: str) -> set[str]:
        return set(self.spectra["flags"][name].split("|"))

    def fold(self, name: str) -> float:
        """Counts in the model's channels of the power law that the cases are folded with."""
        row: Any = self.spectra.loc[name]
        low, high = GRID.edges_kev[:-1], GRID.edges_kev[1:]
        photons = 1e-3 * (low**-0.7 - high**-0.7) / 0.7 * row.arf_cm2 * row.exposure_s
        response = ResponseLibrary(self.workspace).load(row.rmf_id)
        return float((photons @ response.redistribution).sum())


def _read(folder: Path, total: str, **files: str | None) -> Any:
    given: Any = {kind: None if name is None else folder / name for kind, name in files.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_spectrum(folder / total, **given)


def _folded(spectrum: Any) -> float:
    """The same counts, folded at the files' own resolution."""
    counts = spectrum.fold(lambda energy: 1e-3 * energy**-1.7)
    return float(channel_bins_of(spectrum.rmf).bin_counts(counts).sum())


def test_areascal_is_in_the_fold(cases: Path, tmp_path: Path) -> None:
    found = Ingested(cases / "areascal", tmp_path)
    assert found.fold("half") == pytest.approx(0.5 * found.fold("one"), rel=1e-6)
    assert found.spectra.exposure_s["half"] == found.spectra.exposure_s["one"]
    column = _read(cases / "areascal", "column.pi")
    assert np.ndim(column.areascal) == 1
    assert found.fold("column") == pytest.approx(_folded(column), rel=2e-3)


def test_a_missing_backscal_is_never_one_in_silence(cases: Path, tmp_path: Path) -> None:
    found = Ingested(cases / "backscal-missing", tmp_path)
    assert found.rejects.reason["src"] == (
        "the background has no BACKSCAL (1 is assumed); source and background cannot be compared: "
        "write BACKSCAL into both"
    )


def test_net_counts_are_refused(cases: Path, tmp_path: Path) -> None:
    found = Ingested(cases / "net-counts", tmp_path)
    assert "total" in found.spectra.index
    assert "HDUCLAS2 NET" in found.rejects.reason["net"]
    assert "counts as they were detected" in found.rejects.reason["net"]


def test_odd_class_words_of_a_response_are_no_obstacle(cases: Path, tmp_path: Path) -> None:
    found = Ingested(cases / "pi-ebounds-ingest", tmp_path)
    assert found.spectra["counts"]["source"].sum() == 10_558
    spectrum = _read(cases / "pi-ebounds-ingest", "source.pi")
    assert found.fold("source") == pytest.approx(_folded(spectrum), rel=2e-3)


def test_matrices_in_two_tables_are_their_sum(cases: Path, tmp_path: Path) -> None:
    found = Ingested(cases / "multi-matrix", tmp_path)
    whole = _read(cases / "multi-matrix", "src.pi", rmf="whole.rmf")
    assert found.fold("src") == pytest.approx(_folded(whole), rel=2e-3)


@pytest.mark.parametrize(
    "name",
    ["exposure-text", "exposure-in-primary", "livetime-only", "a3dtable", "unsigned"],
)
def test_keywords_in_odd_places_are_flagged_where_they_were_guessed(
    cases: Path, tmp_path: Path, name: str
) -> None:
    row, plain = (
        _alone(cases / "header-oddities", each, tmp_path).spectra.loc[each]
        for each in (name, "plain")
    )
    assert (row["counts"] == plain["counts"]).all()
    assert row["exposure_s"] == plain["exposure_s"]
    flagged = "livetime_for_exposure" in row["flags"].split("|")
    assert flagged == (name == "livetime-only")


def test_a_file_that_was_cut_is_a_reject(cases: Path, tmp_path: Path) -> None:
    found = _alone(cases / "header-oddities", "cut-padding", tmp_path)
    assert "truncated" in found.rejects.reason["cut-padding"]


def _alone(folder: Path, name: str, workspace: Path) -> Ingested:
    """One of several spectra of the same photons, of which only one would be a detection."""
    files = workspace / name
    files.mkdir()
    for file in f"{name}.pi", "acis.arf", "acis.rmf":
        shutil.copy(folder / file, files)
    return Ingested(files, workspace / f"{name}-workspace")


def test_a_negative_background_is_read_and_refused_where_counts_are_needed(cases: Path) -> None:
    spectrum = _read(
        cases / "negative-background",
        "P011160506306_LE_TOTAL.fits",
        background="P011160506306_LE_BKG.fits",
        arf=None,
        rmf=None,
    )
    assert spectrum.background_counts.min() < 0
    with pytest.raises(OgipError, match=r"negative value.*give those"):
        put_on_grid(spectrum, GRID, acis_bins(Resolution((0.01, 0.0, 0.0))))


def test_a_response_with_the_area_in_it_is_not_refused_for_want_of_an_arf(cases: Path) -> None:
    spectrum = _read(
        cases / "rsp-without-hduclas3",
        "P011160506306_ME_TOTAL.fits",
        background=None,
        arf=None,
        rmf="P011160506306_ME_RSP.fits",
    )
    assert spectrum.rmf.includes_area
    with pytest.raises(OgipError, match=r"only 4 bins lie between .*: outside the latent model"):
        grid_detection(spectrum, GRID)
