"""Time the reading of PHA, ARF and RMF: raypipe, astropy.io.fits, and decompression alone.

Usage: python -m benchmarks.reading FOLDER [--seconds 3]

FOLDER holds Chandra Source Catalog products. All methods take a path, return the same arrays, and
run in this process on one core, one after the other in every round. The result is the median CPU
time over rounds, which other processes on the machine disturb less than wall time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from astropy.io import fits
from isal import igzip
from scipy import sparse

from raypipe.ogip import read_arf, read_pha, read_rmf
from raypipe.ogip.spectrum import background_scale
from raypipe.spectra.channel_bins import Resolution, acis_bins
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import put_rmf_on_grid

FEWEST_ROUNDS = 5
SPECTRUM_KEYWORDS = ("EXPOSURE", "BACKSCAL", "AREASCAL", "BACKFILE", "ANCRFILE", "RESPFILE")
SHERPA_MS = (86.0, 170.0)
"""Time that sherpa 4.19 takes to load, subtract, group by 5 and plot one of these spectra.

Measured with its ARF and RMF on a similar machine.
"""

Way = Callable[[], Any]
GRID = EnergyGrid()
BINS = acis_bins(Resolution((0.0, 0.0, 0.0)))


def ours_pha(path: Path) -> Any:
    pha = read_pha(path)
    return [
        (block.channels, block.counts, [block.header.get(key) for key in SPECTRUM_KEYWORDS])
        for block in (pha, pha.background)
        if block is not None
    ]


def astropy_pha(path: Path) -> Any:
    with fits.open(path) as hdus:
        spectra = [hdu for hdu in hdus if hdu.header.get("HDUCLAS1") == "SPECTRUM"]
        return [
            (
                np.asarray(hdu.data["CHANNEL"], dtype=np.int64),
                np.asarray(hdu.data["COUNTS"], dtype=np.float64),
                [hdu.header.get(key) for key in SPECTRUM_KEYWORDS],
            )
            for hdu in spectra
        ]


def ours_arf(path: Path) -> Any:
    arf = read_arf(path)
    return [arf.energy_lo_kev, arf.energy_hi_kev, arf.area_cm2]


def astropy_arf(path: Path) -> Any:
    with fits.open(path) as hdus:
        data = hdus["SPECRESP"].data
        names = ("ENERG_LO", "ENERG_HI", "SPECRESP")
        return [np.asarray(data[name], dtype=np.float64) for name in names]


def ours_rmf(path: Path) -> Any:
    rmf = read_rmf(path)
    return [rmf.energy_lo_kev, rmf.energy_hi_kev, *rmf.channel_energy_kev.T, rmf.matrix]


def astropy_rmf(path: Path) -> Any:
    with fits.open(path) as hdus:
        table = next(hdu for hdu in hdus if "MATRIX" in hdu.name)
        bounds = hdus["EBOUNDS"].data
        data = table.data
        groups = data["N_GRP"]
        starts, widths = (
            np.concatenate(
                [np.atleast_1d(row)[:n] for row, n in zip(data[name], groups, strict=True)]
            )
            for name in ("F_CHAN", "N_CHAN")
        )
        number = table.columns.names.index("F_CHAN") + 1
        starts = starts.astype(np.int64) - table.header.get(f"TLMIN{number}", 1)
        widths = widths.astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(widths)])[np.concatenate([[0], np.cumsum(groups)])]
        rows = [row[:n] for row, n in zip(data["MATRIX"], np.diff(ends), strict=True)]
        values = np.concatenate(rows).astype(np.float32)
        columns = np.repeat(starts - np.cumsum(widths) + widths, widths) + np.arange(len(values))
        matrix = sparse.csr_array((values, columns, ends), shape=(len(data), len(bounds)))
        edges = [np.asarray(data[name], dtype=np.float64) for name in ("ENERG_LO", "ENERG_HI")]
        channels = [np.asarray(bounds[name], dtype=np.float64) for name in ("E_MIN", "E_MAX")]
        return [*edges, *channels, matrix]


def stored_rmf(path: Path) -> Any:
    """Return the part of an RMF that ingest keeps."""
    return put_rmf_on_grid(read_rmf(path), GRID, path.name).redistribution


def read_subtract_bin(pha_path: Path, arf_path: Path) -> Any:
    """Return net counts per second and keV, and the effective area, in bins of the model's grid."""
    pha, arf = read_pha(pha_path), read_arf(arf_path)
    net = pha.counts
    if pha.background is not None:
        net = net - background_scale(pha, pha.background) * pha.background.counts
    rate = BINS.bin_counts(net) / (pha.exposure_s * BINS.width_kev)
    return rate, arf.area_on(BINS.lo_kev, BINS.hi_kev)


