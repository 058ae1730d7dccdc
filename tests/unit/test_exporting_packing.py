"""Any values of any type come back from FITS and VOTable as they were."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import votable
from astropy.table import Table
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raypipe.errors import RaypipeError
from raypipe.exporting.formats.content import Content
from raypipe.exporting.formats.fits import write_fits
from raypipe.exporting.formats.votable import write_votable
from raypipe.store.publication import Publication
from raypipe.store.workspace import Workspace

Write = Callable[[Content, Path], None]

INTEGERS = {name: pa.from_numpy_dtype(name) for name in ("int16", "int32", "int64")}
# Blanks at the end of text mean nothing in FITS, and NUL ends it in both.
LETTERS = st.characters(codec="utf-8", exclude_categories=("C", "Z"))


def integers(kind: str) -> st.SearchStrategy[int]:
    bounds = np.iinfo(kind)
    return st.integers(bounds.min, bounds.max)


def is_refused(numbers: list[int | None], kind: str) -> bool:
    """Whether neither end of the range of integers is left to stand for null in FITS."""
    bounds = np.iinfo(kind)
    return {None, bounds.min, bounds.max} <= set(numbers)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            **{kind: st.none() | integers(kind) for kind in INTEGERS},
            "double": st.none() | st.floats(allow_nan=False),
            "truth": st.booleans(),
            "text": st.text(LETTERS, max_size=12),
            "vector": st.none() | st.tuples(*[st.floats(width=32, allow_nan=False)] * 3),
        }
    ),
    max_size=20,
)
SCHEMA = pa.schema(
    {
        **INTEGERS,
        "double": pa.float64(),
        "truth": pa.bool_(),
        "text": pa.string(),
        "vector": pa.list_(pa.float32(), 3),
    }
)


def content_of(folder: Path, table: pa.Table) -> Content:
    workspace = Workspace(folder)
    workspace.write_table("part.parquet", table)
    rows = table.num_rows
    own = Publication("r", "m", 1, rows, rows, ("part.parquet",), "part.parquet", "0")
    return Content.of(workspace, own, "detections")


def read_votable(path: Path) -> Table:
    return votable.parse_single_table(path).to_table()


@pytest.mark.parametrize(
    ("write", "read"), [(write_fits, Table.read), (write_votable, read_votable)]
)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_values_survive(write: Write, read: Callable[[Path], Table], rows: list[Any]) -> None:
    if write is write_fits:
        assume(not any(is_refused([row[kind] for row in rows], kind) for kind in INTEGERS))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ("a.fits" if write is write_fits else "a.vot")
        write(content_of(Path(name), pa.Table.from_pylist(rows, SCHEMA)), path)
        table = read(path)
    for column in SCHEMA.names:
        expected = [row[column] for row in rows]
        assert [cell(value, column) for value in table[column]] == [
            escaped(value) if write is write_fits else value for value in expected
        ]


def cell(value: Any, column: str) -> Any:
    if column == "vector":
        numbers = np.ma.filled(value, np.nan)
        return None if np.isnan(numbers).all() else tuple(numbers.tolist())
    if value is np.ma.masked:
        return "" if column == "text" else None
    if column == "double" and np.isnan(value):
        return None
    return value.decode() if isinstance(value, bytes) else getattr(value, "item", lambda: value)()


def escaped(value: Any) -> Any:
    return value.encode("ascii", "backslashreplace").decode() if isinstance(value, str) else value


def test_integers_that_leave_no_number_for_null_are_refused_in_fits(tmp_path: Path) -> None:
    bounds = np.iinfo(np.int16)
    numbers = [bounds.min, None, bounds.max]
    table = pa.table({"full": pa.array(numbers, pa.int16())})
    write_votable(content_of(tmp_path, table), tmp_path / "a.vot")
    assert [cell(value, "full") for value in read_votable(tmp_path / "a.vot")["full"]] == numbers
    with pytest.raises(RaypipeError, match=r"column full: .* no number left for null"):
        write_fits(content_of(tmp_path, table), tmp_path / "a.fits")
