from __future__ import annotations

import re
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
from raypipe.discovery.listing import CscFiles, looks_like_pha
from raypipe.discovery.own_ids import own_ids
from raypipe.discovery.release import folder_release
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import stem
from raypipe.ogip import read_spectrum
from raypipe.ogip.regions import region_position
from raypipe.store.layout import manifest_folder
from raypipe.store.manifest import choose_release, read_manifest_summary
from raypipe.store.workspace import Workspace, check_name


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_the_newest_version_of_each_product_wins(memory: int, tmp_path: Path) -> None:
    names = [
        "d/acisf04487_001N022_r0009_arf3.fits.gz",
        "d/acisf04487_001N021_r0009_arf3.fits.gz",
        "d/acisf04487_001N023_r0009_pha3.fits.gz",
        "d/acisf04487_001N022_r0009_rmf3.fits.gz",
        "d/acisf00010_000N001_e2_r0001_pha3.fits.gz",
        "d/acisf00010_000N001_e1_r0001_pha3.fits.gz",
        "d/acisf00011_000N001_r0001_arf3.fits.gz",
        "d/readme.txt",
    ]
    rows = []
    for order in names, names[::-1]:
        files = CscFiles(tmp_path / "scratch", memory)
        assert [name for name in order if not files.add(name, "1@2")] == ["d/readme.txt"]
        found = pa.concat_tables(files.detections("csc2.1", "s3://b/")).sort_by("obsid")
        rows.append(found.to_pylist())
    assert rows[0] == rows[1]
    interleaved, versions = rows[0]
    assert versions["detection_id"] == "csc2.1:4487.1.9"
    assert (versions["obsid"], versions["obi"], versions["region_id"]) == (4487, 1, 9)
    assert versions["pha_uri"] == "s3://b/d/acisf04487_001N023_r0009_pha3.fits.gz"
    assert versions["arf_uri"].endswith("N022_r0009_arf3.fits.gz")
    assert versions["files_stamp"] == "1@2 1@2 1@2 "
    assert "_e1_" in interleaved["pha_uri"]
    assert interleaved["arf_uri"] is None
    assert interleaved["files_stamp"] == "1@2   "


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3c273.pi", True),
        ("q1127_src1.pi.gz", True),
        ("source.PHA", True),
        ("my_pha_3.fits", True),
        ("spectrum.fits.gz", True),
        ("3c273.arf", False),
        ("evt2.fits", False),
        ("picture.fits", False),
    ],
)
def test_which_names_look_like_spectra(name: str, expected: bool) -> None:
    assert looks_like_pha(name) is expected


def test_stems() -> None:
    assert stem("a/b/q1127_src1.pi.gz") == "q1127_src1"
    assert stem("3c273.pi") == "3c273"


def test_own_spectra_find_their_companions(shared_data: Path, tmp_path: Path) -> None:
    summary = discover(tmp_path, source=str(shared_data / "ciao"))
    rows = Workspace(tmp_path).read_folder(manifest_folder(summary["release"])).to_pandas()
    rows = rows.set_index("detection_id")
    assert sorted(rows.index) == [
        f"file:{name}" for name in ("3c273", "9774", "bubble", "obs1", "obs2", "obs3", "q1127_src1")
    ]
    bright = rows.loc["file:q1127_src1"]
    assert Path(bright.rmf_uri).name == "q1127_src1.wrmf.gz"
    assert Path(bright.background_uri).name == "q1127_bkg1.pi.gz"


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


def _touch(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"acisf{i:05d}_000N001_r0001_pha3.fits.gz").touch()


def test_parts_cover_the_manifest_and_stale_ones_go(tmp_path: Path) -> None:
    _touch(tmp_path / "s", 40)
    workspace = Workspace(tmp_path / "w")
    settings = {"discover": {"part_rows": 5}}
    first = discover(workspace, source=str(tmp_path / "s"), config=settings)
    assert first["parts"] == 8
    again = discover(workspace, source=str(tmp_path / "s"), config=settings)
    assert again == first
    fewer = discover(workspace, source=str(tmp_path / "s"), config={"discover": {"part_rows": 20}})
    assert len(workspace.files("manifest/s", ".parquet")) == fewer["parts"] == 2
    ids = workspace.read_folder("manifest/s")["detection_id"].to_pylist()
    assert sorted(ids) == sorted(f"s:{i}.0.1" for i in range(40))


