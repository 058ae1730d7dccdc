"""Divide rows into shares by a hash, on disk if needed, so that one share fits in memory."""

from __future__ import annotations

import itertools
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raypipe.errors import RaypipeError
from raypipe.store.layout import manifest_folder
from raypipe.store.workspace import Workspace

BUCKETS = 64
"""Largest number of shares that rows can be divided into."""

MEMORY = 64 << 20
"""Number of bytes of rows that are kept in memory before they are written to disk."""

_DRAFT = ".draft-"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


@contextmanager
def scratch_folder(workspace: Workspace, release: str) -> Iterator[Path]:
    """Yield the name of a local folder for temporary files; the folder is removed after the block.

    The folder does not exist yet: create it before you write to it. It lies beside the manifest if
    the workspace is on a local disk, otherwise in the machine's temporary folder (TMPDIR).
    """
    if workspace.is_local:
        home = Path(workspace.path(manifest_folder(release)))
    else:
        home = Path(tempfile.gettempdir())
    folder = home / f"{_DRAFT}{secrets.token_hex(4)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(workspace: Workspace, release: str) -> None:
    """Remove scratch folders that killed runs have left beside a manifest."""
    if workspace.is_local:
        for folder in Path(workspace.path(manifest_folder(release))).glob(f"{_DRAFT}*"):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Run:
    """Hold rows of one schema by bucket; bucket b extends from `ends[b - 1]` to `ends[b]`."""

    rows: pa.Table
    ends: np.ndarray

    def bucket(self, number: int) -> pa.Table:
        start = int(self.ends[number - 1]) if number else 0
        return self.rows.slice(start, int(self.ends[number]) - start)


@dataclass(frozen=True)
class _RunFile:
    """Keep a run on disk: an Arrow file with one record batch per bucket."""

    path: Path

    def bucket(self, number: int) -> pa.Table:
        with _explained(self.path, "read"), pa.OSFile(str(self.path)) as file:
            return pa.Table.from_batches([pa.ipc.open_file(file).get_batch(number)])


class HashPartitioner:
    """Collect tables with a hash per row, and return the rows in shares by hash.

    Up to `memory` bytes stay in memory; more are written to files in `folder`. Raises RaypipeError
    if these cannot be written or read.
    """

    def __init__(self, folder: Path, memory: int = MEMORY) -> None:
        self._folder = folder
        self._memory = memory
        self._held: list[tuple[pa.Table, np.ndarray]] = []
        self._bytes = 0
        self._files: list[_RunFile] = []
        self._numbers = itertools.count()

    def add(self, rows: pa.Table, hashes: np.ndarray) -> None:
        """Add rows; `hashes` are unsigned integers, one per row."""
        self._held.append((rows, hashes))
        self._bytes += rows.nbytes
        if self._bytes > self._memory:
            self._files += [self._write(run) for run in self._runs()]
            self._held, self._bytes = [], 0

    def shares(self, count: int) -> Iterator[list[pa.Table]]:
        """Yield the rows with hash % count == i for each i below `count`.

        `count` is a power of two up to BUCKETS. Rows with equal hash keep the order in which they
        were added.
        """
        # `count` divides BUCKETS: hash % count == i for the buckets i, i + count, i + 2 count, ...
        runs: list[_Run | _RunFile] = [*self._files, *self._runs()]
        for share in range(count):
            yield [run.bucket(b) for run in runs for b in range(share, BUCKETS, count)]

    def _runs(self) -> Iterator[_Run]:
        for _, alike in itertools.groupby(self._held, key=lambda held: held[0].schema):
            tables, hashes = zip(*alike, strict=True)
            buckets = np.concatenate(hashes) % BUCKETS
            rows = pa.concat_tables(tables).take(np.argsort(buckets, kind="stable"))
            counts = np.bincount(buckets.astype(np.int64), minlength=BUCKETS)
            yield _Run(rows, np.cumsum(counts))

    def _write(self, run: _Run) -> _RunFile:
        path = self._folder / f"{next(self._numbers)}.arrow"
        with _explained(path, "written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            schema = run.rows.schema
            with pa.ipc.new_file(str(path), schema, options=_OPTIONS) as file:
                for number in range(BUCKETS):
                    batches = run.bucket(number).combine_chunks().to_batches()
                    file.write_batch(*batches or [pa.RecordBatch.from_pylist([], schema)])
        return _RunFile(path)


@contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RaypipeError(f"{path}: cannot be {done} ({error})") from error