def sherpa_way(pha_path: Path) -> Way | None:
    """Return the published way to net spectra in bins, if sherpa can be imported."""
    try:
        from sherpa.astro import ui
    except ImportError:
        return None

    def way() -> Any:
        ui.load_pha(str(pha_path))
        ui.subtract()
        ui.group_counts(5)
        plot = ui.get_data_plot()
        return plot.x, plot.y

    return way


def decompression(*paths: Path) -> None:
    for path in paths:
        igzip.decompress(path.read_bytes())


def medians_ms(ways: Mapping[str, Way], seconds: float) -> dict[str, float]:
    """Return the median CPU time of each method, ms, over rounds in which they take turns."""
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    deadline = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() < deadline:
        rounds += 1
        for name, way in ways.items():
            begin = time.process_time()
            way()
            times[name].append(time.process_time() - begin)
    return {name: 1e3 * float(np.median(each)) for name, each in times.items()}


def require_same(ours: Any, theirs: Any) -> None:
    """Raise AssertionError unless two methods read the same from a file."""
    if sparse.issparse(ours):
        assert abs(ours - theirs).max() == 0
    elif isinstance(ours, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            require_same(one, other)
    elif isinstance(ours, np.ndarray):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    else:
        assert ours == theirs, (ours, theirs)


READERS = {
    "pha": (ours_pha, astropy_pha),
    "arf": (ours_arf, astropy_arf),
    "rmf": (ours_rmf, astropy_rmf),
}


def measure(folder: Path, seconds: float) -> None:
    """Print a line for each file of the folder, then the worst ratio for each kind."""
    print(f"{'ms, medians':31}{'raypipe':>9}{'astropy':>9}{'igzip':>8}   astropy/raypipe/igzip")
    ratios: dict[str, list[float]] = {kind: [] for kind in (*READERS, "pha+arf")}
    for pha in sorted(folder.glob("*_pha3.fits*")):
        stem = pha.name[:10]
        files = {kind: next(folder.glob(f"{stem}*_{kind}3.fits*")) for kind in READERS}
        total = dict.fromkeys(("ours", "theirs", "igzip"), 0.0)
        for kind, (ours, theirs) in READERS.items():
            path = files[kind]
            require_same(ours(path), theirs(path))
            ways = {"ours": partial(ours, path), "theirs": partial(theirs, path)}
            ways["igzip"] = partial(decompression, path)
            if kind == "rmf" and stem.startswith("acis"):
                ways["stored"] = partial(stored_rmf, path)
            times = medians_ms(ways, seconds)
            _line(f"{stem} {kind}", times, ratios[kind])
            if kind != "rmf":
                total = {name: total[name] + times[name] for name in total}
        _line(f"{stem} pha+arf", total, ratios["pha+arf"])
        if "stored" in times:
            print(f"{stem + ' rmf on the grid':31}{times['stored']:9.3f}{'':17}", end="")
            print(f"   {times['stored'] / times['igzip']:.2f} of igzip")
            _line_of_net(stem, files["pha"], files["arf"], seconds)
    for kind, each in ratios.items():
        print(f"{kind}: at least {min(each):.1f}x astropy, median {np.median(each):.1f}x")


def _line(label: str, times: Mapping[str, float], ratios: list[float]) -> None:
    ours, theirs, igzip_ms = times["ours"], times["theirs"], times["igzip"]
    ratios.append(theirs / ours)
    print(f"{label:31}{ours:9.3f}{theirs:9.3f}{igzip_ms:8.3f}", end="")
    print(f"   {theirs / ours:.1f}x, {ours / igzip_ms:.2f} of igzip")


def _line_of_net(stem: str, pha: Path, arf: Path, seconds: float) -> None:
    ways: dict[str, Way] = {
        "ours": partial(read_subtract_bin, pha, arf),
        "igzip": partial(decompression, pha, arf),
    }
    if (sherpa := sherpa_way(pha)) is not None:
        ways["sherpa"] = sherpa
    times = medians_ms(ways, seconds)
    ours = times["ours"]
    low, high = (f"{theirs / ours:.0f}x" for theirs in SHERPA_MS)
    live = f", {times['sherpa'] / ours:.0f}x sherpa here" if "sherpa" in times else ""
    print(f"{stem + ' read, subtract, bin':31}{ours:9.3f}{'':9}{times['igzip']:8.3f}", end="")
    print(f"   {low}-{high} sherpa's {SHERPA_MS[0]:.0f}-{SHERPA_MS[1]:.0f} ms{live}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per file")
    options = parser.parse_args()
    measure(options.folder, options.seconds)


if __name__ == "__main__":
    main()
