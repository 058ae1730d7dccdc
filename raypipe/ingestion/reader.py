"""Read the detections of a part, many fetches at once, each into a spectrum or a reject."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from raypipe.archive.package import Products
from raypipe.archive.products import is_product_uri
from raypipe.config import IngestConfig
from raypipe.errors import OgipError, RaypipeError
from raypipe.http.errors import FetchError, describe
from raypipe.identity import is_own_file
from raypipe.ingestion.chip_rmfs import ChipRmfs
from raypipe.ingestion.fetch import FITS_START, Fetcher, is_remote
from raypipe.ogip import Pha, Rmf, Spectrum, read_arf, read_pha, read_rmf
from raypipe.ogip.loading import load
from raypipe.ogip.neighbors import is_same_product
from raypipe.ogip.spectrum import assemble
from raypipe.redaction import printable, redact
from raypipe.spectra.channel_bins import ACIS_CHANNELS
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.gridding import (
    BACKGROUND_MISSING,
    BAD_QUALITY,
    RESPONSE_NOT_NAMED,
    grid_detection,
    missing_response,
    require_imaging,
)
from raypipe.spectra.redistribution import GriddedResponse, put_rmf_on_grid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.spectra.schema import FROM_MANIFEST, MOST_REASON

_OWN = ["pha_uri", "arf_uri", "background_uri"]
URIS = [*_OWN, "rmf_uri"]
"""Columns of the manifest that say where a detection's files are."""

OF_FILES = [*URIS, "files_stamp"]
"""Columns of the manifest that are about files: not carried on to spectra."""

ManifestRow = Mapping[str, Any]

_MOST_KEPT = 2_000_000
"""Elements and rows of an RMF up to which it is kept for the next detection; those of ACIS have
half a million. Sixteen are kept at once, and a larger one could fill the memory."""

T = TypeVar("T")


@dataclass(frozen=True)
class ReadRow:
    """Hold the result for a row of the manifest: its columns of spectra, or those of rejects."""

    index: int
    spectrum: dict[str, Any] | None = None
    reject: dict[str, Any] | None = None


@dataclass
class _Detection:
    """Hold a row of the manifest while it becomes a spectrum or a reject."""

    index: int
    row: ManifestRow
    files: dict[str, bytes] = field(default_factory=dict)
    pha: Pha | None = None
    rmf: _ReadRmf | None = None
    rmf_id: str | None = None
    uri: str = ""
    stage: str = "fetch"
    reject: dict[str, Any] | None = None

    def named(self, key: str) -> str:
        """Return a file's name in the form that messages and tables show."""
        return printable(redact(self.row[key]))


