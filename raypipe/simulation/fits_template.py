"""Write FITS headers and tables from templates, thousands of files per second.

This covers what the products of a survey need: binary tables with fixed columns, with or without a
heap, and headers in which a few values differ from file to file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 2880
CARD = 80
Value = bool | int | float | str
Card = tuple[str, Value, str]
"""A header card: keyword, value and comment."""

FORMATS = {"i2": "I", "i4": "J", "f4": "E", "f8": "D"}


def card(keyword: str, value: Value, comment: str = "") -> bytes:
    """Return a header card of 80 bytes; a comment that does not fit is shortened."""
    if isinstance(value, bool | np.bool_):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int | np.integer):
        text = f"{value:>20d}"
    elif isinstance(value, float | np.floating):
        text = f"{value:>20.13E}"
    else:
        text = f"'{value.replace(chr(39), chr(39) * 2):<8}'".ljust(20)
    line = f"{keyword:<8}= {text}" + (f" / {comment}" if comment else "")
    if len(text) > CARD - 10:
        raise ValueError(f"{keyword}: the value {value!r} does not fit into a header card")
    return line[:CARD].ljust(CARD).encode("ascii")


class HeaderTemplate:
    """Hold a header in which some values change; `render` inserts them."""

    def __init__(self, cards: Sequence[Card]) -> None:
        self._rendered = [card(*each) for each in cards]
        self._place = {keyword: (i, note) for i, (keyword, _, note) in enumerate(cards)}

    def render(self, values: Mapping[str, Value]) -> bytes:
        """Return the header's blocks with `values` instead of the template's."""
        rendered = list(self._rendered)
        for keyword, value in values.items():
            index, comment = self._place[keyword]
            rendered[index] = card(keyword, value, comment)
        return padded(b"".join(rendered) + b"END".ljust(CARD), b" ")


def primary_cards() -> list[Card]:
    """Return the first cards of a primary header without data."""
    return [
        ("SIMPLE", True, "file does conform to FITS standard"),
        ("BITPIX", 8, "number of bits per data pixel"),
        ("NAXIS", 0, "number of data axes"),
        ("EXTEND", True, "FITS dataset may contain extensions"),
    ]


def table_cards(
    name: str,
    dtype: npt.DTypeLike,
    rows: int,
    *,
    units: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    heap_bytes: int = 0,
) -> list[Card]:
    """Return the first cards of a binary table of `rows` records of `dtype`.

    `units` gives TUNIT by column. `formats` replaces TFORM of columns that describe arrays in the
    heap.
    """
    record = np.dtype(dtype)
    cards: list[Card] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "8-bit bytes"),
        ("NAXIS", 2, "2-dimensional binary table"),
        ("NAXIS1", record.itemsize, "width of table in bytes"),
        ("NAXIS2", rows, "number of rows in table"),
        ("PCOUNT", heap_bytes, "size of special data area"),
        ("GCOUNT", 1, "one data group"),
        ("TFIELDS", len(record.names or ()), "number of fields in each row"),
        ("EXTNAME", name, "name of this binary table extension"),
    ]
    for index, column in enumerate(record.names or (), start=1):
        form = (formats or {}).get(column) or "1" + FORMATS[record[column].str[1:]]
        cards += [(f"TTYPE{index}", column, ""), (f"TFORM{index}", form, "")]
        if column in (units or {}):
            cards.append((f"TUNIT{index}", (units or {})[column], ""))
    return cards


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    """Return data padded to a multiple of 2880 bytes."""
    return data + fill * (-len(data) % BLOCK)


def table_bytes(header: bytes, records: npt.NDArray[Any], heap: bytes = b"") -> bytes:
    """Return a complete table HDU."""
    return header + padded(records.tobytes() + heap)
