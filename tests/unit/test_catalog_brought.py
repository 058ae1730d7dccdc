"""A table that a user brings, from discover to every export: its values arrive, and no more."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import subprocess
import warnings
from collections.abc import Callable
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import raypipe
from raypipe.catalog.brought_table import read_catalog
from raypipe.catalog.column_names import free_name
from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.ingestion.part import ingest_part
from raypipe.model.bundle import load_model
from raypipe.store.layout import model_folder
from raypipe.store.manifest import ORIGINAL_NAME
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import (
    CLASSES,
    RELEASE,
    embed_spectra,
    make_workspace,
    publish_table,
)

GAIA = 5853498713190525697
DETECTIONS = 8
FILES = {"fits": ".fits", "votable": ".vot", "parquet": ".parquet", "hats": "-hats"}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of eight detections: obsid 1 to 8, obi 0, region 1."""
    made, folder = (tmp_path_factory.mktemp(name) for name in ("made", "products"))
    raypipe.simulate(made, detections=DETECTIONS, seed=1)
    for product in ("pha3", "arf3", "rmf3"):
        for number, file in enumerate(sorted(made.rglob(f"*_{product}.fits.gz")), 1):
            shutil.copy(file, folder / f"acisf{number:05d}_000N001_r0001_{product}.fits.gz")
    return folder


def ingested(products: Path, folder: Path, catalog: Path) -> tuple[Workspace, pa.Table, pa.Table]:
    """A workspace with a model's catalog of the products and of a table; manifest and spectra."""
    workspace = Workspace(folder)
    discover(workspace, source=str(products), catalog=catalog, release=RELEASE)
    outcome = ingest_part(workspace, RELEASE, 0, IngestConfig())
    assert outcome.spectra == DETECTIONS
    manifest, spectra = (workspace.read_folder(f"{name}/{RELEASE}") for name in STAGES)
    if "class" not in spectra.column_names:
        spectra = spectra.append_column("class", pa.nulls(DETECTIONS, pa.string()))
    embed_spectra(workspace, spectra)
    return workspace, manifest, spectra


STAGES = ("manifest", "spectra")


def read_fits(path: Path) -> dict[str, list[Any]]:
    table = Table.read(path)
    return {name: [plain(value) for value in table[name]] for name in table.colnames}


def read_votable(path: Path) -> dict[str, list[Any]]:
    table = votable.parse_single_table(path).to_table(use_names_over_ids=True)
    return {name: [plain(value) for value in table[name]] for name in table.colnames}


def read_parquet(path: Path) -> dict[str, list[Any]]:
    columns = pq.read_table(path).to_pydict()
    return {name: [plain(value) for value in values] for name, values in columns.items()}


def read_hats(path: Path) -> dict[str, list[Any]]:
    frame = lsdb.open_catalog(path).compute()
    table = pa.Table.from_pandas(pd.DataFrame(frame), preserve_index=False)
    return {n: [plain(value) for value in v] for n, v in table.to_pydict().items()}


def plain(value: Any) -> Any:
    if value is None or value is np.ma.masked or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    "fits": read_fits,
    "votable": read_votable,
    "parquet": read_parquet,
    "hats": read_hats,
}


