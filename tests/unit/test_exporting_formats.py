"""Exports, each opened with its own tool: the same numbers, described, whole or not there."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits, votable
from astropy.table import Table
from astropy.units import UnitsWarning
from hats.io.validation import is_valid_catalog
from pyvo.dal.query import DALResults

import raypipe
from raypipe.catalog.schema import describe
from raypipe.exporting.formats.parquet import CONTENT_KEY, VERSION_KEY
from raypipe.model.bundle import load_model
from raypipe.store.layout import model_folder
from raypipe.store.publication import read_detections, read_sources, require_publication
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, make_workspace, publish_table

MODELS = ["folded-test", "paper-test"]
FILES = {"fits": ".fits", "votable": ".vot", "parquet": ".parquet", "hats": "-hats"}
ROWS = 120
UNPLACED = {2, 3, 50}
SMALL_PARTITIONS = {"export": {"partition_rows": 40}}

Row = dict[str, Any]

needs_stilts = pytest.mark.skipif(shutil.which("stilts") is None, reason="stilts is not installed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of two catalogs with all that columns can be, exported in every way."""
    folder = tmp_path_factory.mktemp("export")
    made = make_workspace(folder, ROWS, presets=("folded", "paper"))
    for model in made.models:
        table = awkward(read_detections(made.workspace, RELEASE, model))
        uri = made.workspace.absolute_uri(model_folder(model))
        publish_table(made.workspace, load_model(uri), table)
        for format in FILES:
            for sources in (False, True):
                raypipe.export(
                    made.workspace,
                    format=format,
                    model=model,
                    sources=sources,
                    config=SMALL_PARTITIONS,
                )
    return folder


def awkward(table: pa.Table) -> pa.Table:
    """Rows all over the sky, some without a position, and columns with nulls of every type."""
    rng = np.random.default_rng(1)
    n = table.num_rows
    missing = np.isin(np.arange(n), sorted(UNPLACED))
    ra = pa.array(rng.uniform(0, 360, n), mask=missing)
    dec = pa.array(np.degrees(np.arcsin(rng.uniform(-1, 1, n))), mask=missing)
    thirds = np.arange(n) % 3
    columns = {
        "ra": ra,
        "dec": dec,
        "edge_code": pa.array(np.iinfo(np.int64).min + thirds, mask=thirds == 1),
        "extent_code": pa.array(thirds, pa.int16(), mask=thirds == 2),
        "multi_chip_code": pa.array(thirds, pa.int32()),
        "extent_flag": pa.array(thirds == 0, mask=thirds == 1),
        "significance": pa.array(np.where(thirds == 0, np.nan, thirds / 7), mask=thirds == 1),
        "observer": pa.array([["Zoë", None, "N. Ὕβλα"][i] for i in thirds]),
        "grating": pa.array([["NONE", None, ""][i] for i in thirds]),
        "gti_obs": pa.array([date(2001, 1, i + 1) for i in thirds]),
        "instrument": pa.array(["ACIS"] * n).dictionary_encode(),
        "likelihood_class": pa.nulls(n),
        "nested": pa.array([[1, 2]] * n),
    }
    for name, column in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def exported(home: Path, model: str, name: str) -> Path:
    return home / "exports" / RELEASE / model / name


def rows_of_arrow(table: pa.Table) -> list[Row]:
    return [{name: plain(value) for name, value in row.items()} for row in table.to_pylist()]


def rows_of_table(table: Table) -> list[Row]:
    columns = [[plain(value) for value in table[name]] for name in table.colnames]
    return [dict(zip(table.colnames, row, strict=True)) for row in zip(*columns, strict=True)]


def plain(value: Any) -> Any:
    """A cell as Python has it: None where there is no value, dates as text, lists as tuples."""
    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(plain(one) for one in np.ma.getdata(value))
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value


def read_fits(path: Path) -> list[Row]:
    return rows_of_table(Table.read(path))


def read_votable(path: Path) -> list[Row]:
    return rows_of_table(votable.parse_single_table(path).to_table(use_names_over_ids=True))


def read_parquet(path: Path) -> list[Row]:
    return rows_of_arrow(pq.read_table(path))


def read_hats(path: Path) -> list[Row]:
    frame = lsdb.open_catalog(path).compute().reset_index(drop=True)
    table = pa.Table.from_pandas(pd.DataFrame(frame), preserve_index=False)
    return rows_of_arrow(
        table.drop_columns([n for n in ("_healpix_29", "detections") if n in frame])
    )


READERS: dict[str, Callable[[Path], list[Row]]] = {
    "fits": read_fits,
    "votable": read_votable,
    "parquet": read_parquet,
    "hats": read_hats,
}


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("table", ["detections", "sources"])
def test_every_format_has_every_number(home: Path, model: str, table: str, format: str) -> None:
    read = read_detections if table == "detections" else read_sources
    published = read(Workspace(home), RELEASE, model)
    published = published.drop_columns(["nested"] * ("nested" in published.column_names))
    expected = {row_key(row): row for row in rows_of_arrow(published)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            row_key(r): r for r in READERS[format](exported(home, model, table + FILES[format]))
        }
    if format == "hats":
        expected = {key: row for key, row in expected.items() if row["ra"] is not None}
        assert len(expected) < published.num_rows
    assert len(expected) > 50
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        if format == "fits":
            row = {name: fits_text(value) for name, value in row.items()}
        if format in ("fits", "votable"):
            row, found[key] = without_empty(row), without_empty(found[key])
        assert found[key] == row


