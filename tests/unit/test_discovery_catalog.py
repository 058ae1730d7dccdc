from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from raypipe.catalog.brought_table import read_catalog
from raypipe.catalog.sky_index import SkyIndex
from raypipe.discovery.catalog_join import CatalogJoin
from raypipe.discovery.columns import ColumnTypes, manifest_rows
from raypipe.discovery.discover import discover
from raypipe.errors import UsageError
from raypipe.ogip import read_spectrum
from raypipe.ogip.regions import region_position
from raypipe.store.layout import manifest_folder
from raypipe.store.workspace import Workspace


def test_the_real_catalog_joins_by_detection(shared_data: Path, tmp_path: Path) -> None:
    catalog = shared_data / "catalog" / "csc20_detections.parquet"
    discover(tmp_path, source=str(shared_data / "csc"), catalog=catalog, release="csc2.1")
    rows = Workspace(tmp_path).read_folder("manifest/csc2.1").to_pandas().set_index("detection_id")
    agn = rows.loc["csc2.1:4736.0.79"]
    assert agn["name"] == "2CXO J140515.6+542458"
    assert agn["class"] == "AGN"
    assert agn["ra"] == pytest.approx(211.315, abs=1e-3)
    assert agn["dec"] == pytest.approx(54.416, abs=1e-3)
    assert rows["name"].isna().sum() == 5


def _detections(*ids: str, **columns: Any) -> pa.Table:
    n = len(ids)
    own = {"detection_id": list(ids), "obsid": range(1, n + 1), "obi": [0] * n}
    return manifest_rows(pa.table({**own, "region_id": [1] * n, **columns}))


def _table(**columns: Any) -> pa.Table:
    return pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)


def _joined(tables: list[pa.Table], **catalog: Any) -> pd.DataFrame:
    """Detections with the columns of a catalog, which the first table fills in none of."""
    join = CatalogJoin(_table(**catalog))
    types = ColumnTypes()
    for table in tables:
        types.see(table)
        join.look(table)
    join.settle(types.filled, types.types)
    return pa.concat_tables(join.add_columns(types.unite([table])) for table in tables).to_pandas()


def test_rows_that_repeat_a_key_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    named = [_detections("a", "b", name=["n", None])]
    keys = {"name": ["n", "n", None, None, "other", "other"]}
    joined = _joined(named, **keys, kind=["first", "second", "x", "y", "z", "z"])
    assert joined["kind"].fillna("").tolist() == ["first", ""]
    assert "2 rows repeat the name of an earlier row, which is used in their place" in caplog.text


def test_catalogs_join_by_the_best_key_they_have() -> None:
    both = [_detections("a", "b")]
    by_id = _joined(both, detection_id=["b"], true_class=["AGN"])
    assert by_id["true_class"].fillna("").tolist() == ["", "AGN"]
    triple = {"obsid": ["1", "1"], "obi": 0, "region_id": 1, "ra": [5.0, 6.0]}
    assert _joined(both, **triple)["ra"][0] == 5.0
    assert _joined(both, **triple, detection_id=["x", "y"])["ra"][0] == 5.0
    named = [_detections("a", "b", name=["n", None])]
    by_name = _joined(named, name=["n", None], kind=["NS", "X"])
    assert by_name["kind"].fillna("").tolist() == ["NS", ""]
    with pytest.raises(UsageError, match="no row of the catalog is a detection"):
        _joined(both, name=["n"], kind=["NS"])
    with pytest.raises(UsageError, match="neither detection_id"):
        CatalogJoin(pa.table({"source": ["x"]}))


def test_a_key_that_matches_late_counts_for_all() -> None:
    tables = [_detections("a", "b"), _detections("c", "d")]
    catalog = {"detection_id": ["d", "x"], "obsid": [9, 1], "obi": 0, "region_id": 1, "n": [7, 8]}
    assert _joined(tables, **catalog)["n"].tolist()[3] == 7
    assert _joined(tables, **catalog)["n"].isna().tolist() == [True, True, True, False]


def test_columns_with_values_stay_as_they_are() -> None:
    tables = [_detections("a", k=[None]), _detections("b", k=[3])]
    rows = _joined(tables, detection_id=["b", "a"], k=[5, 6], ra=[1.0, 2.0])
    assert rows["k"].isna().tolist() == [True, False]
    assert rows["ra"].tolist() == [2.0, 1.0]


def test_unreadable_catalogs_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "c.parquet").write_text("not parquet")
    with pytest.raises(UsageError, match="not a readable"):
        read_catalog(tmp_path / "c.parquet")
    with pytest.raises(UsageError, match="no such file"):
        read_catalog(tmp_path / "absent.csv")


def test_classes_of_fits_catalogs_are_text(tmp_path: Path) -> None:
    table = Table({"obsid": [1], "obi": [0], "region_id": [1], "class": np.array([b"AGN"])})
    table.write(tmp_path / "c.fits")
    assert read_catalog(tmp_path / "c.fits")["class"].to_pylist() == ["AGN"]


