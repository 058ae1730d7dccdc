"""Exports that people take along: light curves in HATS, coverage, citation, and reading by URL."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from astropy import units as u
from hats.io.validation import is_valid_catalog
from mocpy import MOC

import raypipe
from raypipe.exporting.citation import Origin, citation_file
from raypipe.exporting.formats import FORMATS
from raypipe.model.bundle import load_model
from raypipe.store.layout import model_folder
from raypipe.store.publication import Publication, read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, make_workspace, publish_table

ROWS = 60

needs_stilts = pytest.mark.skipif(shutil.which("stilts") is None, reason="stilts is not installed")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A catalog with two detections per source, at other times than their order, and fluxes."""
    made = make_workspace(tmp_path_factory.mktemp("w"), ROWS)
    (model_id,) = made.models
    table = read_detections(made.workspace, RELEASE, model_id)
    rng = np.random.default_rng(2)
    start = rng.uniform(51600.0, 59000.0, ROWS)
    flux = rng.lognormal(-30.0, 1.0, ROWS).astype(np.float32)
    source = np.arange(ROWS) // 2
    placed = {
        "ra": 12.0 * source,
        "dec": np.degrees(np.arcsin(np.linspace(-0.9, 0.9, ROWS // 2)))[source],
    }
    columns = placed | {
        "mjd_start": pa.array(start, mask=np.arange(ROWS) == 5),
        "mjd_stop": pa.array(start + 0.5, mask=np.arange(ROWS) == 5),
        "flux_b": flux,
        "flux_b_lolim": 0.5 * flux,
        "flux_b_hilim": 2.0 * flux,
    }
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        column = values if isinstance(values, pa.Array) else pa.array(values)
        table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
    publish_table(
        made.workspace, load_model(made.workspace.absolute_uri(model_folder(model_id))), table
    )
    return made.workspace


@pytest.fixture(scope="module")
def folder(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tables in all formats, in one folder; partitions of HATS have at most 20 rows."""
    out = tmp_path_factory.mktemp("out")
    for format in FORMATS:
        for sources in (False, True):
            small = {"export": {"partition_rows": 20}}
            raypipe.export(workspace, format=format, sources=sources, out=out, config=small)
    return out


def test_sources_of_hats_hold_the_light_curves_of_their_detections(
    folder: Path, workspace: Workspace
) -> None:
    assert is_valid_catalog(folder / "sources-hats", strict=True, fail_fast=True)
    frame = lsdb.open_catalog(folder / "sources-hats").compute()
    rows = raypipe.open_catalog(workspace)
    assert len(frame) == rows["name"].nunique()
    assert frame["detections"].map(len).tolist() == frame["n_detections"].tolist()
    for _, source in frame.iterrows():
        own = rows[rows["name"] == source["name"]].sort_values("mjd_start")
        curve = source["detections"]
        assert curve["detection_id"].tolist() == own["detection_id"].tolist()
        for name in ("mjd_start", "z0", "z0_err", "flux_b", "flux_b_lolim", "total_counts"):
            np.testing.assert_array_equal(curve[name].to_numpy(), own[name].to_numpy())
    # As astronomers use it: what each source does over time, without a loop of their own.
    how = {"row_container": "args", "output_names": "spread"}
    spread = frame.map_rows(lambda z0: float(np.ptp(z0)), columns=["detections.z0"], **how)
    expected = rows.groupby("name")["z0"].agg(np.ptp)[frame["name"]]
    np.testing.assert_allclose(spread["spread"], expected, rtol=1e-6)
    described = pq.read_schema(next((folder / "sources-hats").rglob("Npix=*.parquet")))
    assert described.field("detections").type.field("z0").metadata[b"description"] == b"latent 0"


@pytest.mark.parametrize("table", ["detections", "sources"])
def test_the_coverage_is_where_the_rows_are(folder: Path, table: str) -> None:
    coverage = MOC.from_fits(folder / f"{table}-moc.fits")
    rows = pd.read_parquet(folder / f"{table}.parquet")
    ra, dec = (rows[name].to_numpy() * u.deg for name in ("ra", "dec"))
    assert coverage.contains_lonlat(ra, dec).all()
    far = (ra + 0.5 * u.deg) % (360 * u.deg)
    assert not coverage.contains_lonlat(far, dec).all()
    assert coverage.sky_fraction <= len(rows) / (12 * 4**10)
    assert f"coverage in {table}-moc.fits" in (folder / "README.md").read_text()


def test_the_citation_and_the_card_say_what_the_data_are(folder: Path) -> None:
    citation = yaml.safe_load((folder / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "dataset"
    assert RELEASE in citation["title"]
    titles = [reference["title"] for reference in citation["references"]]
    assert any("Chandra Source Catalog Release 2" in title for title in titles)
    assert all(reference["authors"] for reference in citation["references"])
    for page in ("README.md", "index.html"):
        text = (folder / page).read_text()
        assert "made use of data obtained from the Chandra Source Catalog" in text
        assert f"{ROWS} detections of the Chandra Source Catalog" in text
    assert "the license under which you publish" in (folder / "README.md").read_text()


@pytest.mark.parametrize("simulated", [True, False])
def test_only_the_data_that_are_there_are_acknowledged(simulated: bool) -> None:
    origin = Origin(simulated, csc=5 if simulated else 0, own=0 if simulated else 3)
    assert (
        "Chandra" not in origin.terms + citation_file(publication(), origin).partition("refer")[0]
    )
    assert ("simulated" if simulated else "3 spectra from other files") in origin.data


def publication() -> Publication:
    return Publication(
        "r", "m", 1, 5, 5, ("part",), "sources", "0", published="2026-01-02T03:04:05"
    )


@needs_stilts
@pytest.mark.parametrize("format", FORMATS)
def test_topcats_reader_opens_each_export(folder: Path, format: str) -> None:
    if format in ("parquet", "hats") and not stilts_reads_parquet(folder):
        pytest.skip("stilts is installed without its libraries for Parquet")
    endings = {"fits": ".fits", "votable": ".vot", "parquet": ".parquet"}
    for table, rows in (("detections", ROWS), ("sources", ROWS // 2 + 1)):
        parts = sorted((folder / f"{table}-hats").rglob("Npix=*.parquet"))
        files = parts if format == "hats" else [folder / f"{table}{endings[format]}"]
        found = [name for file in files for name in stilts_ids(file, table)]
        assert len(set(found)) == len(found) == rows


@needs_stilts
def test_topcats_reader_opens_the_coverage(folder: Path) -> None:
    coverage = MOC.from_fits(folder / "sources-moc.fits")
    bounds = coverage.to_depth29_ranges.ravel()
    assert [int(cell) for cell in stilts_cells(folder / "sources-moc.fits", "1")] == bounds.tolist()


def stilts_reads_parquet(folder: Path) -> bool:
    line = ["stilts", "tpipe", f"in={folder / 'sources.parquet'}", "ifmt=parquet", "omode=count"]
    return subprocess.run(line, capture_output=True, timeout=120, check=False).returncode == 0


def stilts_ids(path: Path, table: str) -> list[str]:
    return stilts_cells(path, "detection_id" if table == "detections" else "best_detection_id")


def stilts_cells(path: Path, column: str) -> list[str]:
    """The values of a column, as text, that stilts reads."""
    line = ["stilts", "tpipe", f"in={path}", f"cmd=keepcols {column}", "omode=out"]
    done = subprocess.run(
        [*line, "ofmt=csv", "out=-"], capture_output=True, text=True, timeout=120, check=True
    )
    return [row[0] for row in list(csv.reader(done.stdout.splitlines()))[1:]]


def test_hats_opens_by_url(folder: Path) -> None:
    """From a plain web server, as a bucket is read without credentials."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/sources-hats"
            catalog = lsdb.open_catalog(url)
            rows = catalog.compute()
            here = lsdb.open_catalog(folder / "sources-hats").compute()
        finally:
            server.shutdown()
    assert rows["best_detection_id"].tolist() == here["best_detection_id"].tolist()
    assert rows["detections"].nest.to_flat().equals(here["detections"].nest.to_flat())


class _Quiet(SimpleHTTPRequestHandler):
    """Answers requests for a range of bytes, as web servers do."""

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted or not file.is_file():
            super().do_GET()
            return
        content = file.read_bytes()
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass
