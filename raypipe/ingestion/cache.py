"""Cache fetched files in a folder of limited size, shared by the processes of a machine."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
from pathlib import Path

log = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size
_FREED_SHARE = 0.1
"""Fraction of the folder's size that is freed at once when it is full."""
_LOOK_SHARE = 0.05
"""Fraction of the folder's size that a process writes before it counts the files of others."""


class Cache:
    """Store contents by URI. Each file holds the SHA-256 of its content, then the content.

    A damaged file counts as absent. When the folder is full, the files that were not used for the
    longest time are removed. Errors of the disk are logged and otherwise ignored: the file is
    fetched again.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self._folder = Path(folder).expanduser()
        self._max_bytes = max_bytes
        self._unseen = max_bytes
        self._lock = threading.Lock()

    def __contains__(self, uri: str) -> bool:
        return self._path(uri).exists()

    def get(self, uri: str) -> bytes | None:
        """Return the cached content of a URI, None if there is none."""
        path = self._path(uri)
        try:
            data = path.read_bytes()
            content = data[_DIGEST_BYTES:]
            if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.debug("cache: %s cannot be read (%s)", path, error)
            return None
        return content

    def put(self, uri: str, content: bytes) -> None:
        """Store the content of a URI, atomically, unless it exceeds a tenth of the cache."""
        size = len(content) + _DIGEST_BYTES
        if size > self._max_bytes * _FREED_SHARE:
            return
        self._make_room(size)
        path = self._path(uri)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_bytes(hashlib.sha256(content).digest() + content)
                draft.replace(path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        except OSError as error:
            log.debug("cache: %s cannot be written (%s)", path, error)

    def _path(self, uri: str) -> Path:
        name = hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / name[:2] / name

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._unseen += size
            if self._unseen < self._max_bytes * _LOOK_SHARE:
                return
            self._unseen = 0
            files = sorted(self._files())
            total = sum(length for _, length, _ in files) + size
            if total <= self._max_bytes * (1 - _FREED_SHARE):
                return
            for _, length, path in files:
                if total <= self._max_bytes * (1 - 2 * _FREED_SHARE):
                    break
                path.unlink(missing_ok=True)
                total -= length

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self._folder.glob("??/*"):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found