def test_a_catalog_of_other_detections_is_a_usage_error_that_shows_both_sides() -> None:
    join = CatalogJoin(pa.table({"detection_id": ["csc2.0:1.0.1"], "name": ["M31 X-1"]}))
    detections = pa.table({"detection_id": ["csc2.1:1.0.1"], "name": pa.array([None], pa.string())})
    join.look(detections)
    with pytest.raises(UsageError) as caught:
        join.settle({"detection_id"})
    said = str(caught.value)
    assert (
        "detection_id (the catalog has 'csc2.0:1.0.1', the detections have 'csc2.1:1.0.1')" in said
    )
    assert "name (the catalog has 'M31 X-1', the detections have none)" in said


def test_a_catalog_joins_by_position_with_its_distance(tmp_path: Path, shared_data: Path) -> None:
    """Real CSC files, whose positions are in their headers, and another survey's table."""
    files = [
        path
        for path in (shared_data / "csc").glob("acis*pha3*")
        if path.name[5:10] in ("01575", "04487", "04938")
    ]
    places = {path.name: region_position(read_spectrum(path).header) for path in files}
    known = sorted((name, place) for name, place in places.items() if place is not None)
    # Each row lies 0.5 arcsec north of a detection; the first detection has another, 0.9 to its
    # south, and the last row lies 3 arcsec from its detection.
    offsets = [0.5] * (len(known) - 1) + [3.0]
    rows = [
        (name, ra, dec + off / 3600) for (name, (ra, dec)), off in zip(known, offsets, strict=True)
    ]
    rows.append(("other", known[0][1][0], known[0][1][1] - 0.9 / 3600))
    table = pd.DataFrame(rows, columns=["name", "ra", "dec"])
    table["obsid"] = range(9000, 9000 + len(table))
    table["kind"] = [f"kind {name}" for name in table["name"]]
    table.to_csv(tmp_path / "t.csv", index=False)
    w = Workspace(tmp_path / "w")
    source, catalog = str(shared_data / "csc"), tmp_path / "t.csv"
    summary = discover(w, source=source, catalog=catalog, by="position", radius=1.0, release="r")
    assert summary["joined_by_position"] == {
        "radius_arcsec": 1.0,
        "found": len(known) - 1,
        "ambiguous": 1,
        "median_separation_arcsec": 0.5,
    }
    found = w.read_folder(manifest_folder("r")).to_pandas().set_index("pha_uri")
    for (name, (ra, dec)), offset in zip(known, offsets, strict=True):
        (row,) = (row for uri, row in found.iterrows() if str(uri).endswith(name))
        assert (row["ra"], row["dec"]) == pytest.approx((ra, dec), abs=1e-9), "not the catalog's"
        assert row["obsid"] < 9000
        if offset > 1.0:
            assert pd.isna(row["separation_arcsec"])
            assert pd.isna(row["kind"])
            continue
        assert row["separation_arcsec"] == pytest.approx(0.5, abs=1e-4)
        assert row["kind"] == f"kind {name}"
        assert row["name"] == name
        assert row["catalog_ra"] == pytest.approx(ra, abs=1e-9)
        assert row["catalog_obsid"] >= 9000


def test_what_a_join_by_position_cannot_do_is_a_usage_error(tmp_path: Path) -> None:
    detections = manifest_rows(_table(detection_id=["a", "b"], ra=[10.0, None], dec=[-5.0, None]))
    with pytest.raises(UsageError, match="no columns ra and dec, which --by position needs"):
        CatalogJoin(_table(name=["A"]), 1.0)
    with pytest.raises(UsageError, match="--radius -1: expected arcseconds"):
        CatalogJoin(_table(ra=[10.0], dec=[5.0]), -1.0)
    join = CatalogJoin(_table(ra=[10.0], dec=[5.0]), 1.0)
    join.look(detections)
    with pytest.raises(
        UsageError, match=r"position within 1 arcsec \(1 detections have a position"
    ):
        join.settle(set())
    with pytest.raises(UsageError, match="--by name: expected position"):
        discover(tmp_path, source=str(tmp_path), by="name")


@given(st.integers(0, 2**32 - 1))
def test_the_nearest_position_is_that_of_astropy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    center = rng.uniform((0.0, -90.0), (360.0, 90.0))
    near = center + rng.normal(0.0, 3.0, (40, 2)) / 3600.0
    near[:, 0], near[:, 1] = near[:, 0] % 360.0, near[:, 1].clip(-90.0, 90.0)
    ra, dec = near.T
    found = SkyIndex(ra[:25], dec[:25]).nearest(ra[25:], dec[25:], 2.0)
    ours, theirs = (SkyCoord(ra[part], dec[part], unit="deg") for part in np.s_[25:, :25])
    separations = ours[:, None].separation(theirs[None]).arcsec
    within = separations.min(1) <= 2.0
    assert (found.places[within] == separations.argmin(1)[within]).all()
    assert (found.places[~within] == -1).all()
    assert found.separation_arcsec[within] == pytest.approx(separations.min(1)[within], abs=1e-5)
    assert (found.is_ambiguous == ((separations <= 2.0).sum(1) > 1)).all()