def row_key(row: Row) -> str:
    key = row["detection_id"] if "detection_id" in row else row["best_detection_id"]
    return str(key)


def fits_text(value: Any) -> Any:
    """Text as FITS has it, in ASCII."""
    is_text = isinstance(value, str)
    return value.encode("ascii", "backslashreplace").decode() if is_text else value


def without_empty(row: Row) -> Row:
    """No text is as good as null where astropy reads one as the other, as is a vector of NaN."""

    def is_empty(value: Any) -> bool:
        return value == "" or (isinstance(value, tuple) and all(cell is None for cell in value))

    return {name: None if is_empty(value) else value for name, value in row.items()}


def test_the_paper_preset_has_no_errors_to_export(home: Path) -> None:
    table = Table.read(exported(home, "paper-test", "detections.fits"))
    assert np.isnan(np.ma.getdata(table["z0_err"])).all()
    assert np.isnan(np.ma.getdata(table["z_cov"])).all()
    assert np.isfinite(table["z0"]).all()


@needs_stilts
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("table", ["detections", "sources"])
def test_votlint_finds_nothing(home: Path, model: str, table: str) -> None:
    lint = ["stilts", "votlint", str(exported(home, model, f"{table}.vot"))]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout + done.stderr == ""


@needs_stilts
@pytest.mark.parametrize("name", ["detections.fits", "detections.vot"])
def test_stilts_reads_what_columns_are(home: Path, name: str) -> None:
    path = exported(home, "folded-test", name)
    meta = stilts_rows(path, "meta name ucd")
    for column in ("ra", "z0_err", "z_cov", "total_counts"):
        known = describe(column)
        assert known is not None
        assert [column, known.ucd] in meta
    names = ["detection_id", "edge_code", "extent_flag", "extent_code", "multi_chip_code"]
    found = stilts_rows(path, f"keepcols '{' '.join(names)}'")
    published = rows_of_arrow(read_detections(Workspace(home), RELEASE, "folded-test"))
    cells = [["" if row[name] is None else str(row[name]) for name in names] for row in published]
    assert found == [
        [text.replace("True", "1").replace("False", "0") for text in row] for row in cells
    ]