def test_what_cannot_be_discovered_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no spectra there"):
        discover(tmp_path / "w", source=str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="no such folder"):
        discover(tmp_path / "w", source=str(tmp_path / "absent"))
    (tmp_path / "x.pi").touch()
    with pytest.raises(UsageError, match=rf"x\.pi: a file; .*--source {tmp_path}$"):
        discover(tmp_path / "w", source=str(tmp_path / "x.pi"))
    (tmp_path / "empty" / "survey.json").write_text("{")
    with pytest.raises(UsageError, match=r"survey\.json"):
        discover(tmp_path / "w", source=str(tmp_path / "empty"))


def test_releases_cannot_lead_out_of_the_workspace(tmp_path: Path) -> None:
    _touch(tmp_path / "s", 1)
    (tmp_path / "s" / "survey.json").write_text('{"release": "../../victim"}')
    with pytest.raises(UsageError, match="victim"):
        discover(tmp_path / "w", source=str(tmp_path / "s"))
    with pytest.raises(UsageError, match="release"):
        discover(tmp_path / "w", source=str(tmp_path / "s"), release="..")


def test_files_of_one_stem_stay_apart(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "a.pi", "a.pha", "b/a.pi", "c.pi.gz")
    assert _ids_by_name(tmp_path) == {
        "a.pha": "file:a",
        "a.pi": "file:a.pi",
        "b/a.pi": "file:b/a.pi",
        "c.pi.gz": "file:c",
    }


def test_a_detection_id_stays_when_files_of_its_stem_come_and_go(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "b/a.pi")
    assert _ids_by_name(tmp_path) == {"b/a.pi": "file:a"}
    _unreadable_spectra(tmp_path / "s", "a.pha", "a.pi")
    grown = {"b/a.pi": "file:a", "a.pha": "file:a.pha", "a.pi": "file:a.pi"}
    assert _ids_by_name(tmp_path) == grown
    (tmp_path / "s" / "b" / "a.pi").unlink()
    del grown["b/a.pi"]
    assert _ids_by_name(tmp_path) == grown


def test_detection_ids_move_with_the_folder(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "b/a.pi")
    _ids_by_name(tmp_path)
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    _unreadable_spectra(tmp_path / "elsewhere", "a.pi")
    moved = _ids_by_name(tmp_path, "elsewhere")
    assert moved == {"b/a.pi": "file:a", "a.pi": "file:a.pi"}


def test_detection_ids_outlive_a_killed_run(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "b/a.pi")
    _ids_by_name(tmp_path)
    (tmp_path / "w" / "manifest" / "mine" / "manifest.json").unlink()
    _unreadable_spectra(tmp_path / "s", "a.pi")
    assert _ids_by_name(tmp_path) == {"b/a.pi": "file:a", "a.pi": "file:a.pi"}


@given(
    st.lists(
        st.sampled_from(["a.pi", "a.pi.pha", "a.pha", "b/a.pi", "b/c/a.pi.gz", "c/a", "a"]),
        unique=True,
    ),
    st.data(),
)
def test_ids_are_unique_and_stay(names: list[str], data: st.DataObject) -> None:
    before = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    published = own_ids(before, {})
    ids = own_ids(names, published)
    assert ids.keys() == set(names)
    assert len(set(ids.values())) == len(names)
    assert published.items() <= ids.items()


