"""Tables as people have them: the same real rows in each format, read alike."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from raypipe.catalog.brought_table import read_catalog
from raypipe.errors import UsageError

ROWS = 400
COLUMNS = [
    "name", "ra", "dec", "err_ellipse_r0", "likelihood_class", "extent_flag", "flux_aper90_b",
    "powlaw_gamma", "obsid", "obi", "region_id", "gti_obs", "src_cnts_aper90_b", "edge_code",
    "muwclass_true_class",
]  # fmt: skip


@pytest.fixture(scope="module")
def real(shared_data: Path) -> pd.DataFrame:
    """Rows of the Chandra Source Catalog, with nulls, flags and sexagesimal positions."""
    table = pq.read_table(shared_data / "catalog/csc20_detections.parquet", columns=COLUMNS)
    rows = table.to_pandas().iloc[:: len(table) // ROWS].head(ROWS).reset_index(drop=True)
    assert rows["powlaw_gamma"].isna().any()
    assert rows["powlaw_gamma"].notna().any()
    return rows


def cscview(rows: pd.DataFrame) -> str:
    """Write rows as CSCview saves them: comments, names, padded values, blanks for nulls."""
    comments = [
        f"#Column\t{name}\t({kind})\tmeaning\t[ucd=x]" for name, kind in rows.dtypes.items()
    ]
    texts = {str(name): [_padded(value) for value in rows[name]] for name in rows}
    lines = ["\t".join(values) for values in zip(*texts.values(), strict=True)]
    return "\n".join(["#CSCview 4.0", "# ", *comments, "\t".join(texts), *lines, ""])


def _padded(value: Any) -> str:
    if value is None or value is pd.NA or value != value:
        return "      "
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).upper().ljust(6)
    return f"{value:>8}" if isinstance(value, int | float) else f"{value:<24}"


def write(rows: pd.DataFrame, kind: str, folder: Path) -> Path:
    file = folder / f"rows.{kind}"
    if kind == "parquet":
        rows.to_parquet(file)
    elif kind == "csv":
        rows.to_csv(file, index=False)
    elif kind == "tsv.gz":
        file.write_bytes(gzip.compress(cscview(rows).encode()))
    elif kind in ("tsv", "txt", "tsv-twice"):
        text = cscview(rows)
        if kind == "tsv-twice":
            half = len(rows) // 2
            text = cscview(rows[:half]) + "\n" + cscview(rows[half:])
            file = folder / "twice.tsv"
        file.write_text(text)
    else:
        table = Table.from_pandas(rows)
        table["err_ellipse_r0"].unit = "arcsec"
        formats = {"vot": "votable", "fits": "fits", "ecsv": "ascii.ecsv"}
        table.write(file, format=formats[kind])
    return file


@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "tsv", "tsv.gz", "txt", "tsv-twice", "vot", "fits", "ecsv"]
)
def test_real_rows_are_the_same_from_every_format(
    kind: str, real: pd.DataFrame, tmp_path: Path
) -> None:
    expected = read_catalog(write(real, "parquet", tmp_path)).to_pandas()
    found = read_catalog(write(real, kind, tmp_path)).to_pandas()
    assert list(found) == list(expected)
    assert found["ra"].notna().all()
    assert found["name"].str.startswith("2CXO J").all()
    for name in expected:
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, err_msg=name)
        else:
            ours, theirs = (each[name].astype(object) for each in (found, expected))
            missing = theirs.isna()
            assert (ours.isna() | (ours == "") == missing).all(), name
            assert ours[~missing].tolist() == theirs[~missing].tolist(), name
    assert found["extent_flag"].map(type).isin([bool, np.bool_]).all()
    assert pd.api.types.is_integer_dtype(found["obsid"])


def test_names_of_sources_are_alike_however_they_are_spaced(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    file.write_text(
        "name,ra\n2CXOJ004238.6+411604,10.66\n2CXO  J004238.6+411604 ,10.66\nNGC 1 23,5\n"
    )
    names = read_catalog(file)["name"].to_pylist()
    assert names == ["2CXO J004238.6+411604", "2CXO J004238.6+411604", "NGC 1 23"]


def test_limits_are_numbers_and_marked(tmp_path: Path) -> None:
    file = tmp_path / "limits.tsv"
    file.write_text(
        "name\tflux_b\tratio\tnote\nA\t<1.5e-15\t0.5\t<1\nB\t 2.5E-15\t>3\tfaint\nC\t\t1\t\n"
    )
    table = read_catalog(file)
    # flux_b is a column of raypipe: that of the table has another name.
    flux = table["catalog_flux_b"] if "catalog_flux_b" in table.column_names else table["flux_b"]
    assert flux.to_pylist() == [1.5e-15, 2.5e-15, None]
    (is_upper,) = (name for name in table.column_names if name.endswith("flux_b_upper_limit"))
    assert table[is_upper].to_pylist() == [True, False, None]
    assert table["ratio"].to_pylist() == [0.5, 3.0, 1.0]
    assert table["ratio_lower_limit"].to_pylist() == [False, True, False]
    assert table["note"].to_pylist() == ["<1", "faint", None]


def test_units_and_dashes_of_vizier_are_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "vizier.tsv"
    lines = [
        "#   VizieR Astronomical Server", "#Column\tRA\t(F10.6)", "name\tra\tdec\tFlux",
        " \th\tdeg\tmW/m2", "------\t----\t----\t----", "A\t 1.5\t-5.0\t1e-15", "",
        "B\t 2.0\t+5.0\t2e-15",
    ]  # fmt: skip
    file.write_text("\n".join(lines))
    table = read_catalog(file).to_pydict()
    assert table == {
        "name": ["A", "B"],
        "ra": [22.5, 30.0],
        "dec": [-5.0, 5.0],
        "Flux": [1e-15, 2e-15],
    }


def test_names_in_a_comment_are_names_where_numbers_follow(tmp_path: Path) -> None:
    file = tmp_path / "topcat.txt"
    file.write_text("# name\tra\tdec\nA\t10.5\t-5\nB\t11.5\t-6\n")
    table = read_catalog(file)
    assert table.column_names == ["name", "ra", "dec"]
    assert table["ra"].to_pylist() == [10.5, 11.5]


def test_a_row_of_text_is_not_taken_for_units(tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    file.write_text("name,value\nA,-\nB,1.5\n")
    assert read_catalog(file)["value"].to_pylist() == ["-", "1.5"]


def test_a_hash_begins_a_comment_only_above_the_names_of_csv(tmp_path: Path) -> None:
    file = tmp_path / "hash.csv"
    file.write_text("# from somewhere\nname,value\n#1,2\nname,value\nB,3\n")
    assert read_catalog(file).to_pydict() == {"name": ["#1", "B"], "value": [2, 3]}


def test_a_tab_too_many_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "shifted.tsv"
    file.write_text("#c\nname\tvalue\nA\t1\nB\t2\t3\n# an unshifted\tcomment\tis none\n")
    with pytest.raises(UsageError, match="line 4 has 3 values, the header 2: a tab too many"):
        read_catalog(file)


def test_ecsv_with_another_ending_keeps_its_units(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table({"name": ["A"], "ra": [1.5], "dec": [0.5]}, units={"ra": "hourangle"})
    file = tmp_path / "saved.csv"
    table.write(file, format="ascii.ecsv")
    with caplog.at_level(logging.WARNING):
        assert read_catalog(file)["ra"].to_pylist() == [22.5]
    assert not caplog.records


def test_commas_are_seen_whatever_the_ending(tmp_path: Path) -> None:
    file = tmp_path / "rows.dat"
    file.write_text("name,ra\nA,1.5\n")
    assert read_catalog(file).to_pydict() == {"name": ["A"], "ra": [1.5]}


def test_a_column_of_one_name_alone_is_read(tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text("name\nA\nB\n")
    assert read_catalog(file) == pa.table({"name": pa.array(["A", "B"], pa.large_string())})
