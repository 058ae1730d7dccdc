"""Open files that a user names by path or address; fetch s3:// and https:// ones first."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pyarrow.fs as pafs
import requests

from raypipe.errors import RaypipeError, UsageError
from raypipe.http.policy import Patience
from raypipe.http.session import PoliteSession
from raypipe.redaction import printable, redact
from raypipe.store.s3 import open_filesystem

Address = str | os.PathLike[str]

MOST_BYTES = 1 << 30
"""Largest file that is fetched."""

_PATIENCE = Patience(attempts=4, backoff_s=1.0, silence_s=60.0, answer_s=1800.0)
_CHUNK = 1 << 20
_LOST_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/(?!/)")
_SUFFIXES = re.compile(r"(\.[A-Za-z0-9]{1,10}){0,2}$")


def shown(address: Address) -> str:
    """Return an address fit to print: without credentials, query and control characters."""
    text = os.fspath(address)
    if _LOST_SLASH.match(text):
        return f"{text.partition(':')[0]}://..."
    scheme, separator, _ = text.partition("://")
    if separator and scheme not in ("s3", "file"):
        text = text.partition("?")[0].partition("#")[0]
    return printable(redact(text))


def file_name(address: Address) -> str:
    """Return the name of a file without its folders, fit to print."""
    return PurePosixPath(shown(address)).name


@contextmanager
def local_file(address: Address) -> Iterator[Path]:
    """Yield the path of a file; a fetched copy is deleted after the block.

    Raises UsageError if the file does not exist, if it has to be fetched and has more than
    MOST_BYTES, and for other kinds of addresses; ServiceError if a server does not answer. Messages
    show no credentials.
    """
    text = os.fspath(address)
    if _LOST_SLASH.match(text):
        raise UsageError(
            f"{shown(address)}: a Path drops a slash of an address: give the address as text"
        )
    if "://" not in text or text.startswith("file://"):
        path = Path(text.removeprefix("file://")).expanduser()
        if not path.is_file():
            raise UsageError(f"{shown(address)}: no such file")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raypipe-") as folder:
        try:
            path = Path(folder) / f"table{_suffixes(text)}"
            _fetch(text, path)
        except ValueError as error:
            raise UsageError(f"{shown(address)}: not an address") from error
        except OSError as error:
            raise RaypipeError(f"{shown(address)}: cannot be fetched ({error})") from error
        yield path


def _suffixes(address: str) -> str:
    """Return the suffixes of a file's name, which tell its format."""
    found = _SUFFIXES.search(urlsplit(address).path)
    return found[0] if found else ""


def _fetch(address: str, path: Path) -> None:
    if address.lower().startswith(("http://", "https://")):
        path.write_bytes(_from_server(address))
    elif address.startswith("s3://"):
        _from_store(address, path)
    else:
        raise UsageError(f"{shown(address)}: expected a path, an s3:// or an https:// address")


def _from_store(address: str, path: Path) -> None:
    store, name = open_filesystem(address)
    found = store.get_file_info(name)
    if found.type != pafs.FileType.File:
        raise UsageError(f"{shown(address)}: no such file")
    _require_size(address, found.size)
    with store.open_input_stream(name, compression=None) as stream, path.open("wb") as file:
        while chunk := stream.read(_CHUNK):
            file.write(chunk)
            _require_size(address, file.tell())


def _require_size(address: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UsageError(
            f"{shown(address)}: larger than {MOST_BYTES >> 20} MiB; download it and give its path"
        )


def _from_server(address: str) -> bytes:
    with PoliteSession(_PATIENCE, answer_bytes=MOST_BYTES) as session:
        try:
            answer = session.get(address)
        except requests.RequestException as error:
            raise UsageError(
                f"{shown(address)}: cannot be fetched ({type(error).__name__}); check the address"
            ) from error
    if answer.status_code != requests.codes.ok:
        raise UsageError(f"{shown(address)}: HTTP {answer.status_code}; check the address")
    return answer.content
