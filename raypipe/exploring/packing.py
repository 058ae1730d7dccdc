"""Pack numbers into few bytes for a page: rounded columns, and integers in compressed blocks."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

_LEVEL = 6
_KEPT_BITS = 14
"""Bits of the mantissa that a rounded column keeps: a relative error of 3e-5."""


def packed_bytes(data: bytes) -> str:
    """Compress bytes (zlib), and return them as base64."""
    return base64.b64encode(zlib.compress(data, _LEVEL)).decode()


def packed_floats(values: npt.ArrayLike) -> str:
    """Pack numbers as little-endian float32 with 14 bits of mantissa; NaN and infinity stay."""
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(values, dtype="<f4")
    bits = single.view("<u4")
    drop = np.uint32(23 - _KEPT_BITS)
    half = np.uint32(1 << (int(drop) - 1))
    rounded = np.where(np.isfinite(single), ((bits + half) >> drop) << drop, bits)
    return _packed_planes(rounded.astype("<u4"))


def packed_shorts(values: npt.ArrayLike) -> str:
    """Pack integers as little-endian int16, all lower bytes first."""
    return _packed_planes(np.ascontiguousarray(values, dtype="<i2"))


def _packed_planes(values: npt.NDArray[Any]) -> str:
    """Pack numbers with all bytes of one significance together, which compresses better."""
    return packed_bytes(values.reshape(-1, 1).view(np.uint8).T.tobytes())


def packed_doubles(values: npt.ArrayLike) -> str:
    """Pack numbers as little-endian float64, all digits kept."""
    return packed_bytes(np.ascontiguousarray(values, dtype="<f8").tobytes())


def packed_block(rows: Sequence[bytes]) -> str:
    """Pack rows made by `varints` as one block, which begins with the number of bytes of each."""
    lengths = varints(np.array([len(each) for each in rows], np.int64))
    return packed_bytes(b"".join([lengths, *rows]))


def varints(values: Integers) -> bytes:
    """Write integers of at most 32 bits in as few bytes as each needs.

    An integer is mapped to one without a sign (0, -1, 1, -2, ... to 0, 1, 2, 3, ...), and written
    in groups of seven bits, the lowest first; the eighth bit of a byte says that another follows.
    """
    signed = np.asarray(values, np.int64)
    plain = np.where(signed < 0, -2 * signed - 1, 2 * signed).astype(np.uint64)
    sizes = np.ones(len(plain), np.int64)
    for group in range(1, 5):
        sizes += plain >= np.uint64(1 << (7 * group))
    ends = np.cumsum(sizes)
    starts = ends - sizes
    out = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for group in range(5):
        here = sizes > group
        part = (plain[here] >> np.uint64(7 * group)) & np.uint64(127)
        more = (sizes[here] > group + 1).astype(np.uint64) << np.uint64(7)
        out[starts[here] + group] = (part | more).astype(np.uint8)
    return out.tobytes()


def logarithms(values: Floats, step: float, least: float) -> Integers:
    """Quantize positive values: the logarithm of the first in units of `step`, then differences.

    Values below `least`, or not finite, count as `least`. Returns integers shaped as `values`.
    """
    safe = np.nan_to_num(np.asarray(values, np.float64), nan=least, posinf=least, neginf=least)
    steps = np.rint(np.log(np.maximum(safe, least)) / step).astype(np.int64)
    return np.diff(steps, axis=-1, prepend=0)