def exported(workspace: Workspace, format: str, out: Path) -> dict[str, list[Any]]:
    """The columns of the detections in a format, as its own tool reads them."""
    raypipe.export(workspace, format=format, out=out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return READERS[format](out / f"detections{FILES[format]}")


IDS = {
    "ids.csv": [4295806720000000007, None, GAIA, None, 2305843009213693953, 6, 7, 8],
    "ids-some.fits": [4295806720000000007, 1, GAIA, 2, 2305843009213693953, None, None, None],
}
for same in ("ids.fits", "ids.parquet", "ids.vot"):
    IDS[same] = IDS["ids.csv"]


@pytest.mark.parametrize("name", IDS)
def test_identifiers_keep_their_last_digit(
    name: str, products: Path, shared_data: Path, tmp_path: Path
) -> None:
    workspace, manifest, spectra = ingested(products, tmp_path / "w", odd(shared_data, name))
    detections = read_detections(workspace, RELEASE, "folded-test")
    for table in (manifest, spectra, detections):
        assert table.schema.field("gaia_id").type == pa.int64()
        assert table["gaia_id"].to_pylist() == IDS[name]
    opened = raypipe.open_catalog(workspace)["gaia_id"]
    assert opened.dtype == pd.Int64Dtype()
    assert [None if value is pd.NA else value for value in opened] == IDS[name]
    for format in ("fits", "votable", "parquet"):
        assert exported(workspace, format, tmp_path / "out")["gaia_id"] == IDS[name], format


def odd(shared_data: Path, name: str) -> Path:
    return shared_data / "cases" / "catalog-odd" / name


def test_columns_of_every_kind_with_nulls_arrive(
    products: Path, shared_data: Path, tmp_path: Path
) -> None:
    workspace, manifest, _ = ingested(products, tmp_path / "w", odd(shared_data, "nulls.parquet"))
    expected = pq.read_table(odd(shared_data, "nulls.parquet")).to_pydict()
    for name in ("n_match", "big", "type", "good", "when", "kind", "nothing"):
        assert manifest[name].to_pylist() == expected[name], name
    frame = raypipe.open_catalog(workspace)
    assert (frame["n_match"].dtype, frame["good"].dtype) == (pd.Int64Dtype(), pd.BooleanDtype())
    for format in ("fits", "votable", "parquet"):
        found = exported(workspace, format, tmp_path / "out")
        assert found["big"] == expected["big"], format
        assert found["good"] == [1, None, 0, *[None] * 5], format


def test_names_that_are_odd_are_documented_and_nothing_is_lost(
    products: Path, shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    workspace, manifest, _ = ingested(products, tmp_path / "w", odd(shared_data, "names.csv"))
    original = {
        "grosse": "größe",
        "alpha_ox": "α_ox",
        "Flux_0_5_7": "Flux (0.5-7)",
        "ra": "Ra",
        "catalog_RA": "RA",
        "catalog_COUNTS_B": "COUNTS_B",
        "catalog_z0": "z0",
    }
    assert workspace.read_json(f"manifest/{RELEASE}/manifest.json")["renamed"] == original
    assert sum("columns renamed" in record.getMessage() for record in caplog.records) == 1
    given = pd.read_csv(odd(shared_data, "names.csv"))
    for name, old in original.items():
        assert manifest[name].to_pylist() == given[old].tolist(), name
        assert manifest.schema.field(name).metadata[ORIGINAL_NAME].decode() == old
    detections = read_detections(workspace, RELEASE, "folded-test")
    assert detections.schema.field("grosse").metadata[ORIGINAL_NAME].decode() == "größe"
    for format in ("fits", "votable", "parquet"):
        found = exported(workspace, format, tmp_path / "out")
        assert {*original, "z0", "counts_b", "note"} <= set(found), format
        assert found["catalog_z0"] == given["z0"].tolist()
        assert found["z0"] == pytest.approx(detections["z0"].to_pylist())
    header = fits.getheader(tmp_path / "out" / "detections.fits", 1)
    number = next(key for key, value in header.items() if value == "grosse")[len("TTYPE") :]
    assert header[f"TCOMM{number}"] == r"gr\xf6\xdfe in the table it came from"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deg-ok.csv", {"ra": [10.5 + i for i in range(8)], "dec": [-41.2] * 8}),
        ("text-degrees.fits", {"ra": [10.5 + i for i in range(8)], "dec": [-41.2] * 8}),
        (
            "capitals.csv",
            {
                "ra": [10.5 + i for i in range(8)],
                "dec": [-41.2] * 8,
                "name": [f"S{i}" for i in range(8)],
                "class": ["AGN"] * 8,
            },
        ),
        (
            "odd-positions.csv",
            {
                "ra": [10.5, None, 359.999999, 355.0, None, 180.0, 0.0, 0.0],
                "dec": [41.0, 41.0, 90.0, -90.0, 10.0, None, 0.0, None],
            },
        ),
        (
            "blank-sexagesimal.csv",
            {
                "ra": [10.684583] * 3 + [None] + [10.6875] * 4,
                "dec": [41.269167] * 3 + [None] + [-5.0] * 4,
                "class": ["AGN"] * 4 + ["YSO"] * 4,
            },
        ),
        (
            "repeated-keys.csv",
            {
                "name": ["2CXO J004242.5+405152"] * 2 + [f"src {i}" for i in range(6)],
                "class": ["AGN"] * 8,
            },
        ),
        (
            "long-name.csv",
            {"a_very_long_column_name_that_somebody_made_by_joining_two_ca_b505b8a": [1.5] * 8},
        ),
    ],
)
def test_what_identifies_a_detection_is_understood(
    name: str, expected: dict[str, Any], products: Path, shared_data: Path, tmp_path: Path
) -> None:
    discover(tmp_path, source=str(products), catalog=odd(shared_data, name), release=RELEASE)
    manifest = Workspace(tmp_path).read_folder(f"manifest/{RELEASE}")
    for column, values in expected.items():
        found = manifest[column].to_pylist()
        if isinstance(values[0], float):
            found, values = ([np.nan if v is None else v for v in each] for each in (found, values))
            assert found == pytest.approx(values, abs=1e-6, nan_ok=True), column
        else:
            assert found == values, column


