"""What spectra outside the catalog are called and where they are, by their headers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st

from raypipe.discovery.discover import discover
from raypipe.discovery.header_identity import HeaderIdentity, header_identity, source_names
from raypipe.ogip import read_pha
from raypipe.ogip.regions import region_center, region_position
from raypipe.store.workspace import Workspace
from tests.unit.ogip_files import pha_bytes

TANGENT = {"INSTRUME": "ACIS", "RA_NOM": 10.0, "DEC_NOM": 41.0}


def _region(text: str, **more: Any) -> dict[str, Any]:
    return {**TANGENT, "DSTYP1": "time", "DSTYP2": "sky(x,y)", "DSVAL2": text, **more}


def _manifest(folder: Path, catalog: Path | None = None) -> pd.DataFrame:
    workspace = Workspace(folder.parent / "w")
    summary = discover(workspace, source=str(folder), catalog=catalog, release="mine")
    table = workspace.read_folder("manifest/mine")
    assert len(table) == summary["rows"]
    rows: pd.DataFrame = table.to_pandas(types_mapper={}.get).set_index("detection_id")
    return rows.astype(object).where(rows.notna(), None)


def _write(folder: Path, **headers: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (name, header) in enumerate(headers.items()):
        (folder / f"{name}.pi").write_bytes(pha_bytes(counts=[number + 1, *[3] * 15], **header))
    return folder


def test_real_spectra_have_name_position_and_observation(shared_data: Path, tmp_path: Path) -> None:
    rows = _manifest(Path(shutil.copytree(shared_data / "ciao", tmp_path / "s")))
    assert rows["name"].to_dict() == {
        "file:3c273": "3C 273",
        "file:9774": "3C 186",
        "file:bubble": "Q0740+380",
        **dict.fromkeys(["file:obs1", "file:obs2", "file:obs3"], "4C19.44"),
        "file:q1127_src1": "PKS 1127-145",
    }
    assert rows["obsid"].tolist() == [459, 9774, 3098, 6903, 6904, 7302, 5708]
    assert rows["position_from"].tolist() == ["target", *["region"] * 6]
    quasar = SkyCoord("11h30m07.05s -14d49m27.4s")
    found = SkyCoord(rows.ra["file:q1127_src1"], rows.dec["file:q1127_src1"], unit="deg")
    assert quasar.separation(found).arcsec < 1.5


def test_a_region_is_where_the_catalog_has_its_source(shared_data: Path) -> None:
    catalog = pd.read_parquet(shared_data / "catalog" / "csc20_detections.parquet")
    compared = 0
    for path in sorted((shared_data / "csc").glob("acis*_pha3.fits.gz")):
        obsid, region = int(path.name[5:10]), int(path.name[20:24])
        for row in catalog[(catalog.obsid == obsid) & (catalog.region_id == region)].itertuples():
            place = region_position(read_pha(path).header)
            assert place is not None
            known = SkyCoord(row.ra, row.dec, unit=("hourangle", "deg"))
            separation = SkyCoord(*place, unit="deg").separation(known)
            assert separation.arcsec < 10
            compared += 1
    assert compared > 0


def test_observations_of_other_missions_keep_their_digits(
    shared_data: Path, tmp_path: Path
) -> None:
    rows = _manifest(Path(shutil.copytree(shared_data / "missions", tmp_path / "s")))
    assert rows.obsid["file:nu90402339002A01_sr"] == 90402339002
    assert rows.obsid["file:target_sr"] == 92220001
    assert rows.obsid["file:PN"] == 693760101
    assert rows.name["file:nicer_unbinned"] == "MAXI_J1820+070"
    modules = rows.loc[["file:nu90402339002A01_sr", "file:nu90402339002B01_sr"]]
    assert modules["name"].tolist() == [None, None]
    assert modules["target_name"].tolist() == ["Vela_X1", "Vela_X1"]


@pytest.mark.parametrize(
    ("value", "obsid"),
    [
        ("1575", 1575),
        (" 01575 ", 1575),
        (1575, 1575),
        (1575.0, 1575),
        ("0748390901", 748390901),
        ("00092220001", 92220001),
        *((text, None) for text in ("Merged", "P0111605063", "", "-1", "1.5", "9" * 30, "٣")),
        *((other, None) for other in (True, None, np.nan, 1e300, ["1"])),
    ],
)
def test_an_observation_is_a_whole_number(value: Any, obsid: int | None) -> None:
    assert header_identity({"OBS_ID": value}).obsid == obsid


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("  M  31 ", "M 31"),
        (4151, "4151"),
        ("red\x1b[31m\nline", r"red\x1b[31m line"),
        ("x" * 10**6, "x" * 97 + "..."),
        *((nothing, None) for nothing in ("", "None", "UNKNOWN", "CSC", "n/a", True, 1.5, None)),
    ],
)
def test_the_name_of_a_target_can_be_printed(value: Any, name: str | None) -> None:
    assert header_identity({"OBJECT": value}).target_name == name


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"RA_TARG": 10.5, "DEC_TARG": -5}, (10.5, -5.0)),
        ({"RA_TARG": "10.5", "DEC_TARG": " -5 "}, (10.5, -5.0)),
        ({"RA_TARG": -10, "DEC_TARG": 0}, (350.0, 0.0)),
        ({"RA_OBJ": 10, "DEC_OBJ": 5}, (10.0, 5.0)),
        ({"RA_TARG": 0.0, "DEC_TARG": 0.0, "RA_OBJ": 10, "DEC_OBJ": 5}, (10.0, 5.0)),
        ({"RA_TARG": 10.5}, None),
        ({"RA_TARG": 10.5, "DEC_TARG": 91}, None),
        ({"RA_TARG": 1e400, "DEC_TARG": 5}, None),
        ({"RA_TARG": "10h", "DEC_TARG": True}, None),
        ({"RA_TARG": 10.5, "DEC_TARG": 5, "EQUINOX": 1950.0}, None),
        ({"RA_TARG": 10.5, "DEC_TARG": 5, "EQUINOX": "2000"}, (10.5, 5.0)),
        ({"RA_TARG": 10.5, "DEC_TARG": 5, "EQUINOX": ""}, (10.5, 5.0)),
        ({"RA_NOM": 10.5, "DEC_NOM": 5}, None),
    ],
)
def test_the_position_of_a_target(
    header: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    found = header_identity(header)
    assert (found.ra, found.dec) == (expected or (None, None))
    assert found.position_from == ("target" if expected else None)


@pytest.mark.parametrize(
    ("text", "center"),
    [
        ("Circle(4072.86,3945.82,3.04878)", (4072.86, 3945.82)),
        ("rotbox(4097.62,4086.87,3.1,3.5,253)", (4097.62, 4086.87)),
        (
            "MASK&Rectangle(4028,4255,4035,4262)&Ellipse(4032.3,4258.55,2.6,2.4,47)",
            (4032.3, 4258.55),
        ),
        ("!circle(1,2,3)&annulus(40,50,6,7)", (40.0, 50.0)),
        ("circle(10,20,3)|circle(30,40,3)", (10.0, 20.0)),
        ("TABLE", None),
        ("4137.59:4158.65", None),
        ("circle(nan,1,2)", None),
    ],
)
def test_the_center_of_a_region(text: str, center: tuple[float, float] | None) -> None:
    assert region_center(_region(text)) == center


def test_a_region_lies_where_the_tangent_plane_has_it() -> None:
    at_origin = region_position(_region("circle(4096.5,4096.5,3)"))
    assert at_origin == pytest.approx((10.0, 41.0))
    north_east = region_position(_region("circle(3996.5,4196.5,3)"))
    assert north_east is not None
    offset = SkyCoord(10, 41, unit="deg").spherical_offsets_to(SkyCoord(*north_east, unit="deg"))
    assert [angle.arcsec for angle in offset] == pytest.approx([49.2, 49.2], abs=0.01)


@pytest.mark.parametrize(
    "header",
    [
        _region("circle(4096.5,4096.5,3)", INSTRUME="HRC"),
        _region("circle(99999,4096.5,3)"),
        _region("circle(4096.5,4096.5,3)", RA_NOM="ten"),
        _region("circle(4096.5,4096.5,3)", RA_NOM=10**400),
        _region("circle(4096.5,4096.5,3)", RA_NOM=True),
        _region("circle(4096.5,4096.5,3)", DEC_NOM=100.0),
        _region("circle(4096.5,4096.5,3)", DEC_NOM=float("nan")),
    ],
)
def test_a_region_without_a_tangent_point_has_no_position(header: dict[str, Any]) -> None:
    assert region_position(header) is None


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80)


_SAS = {"REFXCRPX": 25921, "REFYCRPX": 25921, "REFXCRVL": 359.4, "REFYCRVL": -32.6}
_SAS |= {"REFXCDLT": -1.4e-5, "REFYCDLT": 1.4e-5}
_KEYS = [*TANGENT, *_SAS, "OBJECT", "OBS_ID", "RA_TARG", "DEC_TARG", "EQUINOX"]


@given(st.sampled_from(["ACIS", "EPN"]), st.dictionaries(st.sampled_from(_KEYS), _VALUES))
def test_no_header_is_an_error(instrument: str, header: dict[str, Any]) -> None:
    sas = {"SLCTEXPR": "((X,Y) IN circle(24783.467,28244.9,800))", **_SAS}
    header = _region("circle(4000,4000,3)") | sas | {"INSTRUME": instrument} | header
    found = header_identity(header)
    assert found.target_name is None or found.target_name.isprintable()
    assert (found.ra is None) == (found.dec is None) == (found.position_from is None)
    if found.ra is not None and found.dec is not None:
        assert 0 <= found.ra <= 360
        assert -90 <= found.dec <= 90


def _seen(obsid: int | None, ra: float = 10.0, position_from: str = "region") -> HeaderIdentity:
    return HeaderIdentity("M31", obsid, ra, 0.0, position_from)


@pytest.mark.parametrize(
    ("identities", "is_one"),
    [
        ([_seen(1)], True),
        ([_seen(None, position_from="target")], True),
        ([_seen(1), _seen(2, 10 + 1.5 / 3600), _seen(3)], True),
        ([_seen(1, 359.9999), _seen(2, 0.0001)], True),
        ([_seen(1), _seen(2, 10 + 3 / 3600)], False),
        ([_seen(1), _seen(1)], False),
        ([_seen(1), _seen(None)], False),
        ([_seen(1), _seen(2, position_from="target")], False),
        ([_seen(1, position_from="target"), _seen(2, position_from="target")], False),
    ],
)
def test_a_target_names_a_source_if_it_can_mean_only_one(
    identities: list[HeaderIdentity], is_one: bool
) -> None:
    other = HeaderIdentity("3C 273", 1)
    names = source_names([*identities, other, HeaderIdentity()])
    assert names == [*["M31" if is_one else None] * len(identities), "3C 273", None]


def test_a_source_far_from_the_target_does_not_get_its_name(
    shared_data: Path, tmp_path: Path
) -> None:
    """The region is 2.6 arcmin from the target of the observation."""
    shutil.copytree(shared_data / "missions" / "xmm-pn", tmp_path / "s")
    row = _manifest(tmp_path / "s").loc["file:PN"]
    assert row["target_name"] == "CXOU J235750.9-3237"
    assert row["name"] is None
    assert row["position_from"] == "region"
    place = SkyCoord(row["ra"], row["dec"], unit="deg")
    target = SkyCoord("23h57m51.0s -32d37m26.2s")
    assert target.separation(place).arcmin == pytest.approx(2.57, abs=0.02)


def test_spectra_of_other_sources_leave_the_target_its_name() -> None:
    target = {"OBJECT": "M31", "OBS_ID": "1", "RA_TARG": 10.0, "DEC_TARG": 41.0}
    on, off = (header_identity(_region(f"circle({x},4096.5,3)") | target) for x in (4096.5, 4300.5))
    assert source_names([off, on, off]) == [None, "M31", None]


@given(st.permutations([_seen(1), _seen(2, 10 + 1.5 / 3600), _seen(3, 10 + 3 / 3600)]))
def test_the_order_of_files_does_not_matter(identities: list[HeaderIdentity]) -> None:
    assert source_names(identities) == [None] * 3


def test_a_target_is_spelled_in_one_way() -> None:
    spellings = [replace(_seen(1), target_name="m31"), _seen(2)]
    assert source_names(spellings) == source_names(spellings[::-1]) == ["M31", "M31"]


def test_sources_of_one_field_stay_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = {"OBJECT": "COSMOS", "RA_TARG": 150.1, "DEC_TARG": 2.2}
    folder = _write(tmp_path / "s", a={**target, "OBS_ID": "8000"}, b={**target, "OBS_ID": "8001"})
    rows = _manifest(folder)
    assert rows["name"].tolist() == [None, None]
    assert rows["target_name"].tolist() == ["COSMOS", "COSMOS"]
    assert "2 spectra get no name of a source" in caplog.text
    assert "COSMOS (2)" in caplog.text


def test_a_catalog_knows_better_than_a_header(tmp_path: Path) -> None:
    target = {"OBJECT": "M31", "RA_TARG": 10.7, "DEC_TARG": 41.3, "OBS_ID": "1575"}
    folder = _write(tmp_path / "s", a=target, b={"OBJECT": "3C 273"}, c={**target, "OBJECT": "x"})
    catalog = tmp_path / "c.csv"
    catalog.write_text(
        "detection_id,name,ra,dec,class\nfile:a,2CXO J1,11.5,42.5,XRB\nfile:b,,,,AGN\n"
        "file:c,,5.0,,AGN\n"
    )
    rows = _manifest(folder, catalog)
    assert rows["name"].tolist() == ["2CXO J1", "3C 273", "x"]
    assert rows["ra"].tolist() == [11.5, None, 10.7]
    assert rows["dec"].tolist() == [42.5, None, 41.3]
    assert rows["position_from"].tolist() == ["catalog", None, "target"]
    assert rows["obsid"].tolist() == [1575, None, 1575]


def test_a_catalog_finds_spectra_by_the_name_of_their_target(tmp_path: Path) -> None:
    folder = _write(tmp_path / "s", a={"OBJECT": "3C 273"}, b={"OBJECT": "M31"})
    (tmp_path / "c.csv").write_text("name,class\n3C 273,AGN\n")
    assert _manifest(folder, tmp_path / "c.csv")["class"].tolist() == ["AGN", None]


def test_catalog_columns_of_these_names_are_kept_beside(tmp_path: Path) -> None:
    folder = _write(tmp_path / "s", a={"OBJECT": "M31", "RA_TARG": 10.7, "DEC_TARG": 41.3})
    (tmp_path / "c.csv").write_text("detection_id,target_name,position_from\nfile:a,X-1,Gaia\n")
    row = _manifest(folder, tmp_path / "c.csv").iloc[0]
    assert (row.target_name, row.catalog_target_name) == ("M31", "X-1")
    assert (row.position_from, row.catalog_position_from) == ("target", "Gaia")
