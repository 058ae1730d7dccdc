"""Binary tables out of FITS bytes: a small reader that trusts no size a header states.

Source of the format: FITS Standard 4.0, sections 3, 4 and 7.3. Checksums are not looked at:
archives carry wrong and empty ones.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raypipe.errors import OgipError
from raypipe.ogip.header import CARD_BYTES, Header, as_number
from raypipe.ogip.loading import Source, load
from raypipe.ogip.tform import NUMBER_TYPES, Form, parse_form

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BLOCK_BYTES = 2880
MAX_AXES = 999
MAX_COLUMNS = 999

MAX_STATED_BYTES = 2**63
"""Sizes from here on are not written out: the product of all axes may have 60,000 digits."""

TABLE_TYPES = ("BINTABLE", "A3DTABLE")
"""XTENSION of binary tables; A3DTABLE is what they were called before 1992."""

MAX_HEAP_REUSE = 2
"""How often, on average, the rows of a variable-length column may point at the same heap bytes."""

SHORT_PIECE_BYTES = 64
"""Pieces shorter than this on average are gathered byte by byte, longer ones by slices."""

FEW_BYTES = 2**18
"""Most bytes gathered one by one, which takes eight times their memory."""

_END = b"END     "
_NATIVE_TYPES = {code: np.dtype(dtype).newbyteorder("=") for code, dtype in NUMBER_TYPES.items()}


@dataclass(slots=True)
class Hdu:
    """One header-data unit: its header, and where its data lie in the file's bytes."""

    path: str
    index: int
    header: Header
    content: bytes | bytearray
    data_start: int
    data_bytes: int = 0

    @property
    def label(self) -> str:
        """Number in the file (0: the primary) and EXTNAME, for messages."""
        name = self.text("EXTNAME")
        return f"{self.index}: {name}" if name else str(self.index)

    def error(self, problem: str) -> OgipError:
        """An OgipError that names this file and HDU."""
        return OgipError(self.path, problem, hdu=self.label)

    def text(self, key: str) -> str:
        """String value of a keyword in capitals, stripped; empty where there is none."""
        value = self.header.get(key)
        return value.strip().upper() if isinstance(value, str) else ""

    def integer(self, key: str, default: int | None = None, *, most: int | None = None) -> int:
        """Integer value of a keyword, within 0 and `most`; OgipError if it is not."""
        value = self.header.get(key, default)
        if value is None:
            raise self.error(f"keyword {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(f"{key} is {value!r}, expected a whole number from 0 on")
        if most is not None and value > most:
            raise self.error(f"{key} is {value}, expected at most {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Numeric value of a keyword; OgipError where it is missing or no number."""
        value = self.optional_number(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"keyword {key} is missing")
        return value

    def optional_number(self, key: str) -> float | None:
        """Numeric value of a keyword, None where it is missing or blank; OgipError on others."""
        value = self.header.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        number = as_number(value)
        if number is None:
            raise self.error(f"{key} is {value!r}, expected a number")
        return number

    def truth(self, key: str) -> bool | None:
        """Logical value of a keyword, as T and F, text or 1 and 0; None for anything else."""
        value = self.header.get(key)
        word = value.strip().upper() if isinstance(value, str) else value
        if word in (True, "T", "TRUE", "YES"):
            return True
        return False if word in (False, "F", "FALSE", "NO") else None


def read_hdus(source: Source, *, name: str | None = None) -> list[Hdu]:
    """Every HDU of a FITS file (path or bytes, plain or gzip); OgipError on malformed ones.

    Bytes after the last HDU that begin no further one are left alone.
    """
    path, content = load(source, name=name)
    if not content.startswith(b"SIMPLE  ="):
        raise OgipError(path, "not a FITS file: it does not begin with SIMPLE")
    ends = _end_cards(content)
    hdus: list[Hdu] = []
    position = 0
    while not hdus or content.startswith(b"XTENSION", position):
        hdu = _read_hdu(path, content, position, ends, len(hdus))
        hdus.append(hdu)
        position = hdu.data_start + _whole_blocks(hdu.data_bytes)
    return hdus


def _end_cards(content: bytes | bytearray) -> list[int]:
    """Where cards that read END may be: headers begin at whole blocks, which hold whole cards."""
    thirds, ends = content[2::CARD_BYTES], []
    card = thirds.find(b"D")
    while card >= 0:
        if content.startswith(_END, card * CARD_BYTES):
            ends.append(card * CARD_BYTES)
        card = thirds.find(b"D", card + 1)
    return ends


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _read_hdu(
    path: str, content: bytes | bytearray, start: int, ends: list[int], index: int
) -> Hdu:
    place = bisect_left(ends, start)
    if place == len(ends):
        raise OgipError(path, "header without END: the file is truncated", hdu=str(index))
    end = ends[place]
    data_start = start + _whole_blocks(end - start + CARD_BYTES)
    header = Header(content[start:end])
    hdu = Hdu(path, index, header, content, data_start)
    hdu.data_bytes = _data_bytes(hdu)
    if hdu.data_bytes and data_start + hdu.data_bytes > len(content):
        there = max(0, len(content) - data_start)
        stated = hdu.data_bytes if hdu.data_bytes < MAX_STATED_BYTES else f"over {MAX_STATED_BYTES}"
        raise hdu.error(f"data of {stated} bytes stated, {there} there: the file is truncated")
    return hdu


def _data_bytes(hdu: Hdu) -> int:
    """Size of the data as the FITS Standard defines it for any extension."""
    n_axes = hdu.integer("NAXIS", most=MAX_AXES)
    if n_axes == 0:
        return 0
    bitpix = hdu.header.get("BITPIX")
    if not isinstance(bitpix, int) or bitpix not in (8, 16, 32, 64, -32, -64):
        raise hdu.error(f"BITPIX is {bitpix!r}, expected 8, 16, 32, 64, -32 or -64")
    elements = math.prod(hdu.integer(f"NAXIS{axis}") for axis in range(1, n_axes + 1))
    pcount, gcount = hdu.integer("PCOUNT", 0), hdu.integer("GCOUNT", 1)
    return abs(bitpix) // 8 * gcount * (pcount + elements)


class Column(NamedTuple):
    """Place and type of one column of a binary table."""

    number: int
    name: str
    form: Form
    start: int

    @property
    def is_variable(self) -> bool:
        """Whether rows hold descriptors of arrays in the heap (P and Q)."""
        return self.form.code in "PQ"

    @property
    def holds_vectors(self) -> bool:
        """Whether rows hold several numbers each."""
        return self.is_variable or (self.form.code in NUMBER_TYPES and self.form.repeat > 1)


class Ragged(NamedTuple):
    """Rows of unequal length: `values` (total,) one row after another, `lengths` (rows,)."""

    values: Array
    lengths: Integers

    def first(self, lengths: Integers) -> Array:
        """The first `lengths[i]` (at most the row's own length) values of each row, flat."""
        if np.array_equal(lengths, self.lengths):
            return self.values
        size = self.values.itemsize
        starts = np.cumsum(self.lengths) - self.lengths
        content = self.values.data.cast("B")
        return _gather(content, starts * size, lengths * size, self.values.dtype)


class Table:
    """A binary table: columns by name in capitals, values scaled and in native byte order."""

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
        """Values of a fixed-width column: (rows,), or (rows, repeat) for a repeat above 1.

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
        """Values (rows,) of a column that has to hold one value a row."""
        values = self.column(name)
        if values.ndim != 1:
            raise self.hdu.error(f"column {name} holds {values.shape[1]} values a row, expected 1")
        return values

    def ragged(self, name: str, at_most: Integers | None = None) -> Ragged:
        """Values of a column of fixed or variable row length, of each row `at_most` the first."""
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
        """Value of an indexed keyword (TLMIN, TUNIT ...) of a column; None where absent."""
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
        """Lengths (rows,), and the rows' arrays, or the first of each, one after another."""
        if column.form.repeat != 1:
            raise self.hdu.error(f"column {column.name} has {column.form.repeat} descriptors a row")
        dtype = np.dtype(self._dtype(column, column.form.heap_code))
        heap_start, heap_bytes = self._heap()
        lengths, offsets = self._descriptors(column)
        sizes = lengths * dtype.itemsize
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
        """Where the heap begins in the file, and its size in bytes."""
        table_bytes = self.row_bytes * self.n_rows
        heap_offset = self.hdu.integer("THEAP", table_bytes)
        if not table_bytes <= heap_offset <= self.hdu.data_bytes:
            raise self.hdu.error(
                f"THEAP is {heap_offset}, expected {table_bytes} to {self.hdu.data_bytes}"
            )
        return self.hdu.data_start + heap_offset, self.hdu.data_bytes - heap_offset


def runs(starts: Integers, lengths: Integers, dtype: type[np.integer[Any]] = np.int64) -> Array:
    """Whole numbers counting up from `starts[i]`, `lengths[i]` of them, run after run."""
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    steps = np.ones(lengths.sum(), dtype)
    steps[:1] = starts[:1]
    steps[np.cumsum(lengths)[:-1]] = np.diff(starts) - lengths[:-1] + 1
    return np.cumsum(steps, dtype=dtype, out=steps)


def _gather(
    content: bytes | bytearray | memoryview, begins: Integers, sizes: Integers, dtype: np.dtype[Any]
) -> Array:
    """A new array of the pieces of `content`, one after another."""
    total = int(sizes.sum())
    if total < min(FEW_BYTES, SHORT_PIECE_BYTES * len(sizes)):
        return np.frombuffer(content, np.uint8)[runs(begins, sizes)].view(dtype)
    view = memoryview(content)
    ends = (begins + sizes).tolist()
    pieces = [view[begin:end] for begin, end in zip(begins.tolist(), ends, strict=True)]
    return np.frombuffer(bytearray().join(pieces), dtype)