def test_a_row_of_units_is_no_detection(products: Path, shared_data: Path, tmp_path: Path) -> None:
    catalog = odd(shared_data, "unit-row.csv")
    summary = discover(tmp_path, source=str(products), catalog=catalog, release=RELEASE)
    assert summary["rows"] == DETECTIONS
    rows = Workspace(tmp_path).read_folder(f"manifest/{RELEASE}").to_pandas()
    assert rows["ra"].between(0.0, 360.0).sum() == len(catalog.read_text().splitlines()) - 2


def test_addresses_in_a_joined_table_are_not_asked(products: Path, tmp_path: Path) -> None:
    """Neither a server inside nor a file of the worker's machine, for no kind of file."""
    secret = tmp_path / "secret"
    secret.write_text("the first line of it\n")
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        inside = f"http://127.0.0.1:{server.getsockname()[1]}/"
        keys = {"obsid": range(1, 9), "obi": [0] * 8, "region_id": [1] * 8}
        kinds = ("pha_uri", "arf_uri", "rmf_uri", "background_uri")
        columns = {name: [inside, str(secret)] * 4 for name in kinds}
        pq.write_table(pa.table(keys | columns | {"RMF_URI": [inside] * 8}), tmp_path / "c.parquet")
        workspace, manifest, spectra = ingested(products, tmp_path / "w", tmp_path / "c.parquet")
        with contextlib.suppress(TimeoutError):
            asked.append(server.accept()[0].recv(100))
    assert asked == []
    assert manifest["background_uri"].null_count == DETECTIONS
    assert set(spectra["flags"].to_pylist()) <= {"", None}
    for name in ("pha_uri", "arf_uri", "rmf_uri"):
        assert all(uri.startswith(str(products)) for uri in manifest[name].to_pylist())
    for name in kinds:
        assert manifest[f"catalog_{name}"].to_pylist() == columns[name]
    assert manifest["catalog_RMF_URI_2"].to_pylist() == [inside] * 8
    assert workspace.read_folder(f"rejects/{RELEASE}").num_rows == 0


