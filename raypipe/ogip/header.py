"""Read FITS header cards as a mapping that parses a value when it is requested."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

CARD_BYTES = 80

MAX_CONTINUED = 1000
"""Most CONTINUE cards from which a string is joined; the others are ignored."""

_KEY_BYTES = 8
_HAS_VALUE = "= "
_VALUE_START = _KEY_BYTES + len(_HAS_VALUE)
_NO_KEYWORDS = ("", "COMMENT", "HISTORY", "CONTINUE", "HIERARCH")
_STRING = re.compile(r"\s*'([^']*(?:''[^']*)*)'")
_INTEGER = re.compile(r"[+-]?\d+")


_ABSENT = object()


class Header(Mapping[str, Any]):
    """Hold an HDU's keywords: str, bool, int, float, or None for a keyword without a value.

    Keys match in any case; the first of repeated keywords counts. Long strings (CONTINUE) are
    joined. Commentary, HIERARCH cards and names that FITS does not allow are left out. A value of
    no FITS type is returned as the text of its card. Source: FITS Standard 4.0, section 4.
    """

    __slots__ = ("_cards", "_positions")

    def __init__(self, cards: bytes | bytearray) -> None:
        # Read the eight bytes of each key as one number; of repeated keys the first is kept.
        end = len(cards) // CARD_BYTES * CARD_BYTES
        keys = memoryview(cards)[:end].cast("Q")[:: CARD_BYTES // _KEY_BYTES].tobytes().upper()
        codes = memoryview(keys).cast("Q").tolist()
        self._cards = cards.decode("latin-1")
        self._positions: dict[int, int] = dict(
            zip(reversed(codes), range(end - CARD_BYTES, -1, -CARD_BYTES), strict=True)
        )
        for key in _NO_KEYWORDS:
            self._positions.pop(_code(key), None)

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, _ABSENT)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key, _ABSENT) is not _ABSENT

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a keyword, or `default` where the header does not have it."""
        start = self._positions.get(_code(key))
        if start is None:
            return default
        value = _parse(self._cards[start + _KEY_BYTES : start + CARD_BYTES])
        if value is _ABSENT:
            return default
        if isinstance(value, str) and value.endswith("&"):
            return self._continued(value, start)
        return value

    def __iter__(self) -> Iterator[str]:
        for position, code in sorted((at, code) for code, at in self._positions.items()):
            name = self._cards[position : position + _KEY_BYTES].rstrip()
            if _code(name) == code and self._cards.startswith(_HAS_VALUE, position + _KEY_BYTES):
                yield name.upper()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Header({dict(self)!r})"

    def __reduce__(self) -> tuple[type[Header], tuple[bytes]]:
        return Header, (self._cards.encode("latin-1"),)

    def _continued(self, value: str, start: int) -> str:
        parts: list[str] = []
        while value.endswith("&") and len(parts) < MAX_CONTINUED:
            start += CARD_BYTES
            string = _STRING.match(self._cards, start + _VALUE_START, start + CARD_BYTES)
            if string is None or not self._cards.startswith("CONTINUE", start):
                break
            parts.append(value[:-1])
            value = _unquoted(string)
        return "".join([*parts, value])


@lru_cache(maxsize=4096)
def _code(key: str) -> int:
    """Return the number that the eight bytes of a keyword form: numbers are compared faster."""
    padded = key.upper().ljust(_KEY_BYTES).encode("ascii", "replace")
    return int.from_bytes(padded, sys.byteorder)


@lru_cache(maxsize=4096)
def _parse(card: str) -> Any:
    """Parse a card without its keyword; cached, as files of a survey share most cards."""
    if not card.startswith(_HAS_VALUE):
        return _ABSENT
    if "'" in card and (string := _STRING.match(card, len(_HAS_VALUE))):
        return _unquoted(string)
    return _parse_plain(card[len(_HAS_VALUE) :].partition("/")[0].strip())


def _unquoted(string: re.Match[str]) -> str:
    return string[1].replace("''", "'").rstrip()


def _parse_plain(text: str) -> Any:
    """Parse the value of a card without a string: bool, int, float, None, or the text itself."""
    if text.isdecimal() or _INTEGER.fullmatch(text):
        return int(text)
    if not text:
        return None
    if text in ("T", "F"):
        return text == "T"
    if "_" in text:
        return text
    try:
        return float(text.replace("D", "E").replace("d", "e"))
    except ValueError:
        return text


def as_number(value: Any) -> float | None:
    """Convert a header's value, also a text ('1.0E3'), to float; None where it is no number."""
    if isinstance(value, str):
        value = _parse_plain(value.strip()) if len(value) <= CARD_BYTES else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)
