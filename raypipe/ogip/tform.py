"""Types of the columns of binary tables (FITS Standard 4.0, section 7.3.1)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_TFORM = re.compile(r"\s*(\d{0,9})([LXBIJKAEDCMPQ])([LXBIJKAEDCM]?)")
NUMBER_TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
ITEM_BYTES = {"L": 1, "A": 1, "C": 8, "M": 16, "P": 8, "Q": 16} | {
    code: np.dtype(dtype).itemsize for code, dtype in NUMBER_TYPES.items()
}


class Form(NamedTuple):
    """Type of a column: what TFORM says, and the bytes of a row that this takes."""

    code: str
    repeat: int
    heap_code: str
    width: int


@lru_cache(maxsize=1024)
def parse_form(text: str) -> Form | None:
    """What a TFORM says; None where it is none."""
    match = _TFORM.match(text)
    if match is None or (match[2] in "PQ") != bool(match[3]):
        return None
    code, repeat = match[2], int(match[1]) if match[1] else 1
    width = (repeat + 7) // 8 if code == "X" else repeat * ITEM_BYTES[code]
    return Form(code, repeat, match[3], width)
