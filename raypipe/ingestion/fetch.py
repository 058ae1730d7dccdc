"""File contents by URI, bounded in size."""

from __future__ import annotations

from functools import lru_cache

import pyarrow.fs as pafs

from raypipe.errors import RaypipeError
from raypipe.workspace import open_filesystem


class FetchError(RaypipeError):
    """A file that could not be had; `retryable` where another try may succeed."""

    def __init__(self, uri: str, problem: str, *, retryable: bool) -> None:
        super().__init__(f"{uri}: {problem}")
        self.problem = problem
        self.retryable = retryable


def fetch(uri: str, max_bytes: int) -> bytes:
    """Contents of a local file or s3:// object of at most `max_bytes`; FetchError otherwise."""
    scheme = "s3" if uri.startswith("s3://") else "file"
    filesystem = _filesystem(scheme)
    path = uri.removeprefix("s3://").removeprefix("file://")
    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise FetchError(uri, "no such file", retryable=False)
        if info.type != pafs.FileType.File:
            raise FetchError(uri, "not a file", retryable=False)
        if info.size > max_bytes:
            raise FetchError(
                uri, f"{info.size} bytes, more than ingest.max_file_mb allows", retryable=False
            )
        with filesystem.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read(max_bytes))
    except PermissionError as error:
        raise FetchError(uri, "no permission to read it", retryable=False) from error
    except OSError as error:
        raise FetchError(uri, f"cannot be read ({error})", retryable=True) from error


@lru_cache(maxsize=2)
def _filesystem(scheme: str) -> pafs.FileSystem:
    return open_filesystem("s3://" if scheme == "s3" else "/")[0]
