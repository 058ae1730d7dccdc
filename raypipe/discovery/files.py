"""List the files of a folder or bucket one by one, since a release has millions."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from raypipe.errors import RaypipeError
from raypipe.redaction import printable
from raypipe.store.s3 import S3_ERRORS, s3_client
from raypipe.store.workspace import Workspace

UNSEEN = "unseen"
"""Stamp of a file whose size and time are unknown, such as a link that leads nowhere."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class File(NamedTuple):
    """Name a file relative to the folder that was listed, with its stamp.

    The stamp is "size@time", with the time in ns, or `UNSEEN`.
    """

    name: str
    stamp: str


class Skipped(NamedTuple):
    """Name a folder that is not searched or a file that no manifest can name, and the reason.

    `name` is relative to the folder that was listed, escaped where it is not UTF-8.
    """

    name: str
    reason: str
    is_folder: bool


def list_files(folder: Workspace, skipped: list[Skipped] | None = None) -> Iterator[File]:
    """List the files of a folder and its subfolders, in any order; append the others to `skipped`.

    Hidden files and folders (`.git`) are not listed. A link that leads nowhere is listed as
    `UNSEEN`. A subfolder that cannot be read, a link to a folder that is listed already, a pipe, a
    socket or a device, and a name that is not UTF-8 or contains ".." go to `skipped`. Raises
    RaypipeError if the folder itself cannot be read.
    """
    left_out = [] if skipped is None else skipped
    return (_files_on_disk if folder.is_local else _files_in_bucket)(folder, left_out)


def _files_on_disk(folder: Workspace, skipped: list[Skipped]) -> Iterator[File]:
    """Search real folders before linked ones, so that a file keeps its real name."""
    searched: set[tuple[int, int]] = set()
    real, linked = [""], list[str]()
    while real or linked:
        parent = real.pop() if real else heapq.heappop(linked)
        if not _is_new(folder, parent, searched, skipped):
            continue
        for entry in _entries(folder, parent, skipped):
            name = parent + entry.name
            status = _status(entry)
            if status is None:
                continue
            is_folder = isinstance(status, os.stat_result) and stat.S_ISDIR(status.st_mode)
            if reason := _unfit(entry.name, is_folder):
                skipped.append(Skipped(_spelled(name), reason, is_folder))
            elif is_folder and entry.is_symlink():
                heapq.heappush(linked, f"{name}/")
            elif is_folder:
                real.append(f"{name}/")
            elif isinstance(status, str):
                yield File(name, status)
            elif entry.name.startswith("."):
                continue
            elif not stat.S_ISREG(status.st_mode):
                skipped.append(Skipped(name, "not a regular file", is_folder=False))
            else:
                yield File(name, f"{status.st_size}@{status.st_mtime_ns}")


def _is_new(
    folder: Workspace, parent: str, searched: set[tuple[int, int]], skipped: list[Skipped]
) -> bool:
    """Tell whether a folder can be read and was not searched under another name."""
    try:
        status = Path(f"{folder.root}/{parent}").stat()
    except OSError as error:
        _leave_out(folder, parent, error, skipped)
        return False
    identity = status.st_dev, status.st_ino
    if identity in searched:
        reason = "a link to a folder that is listed already"
        skipped.append(Skipped(parent.rstrip("/"), reason, is_folder=True))
        return False
    searched.add(identity)
    return True


def _entries(folder: Workspace, parent: str, skipped: list[Skipped]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(f"{folder.root}/{parent}") as entries:
            yield from entries
    except OSError as error:
        _leave_out(folder, parent, error, skipped)


def _leave_out(folder: Workspace, parent: str, error: OSError, skipped: list[Skipped]) -> None:
    if not parent:
        raise RaypipeError(f"{folder.absolute_uri()}: cannot be read ({error})") from error
    reason = f"cannot be read ({error.strerror or error})"
    skipped.append(Skipped(parent.rstrip("/"), reason, is_folder=True))


def _status(entry: os.DirEntry[str]) -> os.stat_result | str | None:
    """Return the status of an entry's target, `UNSEEN`, or None if it is gone or hidden."""
    try:
        return entry.stat()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError) and not entry.is_symlink()
        return None if gone or entry.name.startswith(".") else UNSEEN


def _unfit(name: str, is_folder: bool) -> str | None:
    """Return the reason why an entry is left out, None for one to list."""
    if is_folder and name.startswith("."):
        return "a hidden folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"a name that is not UTF-8: rename the {'folder' if is_folder else 'file'}"
    return None


def _spelled(name: str) -> str:
    """Return a name with the bytes escaped that are not UTF-8."""
    return printable(os.fsencode(name).decode(errors="backslashreplace"))


def _files_in_bucket(folder: Workspace, skipped: list[Skipped]) -> Iterator[File]:
    bucket, _, path = folder.root.partition("/")
    prefix = f"{path}/" if path else ""
    hidden: set[str] = set()
    try:
        listing = s3_client().get_paginator("list_objects_v2")
        for page in listing.paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(prefix)
                *parents, base = name.split("/")
                if (at := _first_hidden(parents)) is not None:
                    hidden.add("/".join(parents[: at + 1]))
                elif ".." in parents or base == "..":
                    reason = "a name that leads out of the folder: rename the object"
                    skipped.append(Skipped(name, reason, is_folder=False))
                elif base and not base.startswith("."):
                    time_ns = (entry["LastModified"] - _EPOCH) // timedelta(microseconds=1) * 1000
                    yield File(name, f"{entry['Size']}@{time_ns}")
    except S3_ERRORS as error:
        raise RaypipeError(f"{folder.absolute_uri()}: cannot be read ({error})") from error
    skipped += [Skipped(name, "a hidden folder", is_folder=True) for name in sorted(hidden)]


def _first_hidden(parents: list[str]) -> int | None:
    hidden = (at for at, name in enumerate(parents) if name.startswith(".") and name != "..")
    return next(hidden, None)
