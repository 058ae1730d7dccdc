"""Read tables of text: CSV, and tab-separated values as CSCview, CIAO and VizieR save them.

CSCview writes lines of comments (#) that describe the columns, a row of names, and rows of padded
values. Tables that are put together from several such files repeat comments and names. VizieR
writes a row of units and a row of dashes below the names.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from raypipe.errors import UsageError

_BLOCK = 64 << 20
"""Bytes of text that are read at once; no row may be longer."""

_MOST_COLUMNS = 10_000
_EXACT_DIGITS = 15
"""Largest number of characters, with the sign, of an integer that a float always holds exactly."""

_NULLS = (
    "", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None",
)  # fmt: skip
_COMMENT = "#"
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_LIMIT = r"^\s*(?P<sign>[<>])\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*$"
"""A number after the sign of an upper or lower limit; RE2, which Arrow has, knows named groups."""
_LIMITS = {"<": "upper_limit", ">": "lower_limit"}
"""Endings of the names of columns that tell which numbers are limits, by the sign before these."""

Columns = tuple[list[str], list[pa.ChunkedArray | None], list[str]]
"""Names, values and units of columns."""


@dataclass(frozen=True)
class _Layout:
    """Describe a file of text: the names of its columns, and the lines to skip before its rows."""

    names: list[str] | None
    skipped: int


def separator_of(file: Path) -> str | None:
    """Return the tab or comma in the first line of a file that is no comment, None without."""
    with pa.input_stream(str(file), compression="detect") as stream:
        start = stream.read(_BLOCK >> 6).decode("utf-8-sig", "replace")
    lines = (line for line in start.splitlines() if line.strip() and not line.startswith(_COMMENT))
    first = next(lines, "") if "\0" not in start else ""
    return next((each for each in ("\t", ",") if each in first), None)


def read_text(file: Path, as_text: Sequence[str], delimiter: str) -> Columns:
    """Read a table whose columns are separated by `delimiter`; those in `as_text` stay text.

    Comments before the names, repeated names, rows of units and of dashes are no rows; in
    tab-separated values neither are comments between rows. All values are read as text first, so
    that all rows of a column determine its type. Numbers after "<" or ">" become numbers with a
    column of truth values beside them, <name>_upper_limit or <name>_lower_limit. Raises UsageError
    for a row with another number of values than the header.
    """
    layout = _layout(file, delimiter)
    table = _read_rows(file, delimiter, layout.skipped)
    names = layout.names
    if names is None:
        names = [str(column[0]) for column in table.columns]
        table = table.slice(1)
    if delimiter == "\t":
        names = [name.strip() for name in names]
        trimmed = [pc.utf8_trim_whitespace(column) for column in table.columns]
        table = pa.table(trimmed, names=table.column_names)
    table, units = _without_units(_only_rows(table, names, delimiter))
    return _typed_columns(names, table, units, as_text)


def typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert text to integers, floats or truth values if all of it can be.

    A column with an integer beyond 64 bits stays text, which keeps its digits. So does one with a
    number that begins with a needless zero (007): it is an identifier.
    """
    texts = pc.utf8_trim_whitespace(column)
    if pc.any(pc.match_substring_regex(texts, r"^[+-]?0\d+$")).as_py():
        return column
    numbers = pc.utf8_ltrim(texts, "+")
    are_whole = pc.match_substring_regex(texts, r"^[+-]?\d+$")
    kinds = [pa.bool_()]
    if pc.all(are_whole).as_py():
        kinds = [pa.int64()]
    elif not pc.any(pc.and_(are_whole, pc.greater(pc.utf8_length(texts), _EXACT_DIGITS))).as_py():
        kinds = [pa.float64(), pa.bool_()]
    for kind in kinds:
        try:
            return (texts if kind == pa.bool_() else numbers).cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def _layout(file: Path, delimiter: str) -> _Layout:
    """Find the row of names: the first line that is no comment, or the comment before it.

    A comment has the names if it has as many values as the line below it, and that line has a
    number.
    """
    comment, skipped = "", 0
    with pa.input_stream(str(file), compression="detect") as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace"):
            if line.strip() and not line.startswith(_COMMENT):
                values = line.rstrip("\r\n").split(delimiter)
                names = comment.lstrip(_COMMENT).strip("\r\n ").split(delimiter)
                has_number = any(re.match(_NUMBER, value) for value in values)
                if comment and has_number and len(values) == len(names) > 1:
                    return _Layout([name.strip() for name in names], skipped)
                return _Layout(None, skipped)
            comment, skipped = line if line.strip() else comment, skipped + 1
    return _Layout(None, 0)


