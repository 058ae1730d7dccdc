"""Read and publish the files of a workspace, a folder or bucket prefix."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe.errors import RaypipeError, UsageError
from raypipe.store.layout import mend_of
from raypipe.store.parquet import (
    DamagedError,
    open_checked,
    read_checked,
    require_plain,
    sealed,
    write_options,
)
from raypipe.store.s3 import S3_ERRORS, open_filesystem, put_if_absent, upload

_DRAFT = ".tmp"
_LOOKS = 10
"""Number of times a folder that appears while it is listed is listed again, at most."""
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")


def check_name(name: str, what: str) -> str:
    """Return the name of a release or model; raises UsageError if it cannot name a folder."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} {name!r}: expected letters, digits, '.', '_' and '-', beginning with a letter "
            "or digit"
        )
    return name


class MissingFileError(RaypipeError):
    """Report that the workspace has no file of that name."""


class Footer(NamedTuple):
    """Hold the number of rows of a Parquet file and its key-value metadata, from its footer."""

    rows: int
    metadata: dict[str, str]


class Workspace:
    """Read and publish the files of a workspace by names relative to its root.

    Every write is one atomic step (a rename on a local disk, one put on S3), so that a reader sees
    a complete file or none.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(uri)
        self.fs, self.root = open_filesystem(self.uri)

    def __repr__(self) -> str:
        return f"Workspace({self.uri!r})"

    def __reduce__(self) -> tuple[type[Workspace], tuple[str]]:
        return Workspace, (self.absolute_uri(),)

    @property
    def is_local(self) -> bool:
        """Return whether the workspace is on a local disk."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        """Return the path of a file in the form that the file system expects."""
        if ".." in name.split("/"):
            raise UsageError(f"{name}: leads out of the workspace")
        return f"{self.root}/{name}" if name else self.root

    def absolute_uri(self, name: str = "") -> str:
        """Return the URI of a file, which names the same file on every machine that can read it."""
        return self.path(name) if self.is_local else f"s3://{self.path(name)}"

    def exists(self, name: str) -> bool:
        """Return whether a file or folder of that name exists."""
        return bool(self._look(self.path(name)).type != pafs.FileType.NotFound)

    def is_file(self, name: str) -> bool:
        """Return whether a file, not a folder, of that name exists."""
        return bool(self._look(self.path(name)).type == pafs.FileType.File)

    def modified(self, name: str) -> float:
        """Return when a file was last written, in seconds since 1970, or 0 if it does not exist."""
        return float((self._look(self.path(name)).mtime_ns or 0) / 1e9)

    def files(self, folder: str, suffix: str = "") -> list[str]:
        """List the published files directly in `folder`, sorted; [] if it does not exist."""
        names = (info.base_name for info in self._list(folder) if info.type == pafs.FileType.File)
        return sorted(
            f"{folder}/{name}"
            for name in names
            if name.endswith(suffix) and not name.startswith(".")
        )

    def folders(self, folder: str) -> list[str]:
        """List the folders directly in `folder`, sorted; [] if it does not exist."""
        infos = self._list(folder)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def read_bytes(self, name: str) -> bytes:
        """Read a file; raises RaypipeError if it does not exist."""
        try:
            with self.fs.open_input_stream(self.path(name), compression=None) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise self._unreadable(self.path(name), error) from error

    def write_bytes(self, name: str, *pieces: bytes | pa.Buffer) -> None:
        """Publish `pieces`, joined, as a file in one step; it replaces a file of that name.

        Raises RaypipeError if the workspace cannot be written (full, read-only, removed). The name
        never refers to an incomplete file.
        """
        target = self.path(name)
        try:
            if not self.is_local:
                with self.fs.open_output_stream(target, compression=None) as stream:
                    for piece in pieces:
                        stream.write(piece)
                return
            folder, base = target.rsplit("/", 1)
            self.fs.create_dir(folder, recursive=True)
            draft = _draft_name(folder, base)
            try:
                with self.fs.open_output_stream(draft, compression=None) as stream:
                    for piece in pieces:
                        stream.write(piece)
                self.fs.move(draft, target)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._unwritable(name, error) from error

    def take_file(self, path: Path, name: str) -> None:
        """Publish a local file in one step; it replaces a file of that name.

        The file is moved into a local workspace, which must be on the same disk, and copied into a
        bucket. Raises RaypipeError if the workspace cannot be written.
        """
        target = self.path(name)
        try:
            if self.is_local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                return
            upload(str(path), target)
        except (OSError, *S3_ERRORS) as error:
            raise self._unwritable(name, error) from error

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Publish a file in one step unless the name is taken; returns whether it was published.

        If several processes try at once, exactly one succeeds. Raises RaypipeError if the workspace
        cannot be written.
        """
        target = self.path(name)
        try:
            if not self.is_local:
                return put_if_absent(target, data)
            folder, base = target.rsplit("/", 1)
            draft = Path(_draft_name(folder, base))
            draft.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_bytes(data)
                os.link(draft, target)
            except FileExistsError:
                return False
            finally:
                draft.unlink(missing_ok=True)
        except (OSError, *S3_ERRORS) as error:
            raise self._unwritable(name, error) from error
        return True

    def create_json(self, name: str, value: Any) -> bool:
        """Publish a JSON file unless the name is taken; returns whether it was published."""
        return self.create_bytes(name, (json.dumps(value, indent=2) + "\n").encode())

    def remove_drafts(self, folders: Sequence[str]) -> None:
        """Remove incomplete files that killed processes have left in these folders, at any depth.

        Call this only if no other run writes there. A bucket has no incomplete files.
        """
        if not self.is_local:
            return
        for folder in folders:
            for draft in Path(self.path(folder)).rglob(f".*{_DRAFT}"):
                draft.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        if self.exists(name):
            self.fs.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Remove a folder and its contents if it exists."""
        if self.exists(name):
            self.fs.delete_dir(self.path(name))

    def read_json(self, name: str) -> Any:
        """Read a JSON file; raises RaypipeError if it does not exist or is truncated."""
        try:
            return json.loads(self.read_bytes(name))
        except (ValueError, RecursionError) as error:
            raise RaypipeError(
                f"{self.absolute_uri(name)}: not a complete JSON file ({error}); {mend_of(name)}"
            ) from error

    def read_object(self, name: str, fields: Mapping[str, type | UnionType]) -> dict[str, Any]:
        """Read a JSON file that is an object with at least these fields, of these types.

        Raises RaypipeError if the file does not exist or is not such an object.
        """
        value = self.read_json(name)
        if not isinstance(value, dict):
            raise self.unexpected(name, "not a JSON object")
        for field, kind in fields.items():
            if not isinstance(value.get(field), kind) or isinstance(value[field], bool):
                raise self.unexpected(name, f"its field {field} is missing or has the wrong type")
        return value

    def unexpected(self, name: str, problem: str) -> RaypipeError:
        """Return the error for a file whose content is not what raypipe writes."""
        return RaypipeError(f"{self.absolute_uri(name)}: {problem}; {mend_of(name)}")

    def write_json(self, name: str, value: Any) -> None:
        """Publish a JSON file."""
        self.write_bytes(name, (json.dumps(value, indent=2) + "\n").encode())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file; if `columns` are given, read those of them that it has.

        Like the six methods that follow, raises RaypipeError if the file does not exist or is
        damaged.
        """
        with self._parquet(name) as file:
            return read_checked(file, columns)

    def locate_row(self, name: str, row: int) -> tuple[int, int]:
        """Return the row group of a Parquet file that has a row, and the row's place in it."""
        with self._parquet(name) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row < rows:
                    return group, row
                row -= rows
        raise IndexError(f"{self.absolute_uri(name)}: there are {row} rows fewer")

    def read_row_group(self, name: str, group: int, columns: list[str]) -> pa.Table:
        """Read those of the columns that the file has, in one of its row groups."""
        with self._parquet(name) as file:
            known = [column for column in columns if column in file.schema_arrow.names]
            table = file.read_row_group(group, columns=known)
            if table.num_rows != file.metadata.row_group(group).num_rows:
                raise DamagedError(f"only {table.num_rows} rows of row group {group} could be read")
            return table

    def read_schema(self, name: str) -> pa.Schema:
        """Read the names and types of the columns of a Parquet file from its footer."""
        with self._parquet(name) as file:
            return file.schema_arrow

    def read_metadata(self, name: str) -> dict[str, str]:
        """Read the key-value metadata of a Parquet file from its footer."""
        return _as_text(self.read_schema(name).metadata)

    def count_rows(self, name: str) -> int:
        """Read the number of rows of a Parquet file from its footer."""
        with self._parquet(name) as file:
            return int(file.metadata.num_rows)

    def read_footer(self, name: str) -> Footer | None:
        """Read the number of rows and the metadata of a Parquet file; None if it does not exist."""
        try:
            with self._parquet(name) as file:
                return Footer(int(file.metadata.num_rows), _as_text(file.metadata.metadata))
        except MissingFileError:
            return None

    def read_folder(self, folder: str, columns: list[str] | None = None) -> pa.Table:
        """Read all Parquet files in `folder`, in order of their names, into one table.

        The table has every column that any of the files has. Raises RaypipeError if there is no
        Parquet file.
        """
        names = self.files(folder, ".parquet")
        if not names:
            raise RaypipeError(f"{self.absolute_uri(folder)}: contains no Parquet files")
        tables = [self.read_table(name, columns) for name in names]
        return pa.concat_tables(tables, promote_options="permissive")

    def write_table(
        self, name: str, table: pa.Table, metadata: dict[str, str] | None = None
    ) -> None:
        """Publish a table as a Parquet file; `metadata` is added to that of its schema."""
        self.write_tables(name, [table], metadata)

    def write_tables(
        self, name: str, tables: Iterable[pa.Table], metadata: dict[str, str] | None = None
    ) -> None:
        """Publish the rows of one or more tables with the same columns as one Parquet file.

        Only one table of an iterator is in memory at a time. `metadata` is that of `write_table`.
        """
        remaining = iter(tables)
        first = next(remaining)
        given = {key.encode(): value.encode() for key, value in (metadata or {}).items()}
        schema = first.schema.with_metadata({**(first.schema.metadata or {}), **given} or None)
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, **write_options(schema)) as writer:
            for table in chain([first], remaining):
                writer.write_table(table.replace_schema_metadata(schema.metadata))
        self.write_bytes(name, *sealed(sink.getvalue()))

    def _list(self, folder: str) -> list[Any]:
        """List a folder's entries; [] if it does not exist."""
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        for _ in range(_LOOKS - 1):
            try:
                return list(self._look(selector))
            except MissingFileError:
                # Arrow found no folder, asked whether it exists, and another process had created it
                # in between: look again.
                continue
        return list(self._look(selector))

    def _look(self, what: str | pafs.FileSelector) -> Any:
        """Look a path or folder up; raises RaypipeError if the file system or bucket fails."""
        try:
            return self.fs.get_file_info(what)
        except OSError as error:
            path = what if isinstance(what, str) else what.base_dir
            raise self._unreadable(path, error) from error

    def _unreadable(self, path: str, error: OSError) -> RaypipeError:
        uri = path if self.is_local else f"s3://{path}"
        if isinstance(error, FileNotFoundError):
            return MissingFileError(f"{uri}: no such file")
        return RaypipeError(f"{uri}: cannot be read ({error})")

    def _unwritable(self, name: str, error: Exception) -> RaypipeError:
        return RaypipeError(
            f"{self.absolute_uri(name)}: cannot be written ({error}); "
            "free space or choose another workspace, and then run the same command again"
        )

    @contextmanager
    def _parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file for the block; raises RaypipeError if reading finds it damaged."""
        try:
            with self.fs.open_input_file(self.path(name)) as stream, open_checked(stream) as file:
                require_plain(file.schema_arrow, self.absolute_uri(name))
                yield file
        except OSError as error:
            # Arrow raises OSError with an errno for errors of the operating system, and without
            # one for damaged pages and failures of S3.
            if error.errno is not None:
                raise self._unreadable(self.path(name), error) from error
            raise self._damaged(name, error) from error
        except (DamagedError, pa.ArrowException) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> RaypipeError:
        if "AWS Error" in str(error):
            return RaypipeError(f"{self.absolute_uri(name)}: cannot be read ({error})")
        return RaypipeError(
            f"{self.absolute_uri(name)}: damaged, or not a complete Parquet file ({error}); "
            f"{mend_of(name)}"
        )


def _as_text(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def _draft_name(folder: str, base: str) -> str:
    return f"{folder}/.{base}.{secrets.token_hex(4)}{_DRAFT}"
