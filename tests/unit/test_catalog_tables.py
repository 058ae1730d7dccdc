"""Tables that users bring: what their columns are called, and what their values become."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.catalog.brought_table import read_catalog, renamed
from raypipe.catalog.column_names import MOST_CHARACTERS, column_names
from raypipe.catalog.reserved import is_reserved
from raypipe.errors import UsageError
from raypipe.spectra.schema import SPECTRUM_FIELDS
from raypipe.store.manifest import IDENTITY, OWN_TYPES

GAIA = 5853498713190525697


def from_csv(folder: Path, text: str, name: str = "c.csv") -> pa.Table:
    file = folder / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_catalog(file)


def test_every_column_that_raypipe_writes_is_reserved_but_what_identifies() -> None:
    written = [*OWN_TYPES, *(field.name for field in SPECTRUM_FIELDS)]
    assert [name for name in written if not is_reserved(name)] == list(IDENTITY[:-1])
    more = "z0 z8 z12 Z0 z3_err z10_std z_cov cash cash_expected split model_id n_detections"
    assert [name for name in more.split() if not is_reserved(name)] == []
    plain = "p_any p_AGN z z_spec redshift flux gaia_id zeta"
    assert [name for name in plain.split() if is_reserved(name)] == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["RA", "DEC", "CLASS", "NAME", "OBSID"], ["ra", "dec", "class", "name", "obsid"]),
        (["ra", "RA"], ["ra", "catalog_RA"]),
        (["true_class", "class"], ["true_class", "class"]),
        (["flux", "MUWCLASS_true_class"], ["flux", "class"]),
        (["z0", "Z0", "pha_uri"], ["catalog_z0", "catalog_Z0_2", "catalog_pha_uri"]),
        (["a", "a", "A"], ["a", "a_2", "A_3"]),
        (["größe", "α_ox", "Flux (0.5-7)"], ["grosse", "alpha_ox", "Flux_0_5_7"]),
        (["a\tb", "a\nb", "", " "], ["a_b", "a_b_2", "column_3", "column_4"]),
        (["a b", "a_b"], ["a_b_2", "a_b"]),
        (["Norder", "_healpix_29"], ["catalog_Norder", "catalog__healpix_29"]),
        (["p_any", "W1mag"], ["p_any", "W1mag"]),
    ],
)
def test_names_that_cannot_stay_are_changed(names: list[str], expected: list[str]) -> None:
    assert column_names(names, is_reserved) == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=80) | st.sampled_from(["ra", "RA", "z0", "class"]), max_size=8))
def test_names_are_those_of_fits_whatever_they_were(names: list[str]) -> None:
    found = column_names(names, is_reserved)
    assert len(found) == len(names)
    assert len({name.lower() for name in found}) == len(names)
    for name in found:
        assert name.isascii()
        assert name.replace("_", "a").isalnum()
        assert len(name) <= MOST_CHARACTERS
        assert not is_reserved(name)
    assert column_names(found, is_reserved) == found


def test_the_original_name_stays_with_the_column_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = from_csv(tmp_path, "detection_id,größe,z0,ok\nx,1,2,3\n")
    assert renamed(table) == {"grosse": "größe", "catalog_z0": "z0"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'größe' is grosse, 'z0' is catalog_z0" in line


WRITERS = {
    "parquet": lambda table, file: pq.write_table(table, file),
    "csv": lambda table, file: table.to_pandas(types_mapper=_nullable).to_csv(file, index=False),
    "fits": lambda table, file: _masked(table).write(file),
    "vot": lambda table, file: from_table(_masked(table)).to_xml(str(file)),
}


def _nullable(kind: pa.DataType) -> Any:
    import pandas as pd

    return pd.Int64Dtype() if kind == pa.int64() else None


def _masked(table: pa.Table) -> Table:
    columns = {}
    for name in table.column_names:
        values = table[name].to_pylist()
        filler = "" if pa.types.is_string(table[name].type) else 0
        filled = [filler if value is None else value for value in values]
        columns[name] = MaskedColumn(filled, mask=[value is None for value in values])
    return Table(columns)


@pytest.mark.parametrize("ending", WRITERS)
def test_integers_beside_blanks_keep_every_digit(ending: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "detection_id": ["a", "b", "c"],
            "gaia_id": pa.array([GAIA, None, -7], pa.int64()),
            "flux": pa.array([1.5, None, 2.0]),
        }
    )
    WRITERS[ending](table, tmp_path / f"c.{ending}")
    found = read_catalog(tmp_path / f"c.{ending}")
    assert found.schema.field("gaia_id").type == pa.int64()
    assert found["gaia_id"].to_pylist() == [GAIA, None, -7]
    assert found["flux"].to_pylist() == [1.5, None, 2.0]


@pytest.mark.parametrize("ending", ["parquet", "fits", "vot"])
def test_a_file_without_an_ending_is_known_by_how_it_begins(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](pa.table({"name": ["a"], "k": [GAIA]}), tmp_path / f"c.{ending}")
    (tmp_path / f"c.{ending}").rename(tmp_path / "download")
    assert read_catalog(tmp_path / "download").to_pylist() == [{"name": "a", "k": GAIA}]


def test_fits_without_a_table_is_said(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(tmp_path / "c.fits")
    with pytest.raises(UsageError, match="no table among its HDUs"):
        read_catalog(tmp_path / "c.fits")


def test_integers_beyond_64_bits_are_text(tmp_path: Path) -> None:
    found = from_csv(
        tmp_path, "detection_id,a,b\nx,123456789012345678901,1.5\ny,1,9999999999999999"
    )
    assert found["a"].to_pylist() == ["123456789012345678901", "1"]
    assert found["b"].to_pylist() == ["1.5", "9999999999999999"]
    table = pa.table({"detection_id": ["x"], "u": pa.array([2**64 - 1], pa.uint64())})
    pq.write_table(table, tmp_path / "c.parquet")
    assert read_catalog(tmp_path / "c.parquet")["u"].to_pylist() == [str(2**64 - 1)]


def test_identifiers_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    found = from_csv(
        tmp_path,
        "obsid,obi,region_id,ident,xmm,signed,padded,zero,fraction,float\n"
        "01575,001,0085,007,0748390901,-01,10,0,0.5,007.5\n"
        "02779,000,0004,42,,3, 09,1,0,1\n",
    )
    assert found["obsid"].to_pylist() == [1575, 2779]
    assert found["region_id"].to_pylist() == [85, 4]
    assert found["ident"].to_pylist() == ["007", "42"]
    assert found["xmm"].to_pylist() == ["0748390901", None]
    assert found["signed"].to_pylist() == ["-01", "3"]
    assert found["padded"].to_pylist() == ["10", " 09"]
    assert found["zero"].to_pylist() == [0, 1]
    assert found["fraction"].to_pylist() == [0.5, 0.0]
    assert found["float"].to_pylist() == [7.5, 1.0]


def test_values_of_csv_are_what_all_rows_say(tmp_path: Path) -> None:
    found = from_csv(
        tmp_path,
        "\ufeffdetection_id,time,day,sure,mixed,low,note\r\n"
        'x,12:30:00,2001-01-01,true,1,-9223372036854775808,"a\nb, c"\r\n'
        "\r\n"
        "y,NA,,False,one, 7 ,\r\n",
        "c.csv.gz",
    )
    assert found.to_pylist() == [
        {
            "detection_id": "x",
            "time": "12:30:00",
            "day": "2001-01-01",
            "sure": True,
            "mixed": "1",
            "low": -(2**63),
            "note": "a\nb, c",
        },
        {
            "detection_id": "y",
            "time": None,
            "day": None,
            "sure": False,
            "mixed": "one",
            "low": 7,
            "note": None,
        },
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("obsid,obi,region_id,k\n1,0,1,2\n\n2,0,1,3,\n", "line 4 has 5 values, the header 4"),
        ('name,k\n"a\nb",2\nc,d,e\n', "line 4 has 3 values, the header 2"),
        ("name,k\na\n", "line 2 has 1 values, the header 2"),
    ],
)
def test_a_comma_too_many_or_too_few_is_named_by_its_line(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        from_csv(tmp_path, text)


def test_fits_columns_of_one_name_are_all_kept(tmp_path: Path) -> None:
    columns = {"detection_id": ["a", "b"], "flu1": [1, 2], "flu2": [3, 4], "flu3": [5, 6]}
    Table(columns).write(tmp_path / "c.fits")
    content = (tmp_path / "c.fits").read_bytes()
    content = content.replace(b"'flu2    '", b"'flu1    '").replace(b"'flu3    '", b"'FLU1    '")
    (tmp_path / "c.fits").write_bytes(content)
    found = read_catalog(tmp_path / "c.fits").drop_columns("detection_id")
    assert found.to_pydict() == {"flu1": [1, 2], "flu1_2": [3, 4], "FLU1_3": [5, 6]}


def test_columns_of_other_than_single_values_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = pa.table(
        {
            "detection_id": ["a"],
            "vector": [[1, 2]],
            "raw": [b"\xff"],
            "bytes": [b"text"],
            "category": pa.array(["k"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    found = read_catalog(tmp_path / "c.parquet")
    assert found.to_pylist() == [{"detection_id": "a", "bytes": "text", "category": "k"}]
    assert "no single values are not joined: vector, raw" in caplog.text


@pytest.mark.parametrize(
    ("ra", "dec", "expected"),
    [
        ("10.5", "-41.2", (10.5, -41.2)),
        ("00:42:44.3", "+41:16:09", (10.684583, 41.269167)),
        ("00 42 44.3", "-00 00 36", (10.684583, -0.01)),
        ("0h42m44.3s", "41d16m09s", (10.684583, 41.269167)),
        ("10.5 deg", "\u22125", (10.5, -5.0)),
        ("+1e1", ".5", (10.0, 0.5)),
        ("-5", "90", (355.0, 90.0)),
        ("360", "-90", (0.0, -90.0)),
        ("", "unknown", (None, None)),
        ("nan", "-", (None, None)),
        ("-999", "95", (None, None)),
        ("361", "-inf", (None, None)),
        ("370d", "99 00 00", (None, None)),
    ],
)
def test_positions_are_degrees_unless_they_are_written_sexagesimal(
    ra: str, dec: str, expected: tuple[float | None, float | None], tmp_path: Path
) -> None:
    found = from_csv(tmp_path, f"detection_id,ra,dec\nx,{ra},{dec}\ny,1,2\n")
    values = (found["ra"][0].as_py(), found["dec"][0].as_py())
    assert values == pytest.approx(expected, abs=1e-6)
    assert found.schema.field("ra").type == pa.float64()
    assert found.to_pylist()[1] == {"detection_id": "y", "ra": 1.0, "dec": 2.0}


@pytest.mark.parametrize("value", ["deg", "12:75:00", "25:00:00", "x y", "h", "1..5", "12,5"])
def test_text_that_is_no_position_is_named(value: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"c\.csv: column ra, row 2: '{value}' is not a position"):
        from_csv(tmp_path, f'detection_id,ra,dec\nx,1,2\ny,"{value}",2\n')


@pytest.mark.parametrize("ending", ["fits", "vot", "ecsv"])
@pytest.mark.parametrize(
    ("units", "expected"),
    [
        (("deg", "deg"), [1.5, 0.5]),
        (("degree", None), [1.5, 0.5]),
        (("h", "rad"), [22.5, 28.6478897565]),
        (("rad", "arcmin"), [85.9436692696, 0.5 / 60]),
    ],
)
def test_positions_in_other_units_become_degrees(
    ending: str, units: tuple[str, str], expected: list[float], tmp_path: Path
) -> None:
    table = Table({"name": ["A"], "RA": [1.5], "Dec": [0.5]})
    table["RA"].unit, table["Dec"].unit = units
    file = tmp_path / f"c.{ending}"
    table.write(file, format={"vot": "votable", "ecsv": "ascii.ecsv"}.get(ending))
    read = read_catalog(file)
    assert [read["ra"][0].as_py(), read["dec"][0].as_py()] == pytest.approx(expected)


def test_a_unit_that_is_unknown_is_said_and_one_of_no_angle_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table({"name": ["A"], "ra": [1.5], "dec": [0.5]})
    table["ra"].unit = "equinox"
    table.write(tmp_path / "a.vot", format="votable")
    assert read_catalog(tmp_path / "a.vot")["ra"].to_pylist() == [1.5]
    assert "unit equinox is taken as degrees" in caplog.text
    table["ra"].unit = "Jy"
    table.write(tmp_path / "b.fits")
    with pytest.raises(UsageError, match=r"column ra is in 'Jy', which is no angle"):
        read_catalog(tmp_path / "b.fits")


def test_positions_outside_the_sphere_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = pa.array([-999.0, 361.0, np.inf, np.nan, None, 0.0])
    table = pa.table({"detection_id": list("abcdef"), "ra": values, "dec": values})
    pq.write_table(table, tmp_path / "c.parquet")
    found = read_catalog(tmp_path / "c.parquet")
    assert found["ra"].to_pylist() == found["dec"].to_pylist() == [None] * 5 + [0.0]
    assert "3 values of ra are outside" in caplog.text
    assert "3 values of dec are outside" in caplog.text


@pytest.mark.parametrize(
    "value", ["1.5", "inf", "1e300", "99999999999999999999", "0x1F", "1_0", "true"]
)
@pytest.mark.parametrize("column", ["obsid", "obi", "region_id"])
def test_a_key_that_is_no_whole_number_is_named(column: str, value: str, tmp_path: Path) -> None:
    row = {"obsid": "1", "obi": "0", "region_id": "2"} | {column: value}
    with pytest.raises(
        UsageError, match=f"column {column}, row 2: '{value}' is not a whole number"
    ):
        from_csv(tmp_path, f"obsid,obi,region_id\n7,0,1\n{','.join(row.values())}\n")


@pytest.mark.parametrize("value", [1.5, np.inf, 1e300, 2.0**64])
def test_nor_is_it_in_other_tables(value: float, tmp_path: Path) -> None:
    Table({"OBSID": [1.0, value], "obi": [0, 0], "region_id": [1, 1]}).write(tmp_path / "c.fits")
    with pytest.raises(UsageError, match=r"column obsid, row 2: .* is not a whole number"):
        read_catalog(tmp_path / "c.fits")


def test_whole_keys_are_understood_however_they_are_kept(tmp_path: Path) -> None:
    found = from_csv(tmp_path, "obsid,obi,region_id\n 7.0,,1\n00008,0,NaN\n")
    assert found["obsid"].to_pylist() == [7, 8]
    assert found["obi"].to_pylist() == [None, 0]
    assert found.schema.types == [pa.int64()] * 3


def test_lists_of_obsids_are_no_key_of_a_table_of_sources(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = from_csv(tmp_path, "name,obsid\na,1;2\nb,3\n")
    assert found.to_pylist() == [
        {"name": "a", "catalog_obsid": "1;2"},
        {"name": "b", "catalog_obsid": "3"},
    ]
    assert renamed(found) == {"catalog_obsid": "obsid"}
    assert "catalog_obsid" in caplog.text


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (pa.array([1, 0, None]), ["1", "0", None]),
        (pa.array([1.0, 0.0, None]), ["1", "0", None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([" AGN", "", "3.0"]), ["AGN", None, "3"]),
    ],
)
def test_classes_are_text(classes: pa.Array, expected: list[str | None], tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": list("abc"), "class": classes}), tmp_path / "c.parquet")
    found = read_catalog(tmp_path / "c.parquet")
    assert found["class"].to_pylist() == expected
    assert found.schema.field("class").type == pa.large_string()


def test_a_fraction_is_no_class(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"], "class": [0.37]}), tmp_path / "c.parquet")
    with pytest.raises(UsageError, match=r"column class, row 1: '0\.37' is not a class"):
        read_catalog(tmp_path / "c.parquet")


def test_very_wide_tables_are_refused(tmp_path: Path) -> None:
    columns = {f"c{i}": [i] for i in range(20_000)}
    pq.write_table(pa.table({"name": ["A"], **columns}), tmp_path / "c.parquet")
    with pytest.raises(UsageError, match="20001 columns"):
        read_catalog(tmp_path / "c.parquet")


def test_more_columns_than_fits_holds_are_refused(tmp_path: Path) -> None:
    names = ",".join(f"c{i}" for i in range(950))
    with pytest.raises(UsageError, match="951 columns, at most 900"):
        from_csv(tmp_path, f"name,{names}\nx{',1' * 950}\n")
