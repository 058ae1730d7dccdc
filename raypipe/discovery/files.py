"""The files of a folder or bucket, one by one: a release has millions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from raypipe.errors import RaypipeError
from raypipe.s3 import S3_ERRORS, s3_client
from raypipe.workspace import Workspace

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class File(NamedTuple):
    """A file's name relative to the folder that was listed, and "size@time" with the time in ns."""

    name: str
    stamp: str


def list_files(folder: Workspace) -> Iterator[File]:
    """The files in a folder and its subfolders, but hidden ones, in no order.

    RaypipeError where the disk or the store does not give them.
    """
    files = _files_on_disk(folder) if folder.is_local else _files_in_bucket(folder)
    return (file for file in files if not file.name.rsplit("/", 1)[-1].startswith("."))


def _files_on_disk(folder: Workspace) -> Iterator[File]:
    pending = [""]
    try:
        while pending:
            parent = pending.pop()
            with os.scandir(f"{folder.root}/{parent}") as entries:
                for entry in entries:
                    if entry.is_dir():
                        pending.append(f"{parent}{entry.name}/")
                    elif (status := _status(entry)) is not None:
                        stamp = f"{status.st_size}@{status.st_mtime_ns}"
                        yield File(_utf8(folder, parent + entry.name), stamp)
    except OSError as error:
        raise RaypipeError(f"{folder.absolute_uri()}: cannot be read ({error})") from error


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of a file; None where it is something else, or gone since it was listed."""
    try:
        return entry.stat() if entry.is_file() else None
    except FileNotFoundError:
        return None


def _utf8(folder: Workspace, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        spelled = folder.absolute_uri(name).encode(errors="backslashreplace").decode()
        raise RaypipeError(f"{spelled}: a name that is not UTF-8; rename the file") from error
    return name


def _files_in_bucket(folder: Workspace) -> Iterator[File]:
    bucket, _, path = folder.root.partition("/")
    prefix = f"{path}/" if path else ""
    try:
        listing = s3_client().get_paginator("list_objects_v2")
        for page in listing.paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    time_ns = (entry["LastModified"] - _EPOCH) // timedelta(microseconds=1) * 1000
                    yield File(entry["Key"].removeprefix(prefix), f"{entry['Size']}@{time_ns}")
    except S3_ERRORS as error:
        raise RaypipeError(f"{folder.absolute_uri()}: cannot be read ({error})") from error