class Reader:
    """Read detections, several fetches at once."""

    def __init__(self, library: ResponseLibrary, chips: ChipRmfs, config: IngestConfig) -> None:
        self.fetcher = Fetcher(config)
        self._library = library
        self._chips = chips
        self._config = config
        self._grid = EnergyGrid()

    def read_all(self, rows: list[tuple[int, ManifestRow]]) -> Iterator[ReadRow]:
        """Yield the result for each numbered row, those with only local files first.

        Local files are read faster without threads, which only help to wait for a network.
        """
        near = [item for item in rows if not any(map(is_remote, _uris(item[1], URIS)))]
        for item in near:
            yield from self._read_batch([item])
        done = {index for index, _ in near}
        far = [item for item in rows if item[0] not in done]
        packed = [item for item in far if _products(item[1], URIS)]
        size = self._config.package_batch
        batches = [[item] for item in far if not _products(item[1], URIS)]
        batches += [packed[start : start + size] for start in range(0, len(packed), size)]
        with ThreadPoolExecutor(self._config.fetch_threads) as pool:
            for batch in pool.map(self._read_batch, batches):
                yield from batch

    def _read_batch(self, rows: list[tuple[int, ManifestRow]]) -> list[ReadRow]:
        """Read PHA and ARF of each detection, then the RMF unless a zone's RMF replaces it."""
        detections = [_Detection(index, row, uri=row["pha_uri"] or "") for index, row in rows]
        products: Products = {}
        at_first = _OWN if self._chips.rmf_ids else URIS
        for keys, step in ((at_first, self._open), (["rmf_uri"], self._open_rmf)):
            lacking = [each for each in detections if each.reject is None and each.rmf_id is None]
            wanted = {
                uri for each in lacking for uri in _products(each.row, keys)
            } - products.keys()
            products |= self.fetcher.fetch_products(wanted) if wanted else {}
            for detection in lacking:
                _attempt(detection, step, products)
        return [self._finish(detection) for detection in detections]

    def _open(self, detection: _Detection, products: Products) -> None:
        """Fetch all files but the RMF, and find the zone's RMF that may replace the own one."""
        row = detection.row
        if not row["pha_uri"]:
            raise FetchError(row["detection_id"], "the manifest has no PHA", retryable=False)
        self._fetch(detection, _OWN, products)
        detection.stage = "read"
        detection.pha = read_pha(detection.files["pha_uri"], name=detection.named("pha_uri"))
        require_imaging(detection.pha.header, detection.named("pha_uri"))
        if not is_own_file(row["detection_id"]) and _may_share(detection.pha):
            detection.rmf_id = self._chips.rmf_id(detection.pha.header)

    def _open_rmf(self, detection: _Detection, products: Products) -> None:
        """Fetch and read a detection's own RMF, if it has one."""
        detection.stage = "fetch"
        self._fetch(detection, ["rmf_uri"], products)
        detection.stage = "read"
        if (content := detection.files.get("rmf_uri")) is not None:
            self.fetcher.traffic.add(rmfs=1, rmf_bytes=len(content))
            detection.rmf = _read_rmf(_Named(content, detection.named("rmf_uri")), self._grid)
            matrix = detection.rmf.native.matrix
            if matrix.nnz + matrix.shape[0] > _MOST_KEPT:
                _read_rmf.cache_clear()
            detection.rmf_id = detection.rmf.gridded.rmf_id

    def _fetch(self, detection: _Detection, keys: list[str], products: Products) -> None:
        for key in keys:
            if uri := detection.row[key]:
                detection.uri = uri
                content = products[uri] if is_product_uri(uri) else self.fetcher.fetch(uri)
                if isinstance(content, FetchError):
                    raise content
                detection.files[key] = content
        detection.uri = detection.row["pha_uri"]

    def _finish(self, detection: _Detection) -> ReadRow:
        spectrum = _attempt(detection, self._measure)
        if spectrum is None:
            return ReadRow(detection.index, reject=detection.reject)
        for key, content in detection.files.items():
            self.fetcher.keep(detection.row[key], content)
        return ReadRow(detection.index, spectrum)

    def _measure(self, detection: _Detection) -> dict[str, Any]:
        """Compute the columns of the spectra table for a detection."""
        assert detection.pha is not None
        spectrum = _assemble(detection)
        if detection.rmf_id is None:
            raise missing_response(spectrum, "RMF", "RESPFILE")
        response = detection.rmf and detection.rmf.gridded
        gridded, response = grid_detection(
            spectrum, self._grid, response or self._library.load(detection.rmf_id)
        )
        rmf_id = self._library.add(response)
        named = {key: detection.row.get(key) or getattr(gridded, key) for key in FROM_MANIFEST}
        return {
            **{key: printable(str(value)) for key, value in named.items()},
            "exposure_s": gridded.exposure_s,
            **detection.pha.times._asdict(),
            "counts": gridded.counts,
            "background_counts": gridded.background_counts,
            "background_scale": gridded.background_scale,
            "background_scale_by_bin": gridded.scale_by_bin,
            "arf_cm2": gridded.arf_cm2,
            "rmf_id": rmf_id,
            **gridded.bands,
            "flags": "|".join(dict.fromkeys([*gridded.flags, *_flags(detection, spectrum)])),
            "pha_sha256": hashlib.sha256(detection.files["pha_uri"]).hexdigest(),
            "content_sha256": gridded.fingerprint(rmf_id),
            "source_uri": detection.named("pha_uri"),
        }


def _attempt(detection: _Detection, step: Callable[..., T], *args: Any) -> T | None:
    """Perform a step of reading; any error in it becomes the detection's reject."""
    if detection.reject is not None:
        return None
    try:
        return step(detection, *args)
    except Exception as error:
        detection.reject = _reject(detection, error)
        return None


