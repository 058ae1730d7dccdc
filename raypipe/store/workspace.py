"""A workspace: the folder or bucket prefix that holds everything a release becomes."""

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
from raypipe.redaction import redact, redact_text
from raypipe.store.layout import (
    mend_of,
)
from raypipe.store.parquet import (
    DamagedError,
    open_checked,
    read_checked,
    require_plain,
    sealed,
    write_options,
)
from raypipe.store.s3 import S3_ERRORS, put_if_absent, upload

_DRAFT = ".tmp"
_LOST_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/(?!/)")
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")


def check_name(name: str, what: str) -> str:
    """Return the name of a release or model if it can be a folder's, else raise UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} {name!r}: expected letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


def open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system that serves `uri` (a local path or s3://...) and the path in it.

    For S3, credentials and region come from the usual AWS places, the endpoint from
    `AWS_ENDPOINT_URL` where it is set. Other schemes raise UsageError.
    """
    if uri.startswith("s3://"):
        if "@" in uri.removeprefix("s3://").partition("/")[0]:
            raise UsageError(
                f"{redact(uri)}: credentials do not belong into a URI; give them in the usual AWS "
                "places (environment, profile, role)"
            )
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {"endpoint_override": endpoint} if endpoint else {}
        if region := os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION")):
            options["region"] = region
        return pafs.S3FileSystem(**options), uri.removeprefix("s3://").rstrip("/")
    if _LOST_SLASH.match(uri):
        raise UsageError(f"{redact_text(uri)}: an address has two slashes behind its colon")
    if "://" in uri and not uri.startswith("file://"):
        raise UsageError(f"{redact(uri)}: only local paths and s3:// are understood")
    return pafs.LocalFileSystem(), str(Path(uri.removeprefix("file://")).expanduser().absolute())


class MissingFileError(RaypipeError):
    """A file of the workspace that is not there."""


class Footer(NamedTuple):
    """What the end of a Parquet file says of it."""

    rows: int
    metadata: dict[str, str]


class Workspace:
    """Reads and publishes a workspace's files by names relative to its root.

    Every write is one atomic step (a rename on a local disk, one put on S3): a reader sees a whole
    file or none.
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
        """Whether the workspace is on a local disk."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        """Path of a file in the workspace, as its file system wants it."""
        if ".." in name.split("/"):
            raise UsageError(f"{name}: leads out of the workspace")
        return f"{self.root}/{name}" if name else self.root

    def absolute_uri(self, name: str = "") -> str:
        """URI of a file in the workspace that means the same on every machine that sees it."""
        return self.path(name) if self.is_local else f"s3://{self.path(name)}"

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        return bool(self._look(self.path(name)).type != pafs.FileType.NotFound)

    def is_file(self, name: str) -> bool:
        """Whether a file of that name is there, and no folder."""
        return bool(self._look(self.path(name)).type == pafs.FileType.File)

    def modified(self, name: str) -> float:
        """When a file was last written, seconds since 1970; 0 where it is absent."""
        return float((self._look(self.path(name)).mtime_ns or 0) / 1e9)

    def files(self, folder: str, suffix: str = "") -> list[str]:
        """Names of the published files directly in `folder`, sorted; [] where it is absent."""
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        names = (info.base_name for info in self._look(selector) if info.type == pafs.FileType.File)
        return sorted(
            f"{folder}/{name}"
            for name in names
            if name.endswith(suffix) and not name.startswith(".")
        )

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted; [] where it is absent."""
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        infos = self._look(selector)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def read_bytes(self, name: str) -> bytes:
        """Contents of a file; RaypipeError where it is absent."""
        try:
            with self.fs.open_input_stream(self.path(name), compression=None) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise self._unreadable(self.path(name), error) from error

    def write_bytes(self, name: str, *pieces: bytes | pa.Buffer) -> None:
        """Publish a file made of `pieces`, one after another, in one step, replacing any such.

        Raises RaypipeError where the workspace cannot be written (full, read-only, gone); nothing
        half-written stays under the name.
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
        """Publish a local file in one step, replacing any of that name; it is moved or copied.

        On a local workspace it must be on the same disk. Raises RaypipeError where the workspace
        cannot be written.
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
        """Publish a file in one step unless one of that name is there; whether it was published.

        Of several who try at once one succeeds. Raises RaypipeError where the workspace cannot be
        written.
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
        """Publish a JSON file unless one of that name is there; whether it was published."""
        return self.create_bytes(name, (json.dumps(value, indent=2) + "\n").encode())

    def remove_drafts(self, folders: Sequence[str]) -> None:
        """Remove what killed processes left half written anywhere in these folders.

        For a run that is the only one to write there. A bucket has no drafts: a put is whole, or
        nothing.
        """
        if not self.is_local:
            return
        for folder in folders:
            for draft in Path(self.path(folder)).rglob(f".*{_DRAFT}"):
                draft.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file where it is there."""
        if self.exists(name):
            self.fs.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Remove a folder and all that is in it, if it is there."""
        if self.exists(name):
            self.fs.delete_dir(self.path(name))

    def read_json(self, name: str) -> Any:
        """Contents of a JSON file; RaypipeError where it is absent or cut short."""
        try:
            return json.loads(self.read_bytes(name))
        except (ValueError, RecursionError) as error:
            raise RaypipeError(
                f"{self.absolute_uri(name)}: not a whole JSON file ({error}); {mend_of(name)}"
            ) from error

    def read_object(self, name: str, fields: Mapping[str, type | UnionType]) -> dict[str, Any]:
        """Contents of a JSON file that is an object with at least these fields, of these types.

        Raises RaypipeError where it is absent, cut short, or anything else.
        """
        value = self.read_json(name)
        if not isinstance(value, dict):
            raise self.unexpected(name, "no JSON object")
        for field, kind in fields.items():
            if not isinstance(value.get(field), kind) or isinstance(value[field], bool):
                raise self.unexpected(name, f"its field {field} is not as raypipe writes it")
        return value

    def unexpected(self, name: str, problem: str) -> RaypipeError:
        """The error about a file whose content is not what raypipe writes, with the mend."""
        return RaypipeError(f"{self.absolute_uri(name)}: {problem}; {mend_of(name)}")

    def write_json(self, name: str, value: Any) -> None:
        """Publish a JSON file."""
        self.write_bytes(name, (json.dumps(value, indent=2) + "\n").encode())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Rows of a Parquet file; only those of `columns` that it has where given.

        Raises RaypipeError where the file is absent or damaged, as the four readers below do.
        """
        with self._parquet(name) as file:
            return read_checked(file, columns)

    def read_schema(self, name: str) -> pa.Schema:
        """Columns of a Parquet file and their types, read from its footer alone."""
        with self._parquet(name) as file:
            return file.schema_arrow

    def read_metadata(self, name: str) -> dict[str, str]:
        """Key-value metadata of a Parquet file, read from its footer alone."""
        return _as_text(self.read_schema(name).metadata)

    def count_rows(self, name: str) -> int:
        """Number of rows of a Parquet file, read from its footer alone."""
        with self._parquet(name) as file:
            return int(file.metadata.num_rows)

    def read_footer(self, name: str) -> Footer | None:
        """Number of rows and metadata of a Parquet file in one look, None where it is absent."""
        try:
            with self._parquet(name) as file:
                return Footer(int(file.metadata.num_rows), _as_text(file.metadata.metadata))
        except MissingFileError:
            return None

    def read_folder(self, folder: str, columns: list[str] | None = None) -> pa.Table:
        """Rows of all Parquet files in `folder` in order of name, columns united by name.

        Raises RaypipeError where there is none.
        """
        names = self.files(folder, ".parquet")
        if not names:
            raise RaypipeError(f"{self.absolute_uri(folder)}: no Parquet files there")
        tables = [self.read_table(name, columns) for name in names]
        return pa.concat_tables(tables, promote_options="permissive")

    def write_table(
        self, name: str, table: pa.Table, metadata: dict[str, str] | None = None
    ) -> None:
        """Publish a table as a Parquet file, with `metadata` beside what its schema carries."""
        self.write_tables(name, [table], metadata)

    def write_tables(
        self, name: str, tables: Iterable[pa.Table], metadata: dict[str, str] | None = None
    ) -> None:
        """Publish one or more tables of the same columns, one below the other, as `write_table`.

        Of an iterator that makes them one is in memory at a time.
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

    def _look(self, what: str | pafs.FileSelector) -> Any:
        """What is at a path or in a folder; RaypipeError where the store does not answer."""
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
            "make room or choose another workspace, then run the same command again"
        )

    @contextmanager
    def _parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file, open for the block; RaypipeError where that finds it damaged."""
        try:
            with self.fs.open_input_file(self.path(name)) as stream, open_checked(stream) as file:
                require_plain(file.schema_arrow, self.absolute_uri(name))
                yield file
        except OSError as error:
            # Arrow raises OSError for what the operating system says, with its number, and for
            # damaged pages and failures of S3, without.
            if error.errno is not None:
                raise self._unreadable(self.path(name), error) from error
            raise self._damaged(name, error) from error
        except (DamagedError, pa.ArrowException) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> RaypipeError:
        if "AWS Error" in str(error):
            return RaypipeError(f"{self.absolute_uri(name)}: cannot be read ({error})")
        return RaypipeError(
            f"{self.absolute_uri(name)}: damaged, or not a whole Parquet file ({error}); "
            f"{mend_of(name)}"
        )


def _as_text(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def _draft_name(folder: str, base: str) -> str:
    return f"{folder}/.{base}.{secrets.token_hex(4)}{_DRAFT}"