def _unreadable_spectra(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not a spectrum")


def _ids_by_name(folder: Path, source: str = "s") -> dict[str, str]:
    discover(folder / "w", source=str(folder / source), release="mine")
    rows = Workspace(folder / "w").read_folder("manifest/mine")
    names = (uri.removeprefix(f"{folder / source}/") for uri in rows["pha_uri"].to_pylist())
    return dict(zip(names, rows["detection_id"].to_pylist(), strict=True))


def test_classes_of_fits_catalogs_are_text(tmp_path: Path) -> None:
    table = Table({"obsid": [1], "obi": [0], "region_id": [1], "class": np.array([b"AGN"])})
    table.write(tmp_path / "c.fits")
    assert read_catalog(tmp_path / "c.fits")["class"].to_pylist() == ["AGN"]


def test_releases_are_chosen_or_asked_for(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    with pytest.raises(UsageError, match="no release"):
        choose_release(workspace, None)
    _touch(tmp_path / "s", 1)
    discover(workspace, source=str(tmp_path / "s"), release="one")
    assert choose_release(workspace, None) == "one"
    discover(workspace, source=str(tmp_path / "s"), release="two")
    with pytest.raises(UsageError, match="choose one with --release"):
        choose_release(workspace, None)
    with pytest.raises(UsageError, match="no release three"):
        choose_release(workspace, "three")
    workspace.delete("manifest/one/manifest.json")
    with pytest.raises(RaypipeError, match="no whole manifest"):
        read_manifest_summary(workspace, "one")


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


@pytest.mark.parametrize(
    ("folder", "release"),
    [
        ("my_spectra", "my_spectra"),
        ("csc2.1", "csc2.1"),
        ("M 31 (new)", "M-31-new"),
        ("données", "donnees"),
        (".hidden", "hidden"),
        ("x" * 200, "x" * 56 + "-aa20c23"),
    ],
)
def test_a_folder_names_its_release(folder: str, release: str, tmp_path: Path) -> None:
    _touch(tmp_path / folder, 1)
    summary = discover(tmp_path / "w", source=f"{tmp_path / folder}/")
    assert summary["release"] == release
    rows = Workspace(tmp_path / "w").read_folder(manifest_folder(release))
    assert rows["detection_id"].to_pylist() == [f"{release}:0.0.1"]


def test_a_bucket_names_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    names = {
        "s3://bucket": "bucket",
        "s3://bucket/a/b c/": "b-c",
        "s3://bucket/csc2.1": "csc2.1",
    }
    assert {uri: folder_release(Workspace(uri)) for uri in names} == names


def test_a_relative_folder_names_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert [folder_release(Workspace(uri)) for uri in (".", "..", "../b")] == ["b", "a", "b"]


@pytest.mark.parametrize("folder", ["___", "日本", "(-)"])
def test_a_folder_without_a_name_asks_for_one(folder: str, tmp_path: Path) -> None:
    _touch(tmp_path / folder, 1)
    with pytest.raises(UsageError, match=r"gives no name .* --release mine"):
        discover(tmp_path / "w", source=str(tmp_path / folder))
    summary = discover(tmp_path / "w", source=str(tmp_path / folder), release="mine")
    assert summary["release"] == "mine"


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=120))
def test_any_folder_gives_a_legal_name_or_asks_for_one(name: str) -> None:
    try:
        release = folder_release(Workspace(f"/data/{name}"))
    except UsageError:
        assert name == ".." or not re.search("[A-Za-z0-9]", name)
    else:
        assert check_name(release, "release") == release
        assert len(release) <= 64


def test_the_root_of_a_disk_asks_for_a_name() -> None:
    with pytest.raises(UsageError, match="--release mine"):
        folder_release(Workspace("/"))


def test_what_is_said_counts_before_the_name_of_a_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "s", 1)
    settings = {"discover": {"release": "set"}}

    def named(**arguments: Any) -> str:
        summary = discover(tmp_path / "w", source=str(tmp_path / "s"), **arguments)
        return str(summary["release"])

    assert named(config=settings) == "set"
    assert named(config=settings, release="said") == "said"
    (tmp_path / "s" / "survey.json").write_text('{"release": "survey"}')
    assert named(config=settings) == "survey"
    assert named(release="said") == "said"


def test_another_folder_of_the_same_name_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in "a", "b":
        (tmp_path / place).mkdir()
        _touch(tmp_path / place / "s", 1)
        discover(tmp_path / "w", source=str(tmp_path / place / "s"))
    was, now = tmp_path / "a" / "s", tmp_path / "b" / "s"
    assert f"release s is that of {was}, and becomes that of {now}; --release NAME" in caplog.text


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