def _assemble(detection: _Detection) -> Spectrum:
    pha, files = detection.pha, detection.files
    assert pha is not None
    background, arf = pha.background, None
    if background is None and "background_uri" in files:
        given = read_pha(files["background_uri"], name=detection.named("background_uri"))
        background = given.background or given
    if "arf_uri" in files:
        arf = read_arf(files["arf_uri"], name=detection.named("arf_uri"))
    rmf = detection.rmf.native if detection.rmf else None
    return assemble(detection.named("pha_uri"), pha, background, arf, rmf)


def _flags(detection: _Detection, spectrum: Spectrum) -> list[str]:
    pha = detection.pha
    assert pha is not None
    return [
        *([BACKGROUND_MISSING] if spectrum.background_counts is None and pha.backfile else []),
        *([BAD_QUALITY] if pha.quality is not None and pha.quality.any() else []),
        *([RESPONSE_NOT_NAMED] if _is_not_named(detection, pha) else []),
    ]


def _is_not_named(detection: _Detection, pha: Pha) -> bool:
    """Tell whether a user's spectrum has an ARF or RMF that its header does not name."""
    row = detection.row
    if not is_own_file(row["detection_id"]):
        return False
    pairs = (row["arf_uri"], pha.ancrfile), (row["rmf_uri"], pha.respfile)
    return any(
        not is_same_product((named or "").casefold(), uri.rsplit("/", 1)[-1].casefold())
        for uri, named in pairs
        if uri
    )


def _may_share(pha: Pha) -> bool:
    """Tell whether a zone's RMF may replace a spectrum's: it needs all channels, one AREASCAL."""
    return len(pha.channels) == ACIS_CHANNELS and np.ndim(pha.areascal) == 0


def _uris(row: ManifestRow, keys: list[str]) -> list[str]:
    return [row[key] for key in keys if row[key]]


def _products(row: ManifestRow, keys: list[str]) -> list[str]:
    return [uri for uri in _uris(row, keys) if is_product_uri(uri)]


def _reject(detection: _Detection, error: Exception) -> dict[str, Any]:
    """Make the columns of a reject from an error; the file's name is in `uri`, not in `reason`."""
    uri, row, files = detection.uri, detection.row, detection.files
    at_fault = printable(redact(uri))
    reason, retryable = "", False
    if isinstance(error, OgipError):
        at_fault = error.path
        reason = f"[{error.hdu}] {error.problem}" if error.hdu else error.problem
        retryable = any(is_remote(row[key]) and _is_broken(files[key]) for key in files)
    elif isinstance(error, FetchError):
        reason, retryable = error.problem, error.retryable
    elif isinstance(error, RaypipeError):  # the response of a zone is missing or damaged
        reason, retryable = f"{error}; set ingest.choose_rmfs_again=true with it", True
    elif isinstance(error, MemoryError):
        reason = "not enough memory to read it: give tasks more memory, or leave the file out"
        retryable = True
    else:
        reason = f"internal error {describe(error)}; please report it"
    return {
        "stage": detection.stage,
        "reason": printable(reason.replace(uri, redact(uri)) if uri else reason, MOST_REASON),
        "retryable": retryable,
        "uri": at_fault,
    }


def _is_broken(content: bytes) -> bool:
    """Tell whether a file is not FITS or not a complete gzip, as a broken transfer leaves it."""
    try:
        _, expanded = load(content)
    except OgipError:
        return True
    except MemoryError:
        return False
    return not expanded.startswith(FITS_START)


class _Named(bytes):
    """Hold a file's bytes, equal to any other of the same content, and its name for errors."""

    name: str

    def __new__(cls, data: bytes, name: str) -> _Named:
        named = super().__new__(cls, data)
        named.name = name
        return named


@dataclass(frozen=True)
class _ReadRmf:
    native: Rmf
    gridded: GriddedResponse


@lru_cache(maxsize=16)
def _read_rmf(content: _Named, grid: EnergyGrid) -> _ReadRmf:
    native = read_rmf(bytes(content), name=content.name)
    return _ReadRmf(native, put_rmf_on_grid(native, grid, content.name))
