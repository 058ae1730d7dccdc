"""Time to read PHA, ARF and RMF of one detection: raypipe, astropy.io.fits, decompression alone.

Usage: python benchmarks/reading.py FOLDER [--stem acisf01575_001N001_r0085] [--seconds 4]

FOLDER holds Chandra Source Catalog products (pha3, arf3, rmf3). All three ways take a path and run
in this one process, on one core, taking turns; the fastest reading of each counts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from astropy.io import fits
from isal import igzip
from scipy import sparse

from raypipe.ogip import read_arf, read_pha, read_rmf

ROUNDS = 5
SPECTRUM_KEYWORDS = ("EXPOSURE", "BACKSCAL", "AREASCAL", "BACKFILE", "ANCRFILE", "RESPFILE")


def astropy_pha(path: Path) -> Any:
    with fits.open(path) as hdus:
        spectra = [hdu for hdu in hdus if hdu.header.get("HDUCLAS1") == "SPECTRUM"]
        return [
            (
                np.asarray(hdu.data["CHANNEL"], dtype=np.int64),
                np.asarray(hdu.data["COUNTS"], dtype=np.float64),
                [hdu.header[key] for key in SPECTRUM_KEYWORDS],
            )
            for hdu in spectra
        ]


def astropy_arf(path: Path) -> Any:
    with fits.open(path) as hdus:
        data = hdus["SPECRESP"].data
        names = ("ENERG_LO", "ENERG_HI", "SPECRESP")
        return [np.asarray(data[name], dtype=np.float64) for name in names]


def astropy_rmf(path: Path) -> Any:
    with fits.open(path) as hdus:
        table = next(hdu for hdu in hdus if hdu.header.get("HDUCLAS2") == "RSP_MATRIX")
        bounds = hdus["EBOUNDS"].data
        data = table.data
        n_groups = data["N_GRP"]
        starts, widths = (
            np.concatenate(
                [np.atleast_1d(row)[:n] for row, n in zip(data[name], n_groups, strict=True)]
            )
            for name in ("F_CHAN", "N_CHAN")
        )
        starts = starts.astype(np.int64) - table.header.get("TLMIN4", 1)
        widths = widths.astype(np.int64)
        values = np.concatenate(list(data["MATRIX"])).astype(np.float32)
        passed = np.cumsum(widths) - widths
        columns = np.repeat(starts - passed, widths) + np.arange(len(values))
        row_ends = np.concatenate([[0], np.cumsum([len(row) for row in data["MATRIX"]])])
        matrix = sparse.csr_array((values, columns, row_ends), shape=(len(data), len(bounds)))
        edges = [np.asarray(data[name], dtype=np.float64) for name in ("ENERG_LO", "ENERG_HI")]
        channels = [np.asarray(bounds[name], dtype=np.float64) for name in ("E_MIN", "E_MAX")]
        return matrix, edges, channels


def decompression(path: Path) -> bytes:
    content: bytes = igzip.decompress(path.read_bytes())
    return content


def fastest_ms(way: Callable[[Path], Any], path: Path, seconds: float) -> float:
    best = np.inf
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        begin = time.perf_counter()
        way(path)
        best = min(best, time.perf_counter() - begin)
    return 1e3 * best


def compare_ms(ways: list[Callable[[Path], Any]], path: Path, seconds: float) -> np.ndarray:
    rounds = [[fastest_ms(way, path, seconds / ROUNDS) for way in ways] for _ in range(ROUNDS)]
    return np.min(rounds, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stem", help="observation and region; default: the first there is")
    parser.add_argument("--seconds", type=float, default=1.0, help="per way and product")
    arguments = parser.parse_args()
    files = {
        product: min(arguments.folder.glob(f"{arguments.stem or ''}*_{product}.fits*"))
        for product in ("pha3", "arf3", "rmf3")
    }
    ours = {"pha3": read_pha, "arf3": read_arf, "rmf3": read_rmf}
    theirs = {"pha3": astropy_pha, "arf3": astropy_arf, "rmf3": astropy_rmf}
    times = {}
    print(f"{'ms':10}{'raypipe':>10}{'astropy':>10}{'igzip':>10}{'ratio':>8}   file")
    for product, path in files.items():
        ways: list[Callable[[Path], Any]] = [ours[product], theirs[product], decompression]
        times[product] = compare_ms(ways, path, arguments.seconds)
        show(product, times[product], path.name)
    show("pha3+arf3", times["pha3"] + times["arf3"], "")


def show(label: str, row: np.ndarray, note: str) -> None:
    cells = "".join(f"{value:10.3f}" for value in row)
    print(f"{label:10}{cells}{row[1] / row[0]:7.1f}x   {note}")


if __name__ == "__main__":
    main()