def _read_rows(file: Path, delimiter: str, skipped: int) -> pa.Table:
    """Read all values below the skipped lines as text, in columns f0, f1, ..."""
    bad: list[pacsv.InvalidRow] = []

    def note(row: pacsv.InvalidRow) -> str:
        is_comment = delimiter == "\t" and row.text.startswith(_COMMENT)
        if not is_comment:
            bad.append(row)
        return "skip"

    with pa.input_stream(str(file), compression="detect") as stream:
        table = pacsv.read_csv(
            stream,
            pacsv.ReadOptions(
                autogenerate_column_names=True,
                skip_rows=skipped,
                block_size=_BLOCK,
                use_threads=False,
            ),
            pacsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            pacsv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(_MOST_COLUMNS)}),
        )
    if bad:
        row = bad[0]
        separator = "tab" if delimiter == "\t" else "comma"
        raise UsageError(
            f"line {_line_of(row.text, file)} has {row.actual_columns} values, the header "
            f"{row.expected_columns}: a {separator} too many or too few shifts all values behind it"
        )
    return table


def _line_of(row: str, file: Path) -> int:
    """Return the number of the line on which the first row with this text begins, from 1."""
    start = row.split("\n")[0].rstrip("\r")
    with pa.input_stream(str(file), compression="detect") as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")
        return next((i for i, line in enumerate(lines, 1) if line.rstrip("\r\n") == start), 0)


def _only_rows(table: pa.Table, names: Sequence[str], delimiter: str) -> pa.Table:
    """Leave out rows that repeat the names, and comments of tab-separated values."""
    if not table.num_columns:
        return table
    first = pc.utf8_trim_whitespace(table.column(0))
    unwanted = pc.equal(first, names[0].strip()) if len(names) > 1 else pa.scalar(False)
    if len(names) > 1:
        for name, column in zip(names[1:], table.columns[1:], strict=True):
            same = pc.equal(pc.utf8_trim_whitespace(column), name.strip())
            unwanted = pc.and_(unwanted, same)
    if delimiter == "\t":
        unwanted = pc.or_(unwanted, pc.starts_with(first, _COMMENT))
    return table.filter(pc.invert(unwanted)) if isinstance(unwanted, pa.ChunkedArray) else table


def _without_units(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """Separate a first row of units, and a second one of dashes, from the rows.

    The first row has units if dashes are below it, or if it has no numbers and those of its texts
    that are above numbers are units that astropy knows.
    """
    none = [""] * table.num_columns
    rows = [[str(value).strip() for value in row.values()] for row in table.slice(0, 2).to_pylist()]
    if len(rows) < 2:
        return table, none
    first, second = rows
    if any(second) and all(re.fullmatch(r"-*", value) for value in second):
        return table.slice(2), first
    if any(re.match(_NUMBER, value) for value in first):
        return table, none
    over_numbers = [
        unit for unit, value in zip(first, second, strict=True) if unit and re.match(_NUMBER, value)
    ]
    are_units = over_numbers and all(map(_is_unit, over_numbers))
    return (table.slice(1), first) if are_units else (table, none)


def _is_unit(text: str) -> bool:
    from astropy import units  # Takes long to import.

    if text in _NULLS or not text[0].isalpha():
        return False
    return not isinstance(units.Unit(text, parse_strict="silent"), units.UnrecognizedUnit)


def _typed_columns(
    names: Sequence[str], table: pa.Table, units: Sequence[str], as_text: Sequence[str]
) -> Columns:
    """Give each column its type, and columns of limits a column that says which values are."""
    found: list[tuple[str, pa.ChunkedArray, str]] = []
    for name, raw, unit in zip(names, table.columns, units, strict=True):
        text = _without_nulls(raw)
        if name.strip().lower() in as_text and not unit:
            found.append((name, text, unit))
            continue
        values, limits = _limits(text)
        found.append((name, typed(values), unit))
        found += [(f"{name}_{ending}", are_limits, "") for ending, are_limits in limits.items()]
    return (
        [name for name, _, _ in found],
        [column for _, column, _ in found],
        [unit for _, _, unit in found],
    )


def _without_nulls(column: pa.ChunkedArray) -> pa.ChunkedArray:
    missing = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(_NULLS))
    return pc.if_else(missing, pa.scalar(None, pa.string()), column)


def _limits(texts: pa.ChunkedArray) -> tuple[pa.ChunkedArray, dict[str, pa.ChunkedArray]]:
    """Separate the signs of limits from numbers; text that is no number stays as it is."""
    are_limits = pc.match_substring_regex(texts, _LIMIT)
    are_numbers = pc.match_substring_regex(texts, _NUMBER)
    if not pc.any(are_limits).as_py() or not pc.all(pc.or_(are_limits, are_numbers)).as_py():
        return texts, {}
    parts = pc.extract_regex(texts, _LIMIT)
    signs, numbers = (pc.struct_field(parts, name) for name in ("sign", "number"))
    values = pc.if_else(are_limits, numbers, texts)
    said = {
        ending: pc.and_(are_limits, pc.fill_null(pc.equal(signs, sign), False))
        for sign, ending in _LIMITS.items()
    }
    return values, {ending: column for ending, column in said.items() if pc.any(column).as_py()}
