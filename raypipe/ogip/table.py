"""Read binary tables of FITS files, trusting no size that a header states.

Source of the format: FITS Standard 4.0, section 7.3.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raypipe.ogip.fits import Hdu, Integers

Array = npt.NDArray[Any]

TABLE_TYPES = ("BINTABLE", "A3DTABLE")
"""XTENSION of binary tables; A3DTABLE is what they were called before 1992."""

MAX_COLUMNS = 999

MAX_HEAP_REUSE = 2
"""Number of times that the rows of a variable-length column may use each heap byte, on average."""

SHORT_PIECE_BYTES = 64
"""Pieces that are shorter than this on average are gathered byte by byte, longer ones by slices."""

FEW_BYTES = 2**18
"""Most bytes that are gathered one by one, which takes eight times their memory."""

_TFORM = re.compile(r"\s*(\d{0,9})([LXBIJKAEDCMPQ])([LXBIJKAEDCM]?)")
NUMBER_TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
ITEM_BYTES = {"L": 1, "A": 1, "C": 8, "M": 16, "P": 8, "Q": 16} | {
    code: np.dtype(dtype).itemsize for code, dtype in NUMBER_TYPES.items()
}
_NATIVE_TYPES = {code: np.dtype(dtype).newbyteorder("=") for code, dtype in NUMBER_TYPES.items()}


class Form(NamedTuple):
    """Describe the type of a column: code and repeat count from TFORM, and its bytes per row.

    `heap_code` is the type of the elements in the heap where the code is P or Q, else empty.
    """

    code: str
    repeat: int
    heap_code: str
    width: int


@lru_cache(maxsize=1024)
def parse_form(text: str) -> Form | None:
    """Parse the value of a TFORM keyword; return None where it is not one."""
    match = _TFORM.match(text)
    if match is None or (match[2] in "PQ") != bool(match[3]):
        return None
    code, repeat = match[2], int(match[1]) if match[1] else 1
    width = (repeat + 7) // 8 if code == "X" else repeat * ITEM_BYTES[code]
    return Form(code, repeat, match[3], width)


class Column(NamedTuple):
    """Describe the place and the type of one column of a binary table."""

    number: int
    name: str
    form: Form
    start: int

    @property
    def is_variable(self) -> bool:
        """Tell whether rows hold descriptors of arrays in the heap (P and Q)."""
        return self.form.code in "PQ"

    @property
    def holds_vectors(self) -> bool:
        """Tell whether rows hold several numbers each."""
        return self.is_variable or (self.form.code in NUMBER_TYPES and self.form.repeat > 1)


class Ragged(NamedTuple):
    """Hold rows of unequal length: `values` (total,) row after row, `lengths` (rows,)."""

    values: Array
    lengths: Integers

    def first(self, lengths: Integers) -> Array:
        """Return the first `lengths[i]` values of each row, at most all of them, flat."""
        if np.array_equal(lengths, self.lengths):
            return self.values
        size = self.values.itemsize
        starts = np.cumsum(self.lengths) - self.lengths
        content = self.values.data.cast("B")
        return _gather(content, starts * size, lengths * size, self.values.dtype)


class Table:
    """Hold a binary table: columns by name in capitals, values scaled, in native byte order."""

    def __init__(self, hdu: Hdu) -> None:
        if hdu.text("XTENSION") not in TABLE_TYPES:
            raise hdu.error("expected a binary table (XTENSION BINTABLE)")
        if hdu.integer("NAXIS") != 2 or hdu.header.get("BITPIX") != 8:
            raise hdu.error("a binary table has NAXIS 2 and BITPIX 8")
        if hdu.integer("GCOUNT", 1) != 1:
            raise hdu.error("a binary table has GCOUNT 1")
        self.hdu = hdu
        self.row_bytes = hdu.integer("NAXIS1")
        self.n_rows = hdu.integer("NAXIS2")
        self.columns = self._read_columns()

    def _read_columns(self) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        start = 0
        for number in range(1, self.hdu.integer("TFIELDS", most=MAX_COLUMNS) + 1):
            form = self.hdu.header.get(f"TFORM{number}")
            parsed = parse_form(form) if isinstance(form, str) else None
            if parsed is None:
                raise self.hdu.error(f"TFORM{number} is {form!r}, expected a column format")
            name = self.hdu.text(f"TTYPE{number}")
            columns.setdefault(name, Column(number, name, parsed, start))
            start += parsed.width
        if start != self.row_bytes:
            raise self.hdu.error(f"NAXIS1 is {self.row_bytes}, the columns take {start} bytes")
        if start == 0:
            raise self.hdu.error("the table has no columns")
        return columns

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def column(self, name: str) -> Array:
        """Return a fixed-width column: (rows,), or (rows, repeat) for a repeat above 1.

        Integers stay integers and logicals become bool, unless TSCAL or TZERO make them float.
        """
        column = self._find(name)
        if column.is_variable:
            raise self.hdu.error(f"column {name} has rows of variable length")
        if column.form.repeat == 0:
            raise self.hdu.error(f"column {name} is empty (TFORM repeat 0)")
        stored = self._fixed(column)
        native = _NATIVE_TYPES.get(column.form.code, stored.dtype)
        return self._scaled(stored.astype(native), column)

    def scalars(self, name: str) -> Array:
        """Return a column (rows,) that has to hold one value per row."""
        values = self.column(name)
        if values.ndim != 1:
            raise self.hdu.error(
                f"column {name} holds {values.shape[1]} values per row, expected 1"
            )
        return values

    def ragged(self, name: str, at_most: Integers | None = None) -> Ragged:
        """Return a column of fixed or variable row length; of each row at most `at_most` values."""
        column = self._find(name)
        if column.is_variable:
            lengths, values = self._heap_arrays(column, at_most)
            return Ragged(self._scaled(values, column), lengths)
        values = self.column(name).reshape(-1)
        whole = Ragged(values, np.full(self.n_rows, column.form.repeat, dtype=np.int64))
        if at_most is None:
            return whole
        lengths = np.minimum(whole.lengths, at_most)
        return Ragged(whole.first(lengths), lengths)

    def keyword(self, key: str, name: str) -> Any:
        """Return an indexed keyword (TLMIN, TUNIT ...) of a column; None where it is absent."""
        return self.hdu.header.get(f"{key}{self._find(name).number}")

    def _find(self, name: str) -> Column:
        column = self.columns.get(name)
        if column is None:
            there = ", ".join(self.columns) or "none"
            raise self.hdu.error(f"column {name} is missing (columns: {there})")
        if self.n_rows == 0:
            raise self.hdu.error("the table has no rows")
        return column

    def _fixed(self, column: Column) -> Array:
        shape: tuple[int, ...] = (self.n_rows,)
        if column.form.code == "A":
            dtype = f"S{column.form.repeat}"
        else:
            dtype = self._dtype(column, column.form.code)
            if column.form.repeat > 1:
                shape = (self.n_rows, column.form.repeat)
        item = np.dtype(dtype)
        return np.ndarray(
            shape,
            item,
            self.hdu.content,
            self.hdu.data_start + column.start,
            (self.row_bytes, item.itemsize)[: len(shape)],
        )

    def _dtype(self, column: Column, code: str) -> str:
        if code == "L":
            return "S1"
        if code not in NUMBER_TYPES:
            raise self.hdu.error(f"column {column.name} is of type {code}, expected numbers")
        return NUMBER_TYPES[code]

    def _scaled(self, native: Array, column: Column) -> Array:
        code = column.form.heap_code or column.form.code
        if code == "A":
            return native
        if code == "L":
            logical: Array = native == b"T"
            return logical
        scale = self.hdu.number(f"TSCAL{column.number}", 1.0)
        zero = self.hdu.number(f"TZERO{column.number}", 0.0)
        if scale == 1.0 and zero == 0.0:
            return native
        if code in "BIJ" and scale == 1.0 and zero.is_integer() and abs(zero) < 2**53:
            return native.astype(np.int64) + int(zero)
        with np.errstate(all="ignore"):
            return native.astype(np.float64) * scale + zero

    def _heap_arrays(self, column: Column, at_most: Integers | None) -> tuple[Integers, Array]:
        """Return lengths (rows,) and the rows' arrays, or the first values of each, flat."""
        if column.form.repeat != 1:
            raise self.hdu.error(
                f"column {column.name} has {column.form.repeat} descriptors per row"
            )
        dtype = np.dtype(self._dtype(column, column.form.heap_code))
        heap_start, heap_bytes = self._heap()
        lengths, offsets = self._descriptors(column)
        sizes = lengths * dtype.itemsize
        # A product of stated numbers may overflow, so that `lengths` itself is checked, too.
        bad = (sizes > heap_bytes) | ((lengths > 0) & (offsets > heap_bytes - sizes))
        bad |= (lengths < 0) | (lengths > heap_bytes) | ((lengths > 0) & (offsets < 0))
        if bad.any():
            row = int(bad.argmax())
            raise self.hdu.error(
                f"column {column.name}, row {row + 1}: {lengths[row]} elements at byte "
                f"{offsets[row]} lie outside the heap of {heap_bytes} bytes"
            )
        total = int(sizes.sum())
        if total > MAX_HEAP_REUSE * heap_bytes:
            raise self.hdu.error(
                f"column {column.name}: rows of {total} bytes in all share a heap of {heap_bytes}"
            )
        begins = np.where(lengths > 0, heap_start + offsets, 0)
        if at_most is not None:
            lengths = np.minimum(lengths, at_most)
        values = _gather(self.hdu.content, begins, lengths * dtype.itemsize, dtype)
        native = values.view(dtype.newbyteorder("="))
        np.copyto(native, values)
        return lengths, native

    def _descriptors(self, column: Column) -> tuple[Integers, Integers]:
        dtype = np.dtype(">i4" if column.form.code == "P" else ">i8")
        pairs = np.ndarray(
            (2, self.n_rows),
            dtype,
            self.hdu.content,
            self.hdu.data_start + column.start,
            (dtype.itemsize, self.row_bytes),
        ).astype(np.int64)
        return pairs[0], pairs[1]

    def _heap(self) -> tuple[int, int]:
        """Return the place of the heap in the file, and its size in bytes."""
        table_bytes = self.row_bytes * self.n_rows
        heap_offset = self.hdu.integer("THEAP", table_bytes)
        if not table_bytes <= heap_offset <= self.hdu.data_bytes:
            raise self.hdu.error(
                f"THEAP is {heap_offset}, expected {table_bytes} to {self.hdu.data_bytes}"
            )
        return self.hdu.data_start + heap_offset, self.hdu.data_bytes - heap_offset


def runs(starts: Integers, lengths: Integers, dtype: type[np.integer[Any]] = np.int64) -> Array:
    """Return `lengths[i]` whole numbers counting up from `starts[i]`, run after run."""
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    # The result is a cumulative sum of ones; where a run begins, the step leads to its start.
    steps = np.ones(lengths.sum(), dtype)
    steps[:1] = starts[:1]
    steps[np.cumsum(lengths)[:-1]] = np.diff(starts) - lengths[:-1] + 1
    return np.cumsum(steps, dtype=dtype, out=steps)


def _gather(
    content: bytes | bytearray | memoryview, begins: Integers, sizes: Integers, dtype: np.dtype[Any]
) -> Array:
    """Copy pieces of `content` to a new array, one after another."""
    total = int(sizes.sum())
    if total < min(FEW_BYTES, SHORT_PIECE_BYTES * len(sizes)):
        return np.frombuffer(content, np.uint8)[runs(begins, sizes)].view(dtype)
    view = memoryview(content)
    ends = (begins + sizes).tolist()
    pieces = [view[begin:end] for begin, end in zip(begins.tolist(), ends, strict=True)]
    return np.frombuffer(bytearray().join(pieces), dtype)
