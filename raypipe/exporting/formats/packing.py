"""Pack rows for FITS and VOTable: one after the other, numbers big-endian.

Both formats need the width of text columns, and FITS a number that stands for a null integer; one
pass over these columns measures both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import RaypipeError
from raypipe.exporting.formats.content import Content

Bytes = npt.NDArray[Any]

NUMBERS = {
    pa.int16(): ">i2",
    pa.int32(): ">i4",
    pa.int64(): ">i8",
    pa.float32(): ">f4",
    pa.float64(): ">f8",
}
"""Packed type of numbers, by Arrow type."""


@dataclass(frozen=True)
class Extent:
    """Hold the extent of the values of a column: widths of text, range of integers."""

    nulls: int = 0
    is_ascii: bool = True
    ascii_width: int = 1
    utf16_width: int = 1
    low: int = 0
    high: int = 0

    def united(self, other: Extent) -> Extent:
        """Return the extent of these values and others together."""
        return Extent(
            self.nulls + other.nulls,
            self.is_ascii and other.is_ascii,
            max(self.ascii_width, other.ascii_width),
            max(self.utf16_width, other.utf16_width),
            min(self.low, other.low),
            max(self.high, other.high),
        )


def measure(content: Content) -> dict[str, Extent]:
    """Measure the extents of text and integer columns; no others are read."""
    wanted = [
        field.name
        for field in content.schema
        if pa.types.is_string(field.type) or pa.types.is_integer(field.type)
    ]
    extents = {name: Extent() for name in wanted}
    for table in content.tables(wanted):
        for name in wanted:
            extents[name] = extents[name].united(_extent(table[name]))
    return extents


def number_for_null(name: str, kind: pa.DataType, extent: Extent) -> int | None:
    """Return the smallest or the largest number of the type, whichever no row has, for null.

    None if no row is null. Raises RaypipeError if rows have both numbers.
    """
    if not extent.nulls:
        return None
    bounds = np.iinfo(NUMBERS[kind])
    for number, is_free in (
        (bounds.min, extent.low > bounds.min),
        (bounds.max, extent.high < bounds.max),
    ):
        if is_free:
            return int(number)
    raise RaypipeError(
        f"column {name}: it has nulls, and both the smallest and the largest {kind}, so that FITS "
        "has no number left for null: export the catalog as VOTable or Parquet"
    )


def pack_numbers(column: pa.ChunkedArray, null: float | int | None = None) -> Bytes:
    """Pack numbers (n,) big-endian, with `null` for null integers and NaN for other nulls."""
    missing = np.nan if pa.types.is_floating(column.type) else null or 0
    values = pc.fill_null(column, pa.scalar(missing, column.type)) if column.null_count else column
    return np.asarray(values.to_numpy().astype(NUMBERS[column.type]))


def pack_vectors(column: pa.ChunkedArray) -> Bytes:
    """Pack vectors (n, k) big-endian, with NaN for null."""
    kind, whole = column.type, column.combine_chunks()
    rows = np.full((len(whole), kind.list_size), np.nan, NUMBERS[kind.value_type])
    there = whole.is_valid().to_numpy(zero_copy_only=False)
    values = pc.fill_null(whole.flatten(), np.nan).to_numpy(zero_copy_only=False)
    rows[there] = values.reshape(-1, kind.list_size)
    return rows


def pack_truth(column: pa.ChunkedArray) -> Bytes:
    """Pack booleans (n,), none of them null, as the letters T and F."""
    return np.where(column.to_numpy(), b"T", b"F")


def pack_ascii(column: pa.ChunkedArray, extent: Extent) -> Bytes:
    r"""Pack text (n,) in the extent's width; escape other characters (\xe9); null is empty."""
    texts = pc.fill_null(column, "").to_numpy()
    if not extent.is_ascii:
        texts = np.array([_escaped(text) for text in texts], dtype=object)
    return np.asarray(texts.astype(f"S{extent.ascii_width}"))


def pack_utf16(column: pa.ChunkedArray, extent: Extent) -> Bytes:
    """Pack text (n,) in UTF-16 and the extent's width; null is empty."""
    texts = [text.encode("utf-16-be") for text in pc.fill_null(column, "").to_pylist()]
    return np.array(texts, dtype=f"S{2 * extent.utf16_width}")


def _extent(column: pa.ChunkedArray) -> Extent:
    extent = Extent(nulls=column.null_count)
    if column.null_count == len(column):
        return extent
    if pa.types.is_integer(column.type):
        ends = pc.min_max(column).as_py()
        return replace(extent, low=ends["min"], high=ends["max"])
    if pc.all(pc.string_is_ascii(column)).as_py():
        width = max(1, pc.max(pc.binary_length(column)).as_py())
        return replace(extent, ascii_width=width, utf16_width=width)
    texts = column.drop_null().to_pylist()
    return replace(
        extent,
        is_ascii=False,
        ascii_width=max(len(_escaped(text)) for text in texts),
        utf16_width=max(len(text.encode("utf-16-be")) // 2 for text in texts),
    )


def _escaped(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")
