"""Read files and expand gzip streams, within fixed bounds."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeAlias

import deflate
from isal import isal_zlib

from raypipe.errors import OgipError

Source: TypeAlias = str | os.PathLike[str] | bytes

MAX_FILE_BYTES = 256 * 2**20
"""Largest file that is read, in bytes on disk."""

MAX_EXPANDED_BYTES = 256 * 2**20
"""Largest content of a gzip file in bytes; decompression stops there."""

MAX_MEMBERS = 100
"""Most gzip streams in a file, one after another; each costs a copy of the bytes that follow."""

MAX_STATED_RATIO = 64
"""Largest ratio of stated to compressed size at which memory for a gzip file is reserved."""

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 31
_BROKEN_STREAM: type[Exception] = isal_zlib.error  # type: ignore[assignment]


def load(source: Source, *, name: str | None = None) -> tuple[str, bytes | bytearray]:
    """Return the name of a plain or gzip file, for errors, and its expanded bytes.

    `source` is a path, or the bytes themselves; gzip is recognized by content. Raises OgipError if
    the file cannot be read, exceeds `MAX_FILE_BYTES`, expands beyond `MAX_EXPANDED_BYTES`, or is a
    broken gzip stream.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        label, content = name or "<bytes>", bytes(source)
    else:
        label = name or os.fspath(source)
        content = _read_file(Path(source), label)
    if len(content) > MAX_FILE_BYTES:
        raise OgipError(label, _too_large(len(content)))
    if not content.startswith(_GZIP_MAGIC):
        return label, content
    expanded = _expand_whole(content)
    return label, _expand_streams(content, label) if expanded is None else expanded


def _read_file(path: Path, label: str) -> bytes:
    try:
        status = path.stat()
        is_regular = stat.S_ISREG(status.st_mode)
        if is_regular and status.st_size <= MAX_FILE_BYTES:
            with path.open("rb", buffering=0) as file:
                return file.readall()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OgipError(label, f"cannot be read: {reason}") from error
    raise OgipError(label, _too_large(status.st_size) if is_regular else "not a regular file")


def _too_large(size: int) -> str:
    return f"{size} bytes, more than the {MAX_FILE_BYTES} a file may have"


def _expand_whole(content: bytes) -> bytearray | None:
    """Expand a file of one gzip stream; return None if it is anything else, or broken.

    libdeflate needs the size in advance and stops silently after the first stream, so the content
    must have the size and the CRC in the file's last bytes (RFC 1952, section 2.3.1). A stream that
    is repeated passes for a single one, which does no harm: no FITS file continues with itself.
    """
    size = int.from_bytes(content[-4:], "little")
    if not 0 < size <= min(MAX_EXPANDED_BYTES, MAX_STATED_RATIO * len(content)):
        return None
    try:
        expanded = deflate.gzip_decompress(content, size)
    except deflate.DeflateError:
        return None
    crc = int.from_bytes(content[-8:-4], "little")
    return expanded if len(expanded) == size and deflate.crc32(expanded) == crc else None


def _expand_streams(content: bytes, label: str) -> bytes:
    """Expand all gzip streams, one after another; ignore bytes after them that are no gzip."""
    members: list[bytes] = []
    room = MAX_EXPANDED_BYTES
    while content.startswith(_GZIP_MAGIC):
        if len(members) == MAX_MEMBERS:
            raise OgipError(label, f"more than {MAX_MEMBERS} gzip streams in one file")
        decompressor = isal_zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
        try:
            member = decompressor.decompress(content, room + 1)
        except _BROKEN_STREAM as error:
            if members:
                break
            raise OgipError(label, f"broken gzip stream: {error}") from error
        room -= len(member)
        if room < 0:
            raise OgipError(label, f"expands to more than {MAX_EXPANDED_BYTES} bytes")
        if not decompressor.eof:
            raise OgipError(label, "gzip stream ends early: the file is truncated")
        members.append(member)
        content = decompressor.unused_data
    return members[0] if len(members) == 1 else b"".join(members)