def stilts_rows(path: Path, command: str) -> list[list[str]]:
    """Rows of text, without the header, that a command of stilts makes of a table."""
    line = ["stilts", "tpipe", f"in={path}", f"cmd={command}", "omode=out", "ofmt=csv", "out=-"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    return list(csv.reader(done.stdout.splitlines()))[1:]


def test_fits_says_what_columns_are_and_what_made_them(home: Path) -> None:
    with fits.open(exported(home, "folded-test", "detections.fits")) as file:
        file.verify("exception")
        header = file[1].header
        names = file[1].columns.names
    number = names.index("ra") + 1
    assert header[f"TUNIT{number}"] == "deg"
    assert header[f"TUCD{number}"] == "pos.eq.ra;meta.main"
    assert header[f"TCOMM{number}"] == "right ascension, ICRS"
    assert header[f"TFORM{names.index('z_cov') + 1}"] == "36E"
    own = require_publication(Workspace(home), RELEASE, "folded-test")
    assert header["PUBNUM"] == own.number == 2
    assert header["FINGERPR"] == own.fingerprint
    assert header["PUBDATE"] == own.published
    assert (header["MODEL_ID"], header["RELEASE"]) == ("folded-test", RELEASE)
    assert header["CREATOR"] == f"raypipe {raypipe.__version__}"


def test_astropy_shows_descriptions_and_units_of_fits_columns(home: Path) -> None:
    """As `Table.read` without options gives them; TCOMM alone it would leave in the header."""
    path = exported(home, "folded-test", "detections.fits")
    table = Table.read(path)
    for name in ("detection_id", "ra", "z0", "z_cov", "fit_zscore", "flags"):
        known = describe(name)
        assert known is not None
        assert (table[name].description, table[name].meta["ucd"]) == (known.description, known.ucd)
    assert str(table["ra"].unit) == "deg"
    assert str(table["exposure_s"].unit) == "s"
    assert not [line for line in table.meta.get("comments", []) if "ASTROPY" in line]


def test_votable_says_what_columns_are_and_what_made_them(home: Path) -> None:
    path = exported(home, "folded-test", "detections.vot")
    document = votable.parse(path)
    resource = document.resources[0]
    infos = {info.name: info.value for info in resource.infos}
    assert infos["model_id"] == "folded-test"
    assert infos["fingerprint"] == "2"
    assert (document.version, resource.coordinate_systems[0].system) == ("1.4", "ICRS")
    fields = {field.name: field for field in document.get_first_table().fields}
    assert (fields["ra"].ref, fields["ra"].unit, fields["z0"].ref) == ("icrs", "deg", None)
    known = describe("variability_p")
    assert known is not None
    sources = votable.parse(exported(home, "folded-test", "sources.vot")).get_first_table()
    field = next(field for field in sources.fields if field.name == "variability_p")
    assert (field.ucd, field.description) == (known.ucd, known.description)
    assert len(DALResults(document)) == ROWS


def test_parquet_is_voparquet(home: Path) -> None:
    path = exported(home, "folded-test", "detections.parquet")
    metadata = pq.read_metadata(path).metadata
    assert metadata[VERSION_KEY.encode()] == b"1.0"
    assert b"<DATA" not in metadata[CONTENT_KEY.encode()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitsWarning)
        table = Table.read(path, format="parquet.votable")
    assert len(table) == ROWS
    assert str(table["ra"].unit) == "deg"
    assert table["z0"].meta["ucd"] == "stat.value"
    assert table["cash"].description == "Cash statistic of the reconstruction"
    assert set(table["grating"]) == {"NONE", "None", ""}
    assert pd.read_parquet(path)["z_cov"].map(len).eq(36).all()


def test_hats_is_valid_searched_and_crossed(home: Path) -> None:
    path = exported(home, "folded-test", "detections-hats")
    assert is_valid_catalog(path, strict=True)
    assert len(list(path.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"))) > 4
    for partition in path.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"):
        index = pq.read_table(partition)["_healpix_29"].to_numpy()
        assert 0 < len(index) <= 40
        assert (np.diff(index) >= 0).all()
    catalog = lsdb.open_catalog(path)
    placed = [row for row in read_parquet(path.with_name("detections.parquet")) if row["ra"]]
    assert len(catalog) == len(placed) == ROWS - len(UNPLACED)
    one = placed[7]
    found = catalog.cone_search(ra=one["ra"], dec=one["dec"], radius_arcsec=1).compute()
    assert list(found["detection_id"]) == [one["detection_id"]]
    sources = lsdb.open_catalog(path.with_name("sources-hats"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = catalog.crossmatch(sources, radius_arcsec=0.1, suffixes=("", "_of")).compute()
    best = [row["best_detection_id"] for row in read_hats(path.with_name("sources-hats"))]
    assert sorted(pairs["detection_id"]) == sorted(best)
    assert (pairs["detection_id"] == pairs["best_detection_id_of"]).all()


def test_hats_says_which_rows_have_no_place(home: Path) -> None:
    folder = exported(home, "folded-test", "")
    record = json.loads((folder / "exports.json").read_text())
    (hats,) = [one for one in record if one["name"] == "detections-hats"]
    assert (hats["rows"], hats["rows_left_out"]) == (ROWS - 3, 3)
    note = "3 of 120 rows left out, which have no position (ra, dec)"
    for page in ("README.md", "index.html"):
        assert note in (folder / page).read_text()
        assert "columns of nested values left out: nested" in (folder / page).read_text()


def test_the_page_is_escaped_and_loads_nothing(home: Path) -> None:
    folder = exported(home, "folded-test", "")
    page, readme = ((folder / name).read_text() for name in ("index.html", "README.md"))
    assert "//" not in page.replace("sim:", "")
    assert "<script" not in page + readme
    for text in (page, readme):
        for expected in (*(f"detections{end}" for end in FILES.values()), "arXiv:2510.14102"):
            assert expected in text
        assert "stat.covariance" in text
    assert "| HMXB | 16 | 8 |" in readme


AWKWARD_CLASSES = ["a b", "a_b", "HM-STAR", "3 é–θ", "<b>&", "\x1b[31mred", "\x00", "AGN"]


@pytest.mark.parametrize("format", ["fits", "votable", "parquet"])
def test_any_name_of_a_class_is_exported(tmp_path: Path, format: str) -> None:
    made = make_workspace(tmp_path, 16, classes=AWKWARD_CLASSES)
    for sources in (False, True):
        path = raypipe.export(made.workspace, format=format, sources=sources)
        as_format = "parquet.votable" if format == "parquet" else None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UnitsWarning)
            table = Table.read(path, format=as_format)
        found = [name for name in table.colnames if name.startswith("p_")]
        expected = {
            "fits": ["p_a b", "p_a_b", "p_HM-STAR", r"p_3 \xe9\u2013\u03b8", r"p_\x00"],
            "votable": ["p_a_b", "p_a_b_2", "p_HM-STAR", "p_3____", "p__x00"],
            "parquet": ["p_a b", "p_a_b", "p_HM-STAR", "p_3 é–θ", "p_\x00"],
        }
        assert set(expected[format]) <= set(found)
        # astropy takes identifiers for the names of Parquet columns, and misses some descriptions.
        described = ["p_HM-STAR", "p_AGN"] if format == "parquet" else found
        assert all(table[name].description for name in described)
