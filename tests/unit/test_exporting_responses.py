"""Responses of a workspace as OGIP files: read back, folded, and described by a table."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import raypipe
from raypipe.cli import main
from raypipe.errors import RaypipeError, UsageError
from raypipe.ogip import read_rmf
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace
from tests.alone import ingest_alone
from tests.unit.synthetic_workspace import make_workspace


@pytest.fixture(scope="module")
def release(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Spectra of ACIS and of all other telescopes, with their own responses, ingested."""
    files, workspace = tmp_path_factory.mktemp("files"), Workspace(tmp_path_factory.mktemp("w"))
    for folder in ("missions", "csc"):
        for path in sorted((shared_data / folder).rglob("*.*")):
            target = files / path.relative_to(shared_data)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    raypipe.discover(workspace, source=str(files), release="r")
    ingest_alone(workspace, "r")
    return workspace


@pytest.fixture(scope="module")
def folder(release: Workspace) -> Path:
    uri = raypipe.export(release, format="ogip")
    assert uri.endswith("exports/r/responses-ogip")
    return Path(uri)


def test_each_response_reads_back_and_folds_as_the_stored_one(
    release: Workspace, folder: Path
) -> None:
    table = Table.read(folder / "responses.vot")
    spectra = release.read_folder("spectra/r").to_pandas()
    assert set(table["rmf_id"]) == set(spectra["rmf_id"])
    assert len(table) >= 6
    library, edges = ResponseLibrary(release), EnergyGrid().edges_kev
    photons = np.random.default_rng(0).lognormal(0.0, 2.0, EnergyGrid().n_energy)
    for row in table:
        rmf = read_rmf(folder / str(row["file"]))
        stored = library.load(str(row["rmf_id"]))
        np.testing.assert_array_equal(rmf.matrix.toarray(), stored.redistribution)
        expected = photons @ stored.redistribution.astype(np.float64)
        np.testing.assert_allclose(rmf.fold(photons), expected, rtol=1e-12)
        np.testing.assert_allclose(rmf.energy_lo_kev, edges[:-1], rtol=1e-7)
        np.testing.assert_allclose(rmf.energy_hi_kev, edges[1:], rtol=1e-7)
        np.testing.assert_allclose(rmf.channel_energy_kev[:, 0], stored.bins.lo_kev, rtol=1e-6)
        np.testing.assert_array_equal(rmf.channels, np.arange(1, len(stored.bins) + 1))
        assert not rmf.includes_area
        # NuSTAR's response begins at 2 keV, as that of its file does.
        assert bool(rmf.warnings) == ("NUSTAR" in str(row["telescope"]))


def test_the_table_says_where_each_is_valid(release: Workspace, folder: Path) -> None:
    spectra = release.read_folder("spectra/r").to_pandas()
    for row in Table.read(folder / "responses.vot"):
        served = spectra[spectra["rmf_id"] == row["rmf_id"]]
        assert row["detections"] == len(served)
        assert set(str(row["instrument"]).split()) == set(served["instrument"])
        assert row["first_mjd"] == served["mjd_start"].min()
        assert row["last_mjd"] == served["mjd_stop"].max()
    assert "NATIVE_MIN" in (folder / "README.md").read_text()


@pytest.mark.skipif(shutil.which("stilts") is None, reason="stilts is not installed")
def test_topcats_reader_opens_table_and_responses(folder: Path) -> None:
    files = [folder / "responses.vot", *folder.glob("*.rmf")]
    for file in files:
        where = f"{file}#MATRIX" if file.suffix == ".rmf" else str(file)
        line = ["stilts", "tpipe", f"in={where}", "omode=count"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
        rows = EnergyGrid().n_energy if file.suffix == ".rmf" else len(files) - 1
        assert f"rows: {rows}" in done.stdout


def test_keywords_are_those_of_ogip(folder: Path) -> None:
    for path in folder.glob("*.rmf"):
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            matrix, bounds = hdus["MATRIX"], hdus["EBOUNDS"]
            classes = [matrix.header[f"HDUCLAS{level}"] for level in (1, 2, 3)]
            assert classes == ["RESPONSE", "RSP_MATRIX", "REDIST"]
            assert [bounds.header[f"HDUCLAS{level}"] for level in (1, 2)] == ["RESPONSE", "EBOUNDS"]
            n = matrix.header["DETCHANS"]
            assert n == bounds.header["DETCHANS"] == len(bounds.data)
            assert (matrix.header["TLMIN4"], matrix.header["TLMAX4"]) == (1, n)
            assert matrix.columns.names[3] == "F_CHAN"
            assert matrix.header["NUMELT"] == matrix.data["N_CHAN"].sum()
            assert (np.diff(matrix.data["ENERG_LO"]) > 0).all()
            assert (matrix.data["ENERG_LO"][1:] == matrix.data["ENERG_HI"][:-1]).all()
            assert (bounds.data["E_MIN"][1:] <= bounds.data["E_MAX"][:-1] * (1 + 1e-6)).all()
            sizes = bounds.data["NATIVE_MAX"] - bounds.data["NATIVE_MIN"] + 1
            assert (bounds.data["NATIVE_MIN"][1:] == bounds.data["NATIVE_MAX"][:-1] + 1).all()
            assert (sizes >= 1).all()
            assert {"TELESCOP", "INSTRUME", "FILTER", "CHANTYPE"} <= set(matrix.header)


def test_options_of_tables_and_folders_of_others_are_refused(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "w", 8).workspace
    with pytest.raises(UsageError, match="leave out --sources"):
        raypipe.export(workspace, format="ogip", sources=True)
    other = tmp_path / "out" / "responses-ogip"
    other.mkdir(parents=True)
    (other / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="no export wrote this folder"):
        raypipe.export(workspace, format="ogip", out=tmp_path / "out")
    assert (other / "mine.txt").read_text() == "mine"


def test_the_command_line_exports_responses_twice(
    release: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        line = ["export", "--workspace", release.uri, "--format", "ogip", "--out", str(out)]
        assert main(line) == 0
    assert "responses-ogip" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"responses-ogip"}


def test_a_release_without_spectra_says_so(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "broken.pha").write_bytes(b"no spectrum")
    workspace = Workspace(tmp_path / "w")
    raypipe.discover(workspace, source=str(tmp_path / "files"), release="r")
    ingest_alone(workspace, "r")
    with pytest.raises(RaypipeError, match="no spectra, so that there are no responses"):
        raypipe.export(workspace, format="ogip")
