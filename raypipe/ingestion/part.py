"""One part of a manifest: fetch, read, put on the grid, publish spectra and rejects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe._version import __version__
from raypipe.config import IngestConfig
from raypipe.errors import OgipError
from raypipe.ingestion.fetch import FetchError, fetch
from raypipe.ingestion.responses import ResponseLibrary, redistribution_on_grid
from raypipe.ingestion.spectra import (
    BACKGROUND_MISSING,
    BAD_QUALITY,
    BANDS_KEV,
    GriddedSpectrum,
    put_on_grid,
)
from raypipe.model.grid import NATIVE_CHANNELS, Grid
from raypipe.ogip import Rmf, read_arf, read_pha, read_rmf
from raypipe.ogip.spectrum import assemble
from raypipe.workspace import (
    Workspace,
    manifest_folder,
    part_name,
    rejects_folder,
    spectra_folder,
)

FINGERPRINT = "manifest_part_sha256"
"""Key of a spectra part's metadata that says which manifest rows it was made of."""

_URIS = ["pha_uri", "arf_uri", "rmf_uri", "background_uri"]
_OF_FILES = [*_URIS, "files_stamp"]
_IDENTITY = ["detection_id", "obsid", "obi", "region_id", "name", "ra", "dec"]

_SPECTRUM_FIELDS = [
    pa.field("exposure_s", pa.float64()),
    pa.field("counts", pa.list_(pa.int32(), NATIVE_CHANNELS)),
    pa.field("background_counts", pa.list_(pa.int32(), NATIVE_CHANNELS)),
    pa.field("background_scale", pa.float64()),
    pa.field("arf_cm2", pa.list_(pa.float32(), Grid().n_energy)),
    pa.field("rmf_id", pa.string()),
    *(
        pa.field(f"{prefix}_{band}", pa.int64())
        for prefix in ("counts", "background_counts")
        for band in BANDS_KEV
    ),
    pa.field("flags", pa.string()),
    pa.field("pha_sha256", pa.string()),
    pa.field("content_sha256", pa.string()),
    pa.field("source_uri", pa.string()),
]
_REJECT_FIELDS = [
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("retryable", pa.bool_()),
    pa.field("uri", pa.string()),
]


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    part: int
    spectra: int
    rejects: int
    retryable: int
    bytes_read: int


@dataclass(frozen=True)
class _Row:
    index: int
    spectrum: dict[str, Any] | None
    reject: dict[str, Any] | None
    bytes_read: int


