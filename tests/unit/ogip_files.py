"""Small OGIP files made with astropy, as bytes, for the tests of raypipe.ogip."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

N_CHANNELS = 16
N_ENERGIES = 6


def to_bytes(*tables: fits.BinTableHDU, **of_primary: Any) -> bytes:
    buffer = io.BytesIO()
    primary = fits.PrimaryHDU()
    primary.header.update(of_primary)
    fits.HDUList([primary, *tables]).writeto(buffer)
    return buffer.getvalue()


def column(name: str, form: str, values: Any, unit: str | None = None) -> fits.Column:
    return fits.Column(name=name, format=form, array=values, unit=unit)


def table(columns: list[fits.Column], **keywords: Any) -> fits.BinTableHDU:
    hdu = fits.BinTableHDU.from_columns(columns)
    for key, value in keywords.items():
        hdu.header[key] = value
    return hdu


def counts_of(n_channels: int = N_CHANNELS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, n_channels)


def pha_hdu(
    extra: list[fits.Column] | None = None,
    *,
    counts: Any = None,
    channels: Any = None,
    drop: tuple[str, ...] = (),
    count_column: str = "COUNTS",
    **keywords: Any,
) -> fits.BinTableHDU:
    counts = counts_of() if counts is None else np.asarray(counts)
    channels = np.arange(1, len(counts) + 1) if channels is None else np.asarray(channels)
    columns = [
        column("CHANNEL", "E" if channels.dtype.kind == "f" else "J", channels, "channel"),
        column(count_column, "D" if counts.dtype.kind == "f" else "J", counts),
        *(extra or []),
    ]
    stated = {
        "EXTNAME": "SPECTRUM",
        "HDUCLAS1": "SPECTRUM",
        "HDUCLAS2": "TOTAL",
        "EXPOSURE": 1000.0,
        "BACKSCAL": 0.25,
        "AREASCAL": 1.0,
    } | keywords
    return table(columns, **{key: value for key, value in stated.items() if key not in drop})


def pha_bytes(*args: Any, **keywords: Any) -> bytes:
    return to_bytes(pha_hdu(*args, **keywords))


def energy_edges(n_energies: int = N_ENERGIES) -> tuple[np.ndarray, np.ndarray]:
    edges = np.linspace(0.5, 3.5, n_energies + 1)
    return edges[:-1].copy(), edges[1:].copy()


def arf_hdu(
    low: Any = None,
    high: Any = None,
    area: Any = None,
    *,
    energy_unit: str = "keV",
    area_unit: str = "cm**2",
    **keywords: Any,
) -> fits.BinTableHDU:
    if low is None:
        low, high = energy_edges()
    area = np.linspace(100.0, 400.0, len(low)) if area is None else area
    columns = [
        column("ENERG_LO", "E", low, energy_unit),
        column("ENERG_HI", "E", high, energy_unit),
        column("SPECRESP", "E", area, area_unit),
    ]
    stated = {"EXTNAME": "SPECRESP", "HDUCLAS1": "RESPONSE", "HDUCLAS2": "SPECRESP"} | keywords
    return table(columns, **stated)


def dense_matrix(n_energies: int = N_ENERGIES, n_channels: int = N_CHANNELS) -> np.ndarray:
    """Rows with one or two groups of channels and gaps between them."""
    random = np.random.default_rng(5)
    matrix = np.zeros((n_energies, n_channels))
    for row in range(n_energies):
        matrix[row, row + 1 : row + 5] = random.uniform(0.1, 1.0, 4)
        if row % 2:
            matrix[row, row + 8 : row + 10] = random.uniform(0.1, 1.0, 2)
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


def groups_of(row: np.ndarray) -> list[tuple[int, int]]:
    """First index and length of each run of positive values."""
    padded = np.concatenate([[0], (row > 0).astype(int), [0]])
    starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return [(int(start), int(stop - start)) for start, stop in zip(starts, stops, strict=True)]


def ragged(rows: list[list[Any]], dtype: Any) -> np.ndarray:
    rows_array = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        rows_array[number] = np.array(row, dtype=dtype)
    return rows_array


def rmf_hdus(
    matrix: np.ndarray | None = None,
    *,
    first: int = 1,
    limit: int | None = None,
    variable: bool = True,
    pad_groups: int = 0,
    descriptor: str = "P",
    bounds_channels: Any = None,
    bounds_limit: int | None = None,
    **keywords: Any,
) -> list[fits.BinTableHDU]:
    """MATRIX and EBOUNDS whose F_CHAN and CHANNEL count from `first`."""
    matrix = dense_matrix() if matrix is None else matrix
    n_energies, n_channels = matrix.shape
    groups = [groups_of(row) for row in matrix]
    most = max(pad_groups, max(len(row) for row in groups))
    padding = [
        [0] * ((most if pad_groups or not variable else len(row)) - len(row)) for row in groups
    ]
    starts = [[a + first for a, _ in row] + pad for row, pad in zip(groups, padding, strict=True)]
    widths = [[n for _, n in row] + pad for row, pad in zip(groups, padding, strict=True)]
    values = [list(row[row > 0]) for row in matrix]
    low, high = energy_edges(n_energies)
    if variable:
        group_columns = [
            column("F_CHAN", f"{descriptor}I()", ragged(starts, np.int16)),
            column("N_CHAN", f"{descriptor}I()", ragged(widths, np.int16)),
            column("MATRIX", f"{descriptor}E()", ragged(values, np.float32)),
        ]
    else:
        width = max(len(row) for row in values)
        padded = [row + [9.0] * (width - len(row)) for row in values]
        group_columns = [
            column("F_CHAN", f"{most}I", np.array(starts).squeeze()),
            column("N_CHAN", f"{most}I", np.array(widths).squeeze()),
            column("MATRIX", f"{width}E", np.array(padded)),
        ]
    columns = [
        column("ENERG_LO", "E", low, "keV"),
        column("ENERG_HI", "E", high, "keV"),
        column("N_GRP", "I", [len(row) for row in groups]),
        *group_columns,
    ]
    stated = {
        "EXTNAME": "MATRIX",
        "HDUCLAS1": "RESPONSE",
        "HDUCLAS2": "RSP_MATRIX",
        "HDUCLAS3": "REDIST",
    } | keywords
    main = table(columns, **stated)
    if limit is not None:
        main.header["TLMIN4"] = limit
    return [main, bounds_hdu(n_channels, first, bounds_channels, bounds_limit)]


def bounds_hdu(
    n_channels: int, first: int = 1, channels: Any = None, limit: int | None = None
) -> fits.BinTableHDU:
    edges = np.linspace(0.2, 4.2, n_channels + 1)
    channels = np.arange(first, first + n_channels) if channels is None else channels
    columns = [
        column("CHANNEL", "J", channels, "channel"),
        column("E_MIN", "E", edges[:-1], "keV"),
        column("E_MAX", "E", edges[1:], "keV"),
    ]
    hdu = table(columns, EXTNAME="EBOUNDS", HDUCLAS1="RESPONSE", HDUCLAS2="EBOUNDS")
    if limit is not None:
        hdu.header["TLMIN1"] = limit
    return hdu


def rmf_bytes(*args: Any, **keywords: Any) -> bytes:
    return to_bytes(*rmf_hdus(*args, **keywords))


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


BACKGROUND = counts_of(seed=2)


def survey(
    folder: Path, *, pha: dict[str, Any] | None = None, suffix: str = "", name: str = "source.pi"
) -> Path:
    named = {"BACKFILE": "source_bg.pi", "ANCRFILE": "source.arf", "RESPFILE": "source.rmf"}
    path = write(folder, name, pha_bytes(**(named | (pha or {}))))
    write(folder, f"source_bg.pi{suffix}", pha_bytes(counts=BACKGROUND, BACKSCAL=0.5))
    write(folder, f"source.arf{suffix}", to_bytes(arf_hdu()))
    write(folder, f"source.rmf{suffix}", rmf_bytes())
    return path


def flat(energy_kev: np.ndarray) -> np.ndarray:
    return np.full_like(energy_kev, 0.01)
