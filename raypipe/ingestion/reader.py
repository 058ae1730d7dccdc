"""Detections of a part: fetched many at once, each read into a spectrum or a reject."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.config import IngestConfig
from raypipe.discovery.archive import is_product_uri
from raypipe.errors import OgipError
from raypipe.ingestion.fetch import FITS_START, Fetcher, is_remote
from raypipe.ingestion.fetch_error import FetchError, redact
from raypipe.ingestion.package import Products
from raypipe.ingestion.responses import ResponseLibrary, redistribution_on_grid
from raypipe.ingestion.spectra import (
    BACKGROUND_MISSING,
    BAD_QUALITY,
    GriddedSpectrum,
    put_on_grid,
)
from raypipe.model.grid import Grid
from raypipe.ogip import Rmf, read_arf, read_pha, read_rmf
from raypipe.ogip.loading import load
from raypipe.ogip.spectrum import assemble

URIS = ["pha_uri", "arf_uri", "rmf_uri", "background_uri"]
"""Columns of the manifest that say where a detection's files are."""

OF_FILES = [*URIS, "files_stamp"]
"""Columns of the manifest that are about files: not carried on to spectra."""

ManifestRow = Mapping[str, Any]


@dataclass(frozen=True)
class ReadRow:
    """A row of the manifest, read: either its columns of spectra or those of rejects."""

    index: int
    spectrum: dict[str, Any] | None = None
    reject: dict[str, Any] | None = None


class Reader:
    """Reads detections, several fetches at once."""

    def __init__(self, library: ResponseLibrary, config: IngestConfig) -> None:
        self.fetcher = Fetcher(config)
        self._library = library
        self._config = config
        self._grid = Grid()

    def read_all(self, rows: list[tuple[int, ManifestRow]]) -> Iterator[ReadRow]:
        """What became of each numbered row; in order, but products of the archive come last."""
        stored = [[item] for item in rows if not _products(item[1])]
        packed = [item for item in rows if _products(item[1])]
        size = self._config.package_batch
        batches = stored + [packed[start : start + size] for start in range(0, len(packed), size)]
        with ThreadPoolExecutor(self._config.fetch_threads) as pool:
            for batch in pool.map(self._read_batch, batches):
                yield from batch

    def _read_batch(self, rows: list[tuple[int, ManifestRow]]) -> list[ReadRow]:
        wanted = [uri for _, row in rows for uri in _products(row)]
        products = self.fetcher.fetch_products(wanted) if wanted else {}
        return [self._read(index, row, products) for index, row in rows]

    def _read(self, index: int, row: ManifestRow, products: Products) -> ReadRow:
        files: dict[str, bytes] = {}
        uri, stage = row["pha_uri"] or "", "fetch"
        names = {key: redact(row[key]) for key in URIS if row[key]}
        try:
            if not row["pha_uri"]:
                raise FetchError(row["detection_id"], "the manifest has no PHA", retryable=False)
            for key in names:
                uri = row[key]
                files[key] = self._fetch(uri, products)
            if "rmf_uri" in files:
                self.fetcher.traffic.add(rmfs=1, rmf_bytes=len(files["rmf_uri"]))
            uri, stage = row["pha_uri"], "read"
            gridded = self._parse(names, files)
        except MemoryError:
            raise
        except Exception as error:
            return ReadRow(index, reject=_reject(row, uri, stage, error, files))
        for key, content in files.items():
            self.fetcher.keep(row[key], content)
        return ReadRow(
            index,
            {
                "exposure_s": gridded.exposure_s,
                "counts": gridded.counts,
                "background_counts": gridded.background_counts,
                "background_scale": gridded.background_scale,
                "arf_cm2": gridded.arf_cm2,
                "rmf_id": self._library.add(gridded.redistribution),
                **gridded.band_counts(),
                "flags": "|".join(gridded.flags),
                "pha_sha256": hashlib.sha256(files["pha_uri"]).hexdigest(),
                "content_sha256": gridded.fingerprint(),
                "source_uri": names["pha_uri"],
            },
        )

    def _fetch(self, uri: str, products: Products) -> bytes:
        if not is_product_uri(uri):
            return self.fetcher.fetch(uri)
        product = products[uri]
        if isinstance(product, FetchError):
            raise product
        return product

    def _parse(self, names: dict[str, str], files: dict[str, bytes]) -> GriddedSpectrum:
        pha = read_pha(files["pha_uri"], name=names["pha_uri"])
        background = pha.background
        if background is None and "background_uri" in files:
            given = read_pha(files["background_uri"], name=names["background_uri"])
            background = given.background or given
        arf = read_arf(files["arf_uri"], name=names["arf_uri"]) if "arf_uri" in files else None
        rmf, redistribution = None, None
        if "rmf_uri" in files:
            rmf, redistribution = _gridded_rmf(
                _Named(files["rmf_uri"], names["rmf_uri"]), self._grid
            )
        spectrum = assemble(names["pha_uri"], pha, background, arf, rmf)
        gridded = put_on_grid(spectrum, self._grid, redistribution)
        flags = [
            *gridded.flags,
            *([BACKGROUND_MISSING] if background is None and pha.backfile else []),
            *([BAD_QUALITY] if pha.quality is not None and pha.quality.any() else []),
        ]
        return replace(gridded, flags=tuple(flags))


def _products(row: ManifestRow) -> list[str]:
    return [row[key] for key in URIS if row[key] and is_product_uri(row[key])]


def _reject(
    row: ManifestRow, uri: str, stage: str, error: Exception, files: dict[str, bytes]
) -> dict[str, Any]:
    """What the rejects table says of an error; the file's name is in `uri`, not in `reason`."""
    at_fault = redact(uri)
    reason, retryable = f"internal error {error!r}; please report it", False
    if isinstance(error, OgipError):
        at_fault = error.path
        reason = f"[{error.hdu}] {error.problem}" if error.hdu else error.problem
        retryable = any(is_remote(row[key]) and _is_broken(files[key]) for key in files)
    elif isinstance(error, FetchError):
        reason, retryable = error.problem, error.retryable
    return {
        "stage": stage,
        "reason": reason.replace(uri, redact(uri)) if uri else reason,
        "retryable": retryable,
        "uri": at_fault,
    }


def _is_broken(content: bytes) -> bool:
    """Whether a file is no FITS or no whole gzip, as a bad transfer over the network leaves it."""
    try:
        _, expanded = load(content)
    except OgipError:
        return True
    return not expanded.startswith(FITS_START)


class _Named(bytes):
    """A file's bytes, equal to any other of the same contents, with the name errors should say."""

    name: str

    def __new__(cls, data: bytes, name: str) -> _Named:
        named = super().__new__(cls, data)
        named.name = name
        return named


@lru_cache(maxsize=16)
def _gridded_rmf(data: _Named, grid: Grid) -> tuple[Rmf, npt.NDArray[np.float32]]:
    rmf = read_rmf(bytes(data), name=data.name)
    return rmf, redistribution_on_grid(rmf, grid, data.name)
