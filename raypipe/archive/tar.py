"""Read a tar as a stream, within limits, without writing files.

`tarfile` treats a damaged header, and a stream that stops between two members, as the end of the
archive, and reads extended headers of any size. It cannot tell a file that is not in the archive
from one that did not arrive. Here a tar is complete only once its end marker has been read.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_EXTENDED_HEADER = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"

_REGULAR = b"0\x007"
_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_FOLDER = b"5"
_WITHOUT_CONTENT = b"123456"
_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"


class TarError(Exception):
    """Report that the content is not a complete tar."""


class NotATar(TarError):
    """Report that the content does not begin like a tar; `start` holds its first bytes."""

    def __init__(self, start: bytes) -> None:
        super().__init__("not a tar")
        self.start = start


@dataclass(frozen=True)
class Member:
    """Hold a member of a tar: its content, or the reason why it is refused."""

    name: str
    content: bytes
    refused: str | None = None


def read_tar(
    read: Callable[[int], bytes], *, max_members: int, max_member_bytes: int, max_bytes: int
) -> Iterator[Member]:
    """Yield the members of a tar, plain or gzipped, whose bytes `read` returns; skip folders.

    Links, devices, names that lead out of the folder, and members of more than `max_member_bytes`
    are yielded as refused, without content. Raises NotATar at the start, and TarError if the tar is
    damaged, ends early, or has more than `max_members` members or `max_bytes` bytes; members that
    were yielded before are complete. Exceptions of `read` pass through.
    """
    stream = _Stream(read, max_bytes)
    name, count = "", 0
    while (header := stream.header()) is not None:
        if header.kind in (_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL):
            name = _extended_name(header.kind, stream.extended(header.size)) or name
            continue
        count += 1
        if count > max_members:
            raise TarError(f"too long: more than {max_members} members")
        member, name = name or header.name, ""
        refused = _refusal(member, header.kind, header.size, max_member_bytes)
        size = 0 if header.kind in _WITHOUT_CONTENT else header.size
        if refused or header.kind == _FOLDER:
            stream.skip(size)
        if header.kind != _FOLDER:
            yield Member(member, b"" if refused else stream.content(size), refused)


@dataclass(frozen=True)
class _Header:
    name: str
    kind: bytes
    size: int


class _Stream:
    def __init__(self, read: Callable[[int], bytes], max_bytes: int) -> None:
        self._read = read
        self._room = self._max_bytes = max_bytes
        start = self._upto(_BLOCK)
        if start.startswith(_GZIP_MAGIC):
            rest = gzip.GzipFile(fileobj=cast(io.BytesIO, _Rejoined(start, read)))
            self._read = rest.read
            start = self._upto(_BLOCK)
        empty = len(start) == _BLOCK and not any(start)
        if not empty and _parse_header(start) is None:
            raise NotATar(start)
        self._start = start

    def header(self) -> _Header | None:
        block, self._start = self._start or self._exactly(_BLOCK), b""
        if not any(block):
            self._drain()
            return None
        header = _parse_header(block)
        if header is None:
            raise TarError("damaged: the checksum of a member's header is wrong")
        return header

    def extended(self, size: int) -> bytes:
        if size > _MAX_EXTENDED_HEADER:
            raise TarError(f"damaged: an extended header of {size} bytes")
        return self.content(size)

    def content(self, size: int) -> bytes:
        return self._exactly(size + -size % _BLOCK)[:size]

    def skip(self, size: int) -> None:
        size += -size % _BLOCK
        while size:
            size -= len(self._exactly(min(size, _CHUNK)))

    def _drain(self) -> None:
        while self._upto(_CHUNK):
            pass

    def _exactly(self, size: int) -> bytes:
        data = self._upto(size)
        if len(data) < size:
            raise TarError("cut short")
        return data

    def _upto(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        pieces = []
        while size:
            try:
                piece = self._read(min(size, _CHUNK))
            except (zlib.error, EOFError, gzip.BadGzipFile) as error:
                raise TarError("cut short or damaged: its gzip stream is broken") from error
            if not piece:
                break
            self._room -= len(piece)
            if self._room < 0:
                raise TarError(f"larger than the {self._max_bytes / 2**20:g} MiB allowed")
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)


class _Rejoined:
    """Read a stream from its start again after its first bytes were read."""

    def __init__(self, start: bytes, read: Callable[[int], bytes]) -> None:
        self._start = start
        self._read = read

    def read(self, size: int) -> bytes:
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._read(size)


def _parse_header(block: bytes) -> _Header | None:
    """Parse a POSIX or GNU header (IEEE Std 1003.1, pax, ustar format); None if it is no header."""
    if len(block) < _BLOCK:
        return None
    try:
        checksum = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        return None
    if checksum != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]) or size < 0:
        return None
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    kind = block[156:157]
    if kind == b"\0" and name.endswith("/"):
        kind = _FOLDER
    return _Header(name, kind, size)


def _number(field: bytes) -> int:
    """Parse an octal number, or one in base 256, which GNU marks by the first bit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _extended_name(kind: bytes, content: bytes) -> str:
    if kind == _GNU_NAME:
        return _text(content)
    if kind != _PAX:
        return ""
    while content:
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            raise TarError("damaged: the length in an extended header is wrong")
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key == b"path":
            return _text(value)
        content = content[int(length) :]
    return ""


def _refusal(name: str, kind: bytes, size: int, max_bytes: int) -> str | None:
    if kind in _KINDS:
        return f"{_KINDS[kind]}, not a file"
    if kind not in (*(bytes([k]) for k in _REGULAR), _FOLDER):
        return f"a member of unknown type {kind!r}"
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        return "its name leads out of the package"
    if not name.isprintable():
        return "its name has control characters"
    if size > max_bytes:
        return f"{size} bytes, more than ingest.max_file_mb allows"
    return None
