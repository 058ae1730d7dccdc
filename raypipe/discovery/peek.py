"""Find files that hold a spectrum although their names do not say so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from isal import isal_zlib

from raypipe.ogip.header import CARD_BYTES
from raypipe.store.workspace import Workspace

LOOK_BYTES = 1 << 18
"""Bytes read of a file to see whether it holds a spectrum."""

_EXPANDED_BYTES = 1 << 20
"""Bytes searched after decompression."""

_THREADS = 16
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 31
_BROKEN_STREAM: type[Exception] = isal_zlib.error  # type: ignore[assignment]
_SPECTRUM = re.compile(rb"(?:HDUCLAS1|EXTNAME )= 'SPECTRUM *'", re.IGNORECASE)


def look_into(folder: Workspace, names: Iterable[str]) -> Iterator[tuple[str, bool | OSError]]:
    """Yield for each file whether it holds a spectrum, or the reason why it cannot be read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        names = list(names)
        yield from zip(names, pool.map(partial(_look, folder), names), strict=True)


def _look(folder: Workspace, name: str) -> bool | OSError:
    try:
        with folder.fs.open_input_stream(folder.path(name), compression=None) as stream:
            return holds_spectrum(stream.read(LOOK_BYTES))
    except OSError as error:
        return error


def holds_spectrum(start: bytes) -> bool:
    """Tell whether the first bytes of a file, plain or gzip, hold the header of an OGIP spectrum.

    Cards of FITS headers begin at multiples of 80 bytes. A file whose data imitate such a card is
    taken as a candidate, which is then read with all checks.
    """
    if start.startswith(_GZIP_MAGIC):
        try:
            start = isal_zlib.decompressobj(wbits=_GZIP_WINDOW_BITS).decompress(
                start, _EXPANDED_BYTES
            )
        except _BROKEN_STREAM:
            return False
    if not start.startswith(b"SIMPLE  ="):
        return False
    return any(found.start() % CARD_BYTES == 0 for found in _SPECTRUM.finditer(start))