def manifest_fingerprint(manifest: pa.Table) -> str:
    """A hash of a manifest part's rows: all columns, in order."""
    text = json.dumps(manifest.to_pylist(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def ingest_part(workspace: Workspace, release: str, part: int, config: IngestConfig) -> Outcome:
    """Turn a part of the manifest into a part of spectra and one of rejects.

    Each row of the manifest becomes a row of one of the two. Rejects are published first, spectra
    last: a part whose spectra are there is done.
    """
    manifest = workspace.read_table(part_name(manifest_folder(release), part))
    reader = _Reader(ResponseLibrary(workspace), config)
    rows = list(reader.read_all(manifest.to_pylist()))
    good = [row for row in rows if row.spectrum is not None]
    bad = [row for row in rows if row.reject is not None]
    metadata = {
        FINGERPRINT: manifest_fingerprint(manifest),
        "raypipe_version": __version__,
        "energy_edges_kev": json.dumps(Grid().energy_edges_kev.round(6).tolist()),
        "first_channel": "1",
    }
    rejects = _with_columns(
        manifest.select([name for name in _IDENTITY if name in manifest.column_names]),
        [row.index for row in bad],
        _REJECT_FIELDS,
        [row.reject or {} for row in bad],
    )
    workspace.write_table(part_name(rejects_folder(release), part), rejects, metadata)
    spectra = _with_columns(
        manifest.drop_columns([name for name in _OF_FILES if name in manifest.column_names]),
        [row.index for row in good],
        _SPECTRUM_FIELDS,
        [row.spectrum or {} for row in good],
    )
    workspace.write_table(part_name(spectra_folder(release), part), spectra, metadata)
    return Outcome(
        part,
        len(good),
        len(bad),
        sum(bool(row.reject and row.reject["retryable"]) for row in bad),
        sum(row.bytes_read for row in rows),
    )


def _with_columns(
    manifest: pa.Table, rows: list[int], fields: list[pa.Field], values: list[dict[str, Any]]
) -> pa.Table:
    table = manifest.take(pa.array(rows, pa.int64()))
    for field in fields:
        if field.name in table.column_names:
            table = table.drop_columns([field.name])
        column = pa.array([_plain(value[field.name]) for value in values], field.type)
        table = table.append_column(field, column)
    return table


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _reject(error: Exception, stage: str, uri: str) -> dict[str, Any]:
    """What the rejects table says of an error; the file's name is in `uri`, not in `reason`."""
    reason, retryable = f"internal error {error!r}; please report it", False
    if isinstance(error, OgipError):
        uri = error.path
        reason = f"[{error.hdu}] {error.problem}" if error.hdu else error.problem
    elif isinstance(error, FetchError):
        reason, retryable = error.problem, error.retryable
    return {"stage": stage, "reason": reason, "retryable": retryable, "uri": uri}


class _Reader:
    """Reads the detections of a part, several fetches at once."""

    def __init__(self, library: ResponseLibrary, config: IngestConfig) -> None:
        self.library = library
        self.config = config
        self.grid = Grid()

    def read_all(self, rows: list[dict[str, Any]]) -> Iterator[_Row]:
        """Outcome of each row, in order; a bounded number of rows is in memory at once."""
        ahead = 2 * self.config.fetch_threads
        with ThreadPoolExecutor(self.config.fetch_threads) as pool:
            for start in range(0, len(rows), ahead):
                chunk = rows[start : start + ahead]
                yield from pool.map(self._read, range(start, start + len(chunk)), chunk)

    def _read(self, index: int, row: dict[str, Any]) -> _Row:
        files: dict[str, bytes] = {}
        uri, stage = row["pha_uri"], "fetch"
        try:
            for key in _URIS:
                if row[key]:
                    uri = row[key]
                    files[key] = fetch(uri, self.config.max_file_mb << 20)
            uri, stage = row["pha_uri"], "read"
            gridded = self._parse(row, files)
        except MemoryError:
            raise
        except Exception as error:
            reject = _reject(error, stage, uri)
            return _Row(index, None, reject, sum(map(len, files.values())))
        spectrum = {
            "exposure_s": gridded.exposure_s,
            "counts": gridded.counts,
            "background_counts": gridded.background_counts,
            "background_scale": gridded.background_scale,
            "arf_cm2": gridded.arf_cm2,
            "rmf_id": self.library.add(gridded.redistribution),
            **gridded.band_counts(),
            "flags": "|".join(gridded.flags),
            "pha_sha256": hashlib.sha256(files["pha_uri"]).hexdigest(),
            "content_sha256": gridded.fingerprint(),
            "source_uri": row["pha_uri"],
        }
        return _Row(index, spectrum, None, sum(map(len, files.values())))

    def _parse(self, row: dict[str, Any], files: dict[str, bytes]) -> GriddedSpectrum:
        pha = read_pha(files["pha_uri"], name=row["pha_uri"])
        background = pha.background
        if background is None and "background_uri" in files:
            given = read_pha(files["background_uri"], name=row["background_uri"])
            background = given.background or given
        arf = read_arf(files["arf_uri"], name=row["arf_uri"]) if "arf_uri" in files else None
        rmf, redistribution = None, None
        if "rmf_uri" in files:
            rmf, redistribution = _gridded_rmf(_Named(files["rmf_uri"], row["rmf_uri"]), self.grid)
        spectrum = assemble(row["pha_uri"], pha, background, arf, rmf)
        gridded = put_on_grid(spectrum, self.grid, redistribution)
        flags = [
            *gridded.flags,
            *([BACKGROUND_MISSING] if background is None and pha.backfile else []),
            *([BAD_QUALITY] if pha.quality is not None and pha.quality.any() else []),
        ]
        return replace(gridded, flags=tuple(flags))


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
