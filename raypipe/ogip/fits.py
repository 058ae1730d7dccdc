"""Find the header-data units of FITS bytes, trusting no size that a header states.

Source of the format: FITS Standard 4.0, sections 3 and 4. Checksums are ignored, because archives
carry wrong and empty ones.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.errors import OgipError
from raypipe.ogip.header import CARD_BYTES, Header, as_number
from raypipe.ogip.loading import Source, load

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BLOCK_BYTES = 2880
MAX_AXES = 999

MAX_STATED_BYTES = 2**63
"""Sizes from here on are not printed: the product of all axes may have 60,000 digits."""

_END = b"END     "


@dataclass(slots=True)
class Hdu:
    """Hold one header-data unit: its header, and where its data lie in the file's bytes."""

    path: str
    index: int
    header: Header
    content: bytes | bytearray
    data_start: int
    data_bytes: int = 0

    @property
    def label(self) -> str:
        """Return the HDU's number in the file (0 is the primary) and its EXTNAME, for messages."""
        name = self.text("EXTNAME")
        return f"{self.index}: {name}" if name else str(self.index)

    def error(self, problem: str) -> OgipError:
        """Return an OgipError that names this file and HDU."""
        return OgipError(self.path, problem, hdu=self.label)

    def text(self, key: str) -> str:
        """Return the text of a keyword in capitals, stripped; empty where there is none."""
        value = self.header.get(key)
        return value.strip().upper() if isinstance(value, str) else ""

    def integer(self, key: str, default: int | None = None, *, most: int | None = None) -> int:
        """Return a keyword's integer of 0 to `most`; raise OgipError for anything else."""
        value = self.header.get(key, default)
        if value is None:
            raise self.error(f"keyword {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(f"{key} is {value!r}, expected a whole number from 0 on")
        if most is not None and value > most:
            raise self.error(f"{key} is {value}, expected at most {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a keyword's number, else `default`; raise OgipError where there is neither."""
        value = self.optional_number(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"keyword {key} is missing")
        return value

    def optional_number(self, key: str) -> float | None:
        """Return a keyword's number, None where it is missing or blank; OgipError for others."""
        value = self.header.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        number = as_number(value)
        if number is None:
            raise self.error(f"{key} is {value!r}, expected a number")
        return number

    def truth(self, key: str) -> bool | None:
        """Return a keyword's truth, written as T, F, words, 1 or 0; None for anything else."""
        value = self.header.get(key)
        word = value.strip().upper() if isinstance(value, str) else value
        if word in (True, "T", "TRUE", "YES"):
            return True
        return False if word in (False, "F", "FALSE", "NO") else None


def read_hdus(source: Source, *, name: str | None = None) -> list[Hdu]:
    """Return every HDU of a FITS file (path or bytes, plain or gzip).

    Bytes after the last HDU that do not begin another one are ignored. Raises OgipError for a
    malformed file.
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
    """Return the places of cards that read END.

    Headers begin at whole blocks, and a block holds whole cards, so that the third bytes of all
    cards of the file can be searched for a D at once.
    """
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
    """Return the size of the data, which the FITS Standard defines for any extension."""
    n_axes = hdu.integer("NAXIS", most=MAX_AXES)
    if n_axes == 0:
        return 0
    bitpix = hdu.header.get("BITPIX")
    if not isinstance(bitpix, int) or bitpix not in (8, 16, 32, 64, -32, -64):
        raise hdu.error(f"BITPIX is {bitpix!r}, expected 8, 16, 32, 64, -32 or -64")
    elements = math.prod(hdu.integer(f"NAXIS{axis}") for axis in range(1, n_axes + 1))
    pcount, gcount = hdu.integer("PCOUNT", 0), hdu.integer("GCOUNT", 1)
    return abs(bitpix) // 8 * gcount * (pcount + elements)