def test_the_probability_of_the_model_wins_and_the_users_is_kept(
    products: Path, tmp_path: Path
) -> None:
    values = [i / 8 for i in range(8)]
    table = {"obsid": range(1, 9), "obi": [0] * 8, "region_id": [1] * 8, "class": CLASSES}
    catalog = tmp_path / "c.csv"
    pd.DataFrame(table | {"p_agn": values, "p_any": values}).to_csv(catalog, index=False)
    workspace, _, _ = ingested(products, tmp_path / "w", catalog)
    found = read_detections(workspace, RELEASE, "folded-test")
    assert found["catalog_p_agn"].to_pylist() == found["p_any"].to_pylist() == values
    assert found["p_AGN"].to_pylist() != values
    assert b"ucd" in found.schema.field("p_AGN").metadata
    assert not (found.schema.field("p_any").metadata or {}).get(b"ucd")


NAMES = st.text(st.characters(codec="utf-8"), max_size=75) | st.sampled_from(
    ["RA", "Ra", "DEC", "z0", "Z0", "index", "dir", "Npix", "_healpix_29", "p_AGN", "p_any", "END"]
)
COLUMNS = st.sampled_from(
    [
        pa.array([1, None, GAIA] * 2),
        pa.array([True, None, False] * 2),
        pa.array([1.5, None, -np.inf] * 2),
        pa.array(["a", None, "naïve\tα"] * 2),
        pa.array([-(2**31), None, 7] * 2, pa.int32()),
        pa.array([2**64 - 1, None, 7] * 2, pa.uint64()),
        pa.array([0.5, None, 2] * 2, pa.float16()),
        pa.array([10**6, None, 0] * 2, pa.timestamp("us")),
        pa.array([10**6, None, 0] * 2, pa.time64("us")),
        pa.array(["x", None, "y"] * 2).dictionary_encode(),
        pa.nulls(6),
    ]
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("small"), 6).workspace


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(brought=st.lists(st.tuples(NAMES, COLUMNS), min_size=4, max_size=12))
def test_every_export_of_every_catalog_opens(
    small: Workspace, brought: list[tuple[str, pa.Array]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("out")
    ids = pa.array([f"sim:{i}.0.1" for i in range(6)])
    columns = [("detection_id", ids), *((n, c) for n, c in brought if n.lower() != "detection_id")]
    positions = {"ra", "dec"}
    columns = [(n, c) for n, c in columns if n.strip().lower() not in positions | {"class"}]
    table = pa.table([c for _, c in columns], names=[n for n, _ in columns])
    pq.write_table(table, folder / "c.parquet")
    catalog = read_catalog(folder / "c.parquet")
    folder /= "exports"
    assert catalog.num_columns == table.num_columns
    model = load_model(small.absolute_uri(model_folder("folded-test")))
    detections = make_detections(small, catalog)
    publish_table(small, model, detections)
    expected = {field.name for field in detections.schema}
    for format in FILES:
        found = exported(small, format, folder)
        if format in ("fits", "votable") and shutil.which("stilts"):
            file = folder / f"detections{FILES[format]}"
            subprocess.run(["stilts", "tpipe", f"in={file}", "omode=count"], check=True)
        assert expected - {"_healpix_29"} <= {*found, "_healpix_29"}, format
        for name in catalog.column_names[1:]:
            if catalog.schema.field(name).type in (pa.int64(), pa.int32()):
                arrived = free_name(name, {f"p_{each}".lower() for each in CLASSES})
                assert found[arrived] == catalog[name].to_pylist(), (format, name)


def make_detections(workspace: Workspace, catalog: pa.Table) -> pa.Table:
    """The catalog by the model beside a table's columns, as `embed` puts them together."""
    spectra = workspace.read_folder(f"spectra/{RELEASE}")
    for field, column in list(zip(catalog.schema, catalog.columns, strict=True))[1:]:
        if field.name not in spectra.column_names:
            spectra = spectra.append_column(field, column)
    embed_spectra(workspace, spectra)
    return read_detections(workspace, RELEASE, "folded-test")
