"""Fetch files by URI: local paths, s3://, http(s):// and products of the archive."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from raypipe.archive.package import PackageService, Products
from raypipe.archive.products import is_product_uri
from raypipe.config import IngestConfig
from raypipe.http.client import Body, HttpClient, Traffic, first_line
from raypipe.http.errors import FetchError, TryAgain, describe
from raypipe.ingestion.cache import Cache
from raypipe.store.s3 import open_filesystem

FITS_START = b"SIMPLE  ="
_FILE_STARTS = (FITS_START, b"\x1f\x8b")
"""First bytes of a plain and of a gzipped FITS file."""
_MESSAGE_BYTES = 4096
_S3_REFUSALS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "HTTP status 403")


class Fetcher:
    """Fetch the files of a part and count the traffic; several threads may use it at once."""

    def __init__(self, config: IngestConfig) -> None:
        self.traffic = Traffic()
        self._threads = config.fetch_threads
        self._max_bytes = config.max_file_mb << 20
        self._http = HttpClient(config, self.traffic)
        self._packages = PackageService(self._http, config)
        self._cache = Cache(config.cache_dir, config.cache_mb << 20) if config.cache_dir else None

    def fetch(self, uri: str) -> bytes:
        """Return the content of a file. Raises FetchError if it cannot be fetched."""
        if not is_remote(uri):
            content = read_stored(uri, self._max_bytes)
            self.traffic.add(bytes_read=len(content))
            return content
        if (kept := self._from_cache(uri)) is not None:
            return kept
        if uri.startswith("s3://"):
            self.traffic.add(requests=1)
            with self.traffic.connected():
                content = read_stored(uri, self._max_bytes)
            self.traffic.add(bytes_read=len(content))
            return content
        if uri.lower().startswith(("http://", "https://")):
            return self._http.request(
                lambda: uri, self._max_bytes, lambda body: _fits_content(uri, body)
            )
        raise FetchError(uri, "expected a path, s3://, http(s):// or csc: URI", retryable=False)

    def fetch_products(self, uris: Iterable[str]) -> Products:
        """Return products of the archive by URI, from the cache or by package."""
        answer: Products = {}
        wanted = []
        for uri in dict.fromkeys(uris):
            kept = self._from_cache(uri)
            if kept is None:
                wanted.append(uri)
            else:
                answer[uri] = kept
        return answer | self._fetch_packages(wanted) if wanted else answer

    def fetch_many(self, uris: Iterable[str]) -> Products:
        """Return files and products by URI, fetched in parallel: contents or errors."""
        wanted = list(dict.fromkeys(uris))
        answer = self.fetch_products([uri for uri in wanted if is_product_uri(uri)])
        files = [uri for uri in wanted if not is_product_uri(uri)]
        with ThreadPoolExecutor(self._threads) as pool:
            answer.update(zip(files, pool.map(self._fetch_or_error, files), strict=True))
        return answer

    def _fetch_packages(self, uris: list[str]) -> Products:
        """Fetch products in packages; an unexpected error becomes that of each product."""
        try:
            return self._packages.fetch(uris)
        except Exception as error:
            problem = f"its package cannot be read ({describe(error)})"
            return {uri: FetchError(uri, problem, retryable=True) for uri in uris}

    def _fetch_or_error(self, uri: str) -> bytes | FetchError:
        try:
            return self.fetch(uri)
        except FetchError as error:
            return error
        except Exception as error:
            return FetchError(uri, f"cannot be read ({describe(error)})", retryable=True)

    def keep(self, uri: str, content: bytes) -> None:
        """Put a remote file that was read without error into the cache, if there is one."""
        if self._cache is not None and is_remote(uri) and uri not in self._cache:
            self._cache.put(uri, content)

    def _from_cache(self, uri: str) -> bytes | None:
        return None if self._cache is None else self._cache.get(uri)


def is_remote(uri: str) -> bool:
    """Tell whether a file is fetched over the network."""
    return is_product_uri(uri) or ("://" in uri and not uri.startswith(("/", "file://")))


def read_stored(uri: str, max_bytes: int) -> bytes:
    """Return the content of a local file or an s3:// object.

    Raises FetchError if it cannot be read or has more than `max_bytes`.
    """
    read = _read_object if uri.startswith("s3://") else _read_file
    try:
        return read(uri, max_bytes)
    except FileNotFoundError as error:
        raise FetchError(uri, _why_absent(uri), retryable=False) from error
    except PermissionError as error:
        raise FetchError(uri, "no permission to read it", retryable=False) from error
    except ValueError as error:
        raise FetchError(uri, f"not a valid file name ({error})", retryable=False) from error
    except OSError as error:
        refused = any(word in str(error) for word in _S3_REFUSALS)
        raise FetchError(uri, f"cannot be read ({error})", retryable=not refused) from error


def _why_absent(uri: str) -> str:
    if uri.startswith("s3://") or not Path(uri.removeprefix("file://")).is_symlink():
        return "no such file"
    return (
        "the link leads to a file that does not exist: fetch it (git annex get, datalad get), then "
        "run discover and ingest again"
    )


def _read_file(uri: str, max_bytes: int) -> bytes:
    path = Path(uri.removeprefix("file://"))
    status = path.stat()
    _require_file(uri, stat.S_ISREG(status.st_mode), status.st_size, max_bytes)
    with path.open("rb", buffering=0) as file:
        return file.readall()


def _read_object(uri: str, max_bytes: int) -> bytes:
    path = uri.removeprefix("s3://")
    info = _s3().get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(uri)
    _require_file(uri, info.type == pafs.FileType.File, info.size, max_bytes)
    with _s3().open_input_stream(path, compression=None) as stream:
        return bytes(stream.read(max_bytes))


def _require_file(uri: str, is_file: bool, size: int, max_bytes: int) -> None:
    if not is_file:
        raise FetchError(uri, "not a file", retryable=False)
    if size > max_bytes:
        raise FetchError(uri, f"{size} bytes, more than ingest.max_file_mb allows", retryable=False)


@lru_cache(maxsize=1)
def _s3() -> pafs.FileSystem:
    return open_filesystem("s3://")[0]


def _fits_content(uri: str, body: Body) -> bytes:
    content = body.read_all()
    if content.startswith(_FILE_STARTS):
        return content
    said = first_line(content[:_MESSAGE_BYTES])
    parts = urlsplit(uri)
    for secret in filter(None, (parts.query, parts.password)):
        said = said.replace(secret, "...")
    raise TryAgain(f"not a FITS file but {body.content_type}: {said}")
