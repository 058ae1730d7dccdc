"""Put a spectrum of any telescope on the grid: a row of the spectra table and its response."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import OgipError
from raypipe.ogip import Spectrum
from raypipe.ogip.spectrum import channel_places
from raypipe.spectra.band_counts import BANDS_KEV, band_channels, band_counts
from raypipe.spectra.bounds import (
    AREASCAL,
    BACKGROUND_SCALE,
    EXPOSURE_S,
    PEAK_AREA_CM2,
    require_within,
)
from raypipe.spectra.channel_bins import FEWEST_BINS, ChannelBins, acis_edges_kev
from raypipe.spectra.fates import flags_of
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import (
    GriddedResponse,
    beyond_share,
    efficiency_on_grid,
    is_covered,
    overlap_of,
    put_rmf_on_grid,
    reach_kev,
)

Floats = npt.NDArray[np.float64]

DISPERSED = ("RGS", "RGS1", "RGS2", "LETG", "HETG")
"""Instruments whose spectra are dispersed, by INSTRUME."""

NO_BACKGROUND = "no_background"
ARF_TRUNCATED = "arf_truncated"
BACKGROUND_MISSING = "background_missing"
BAD_QUALITY = "bad_quality_channels"
NO_COUNTS = "no_counts"
ZEROTH_ORDER = "grating_zeroth_order"
RESPONSE_NOT_NAMED = "response_not_named"
BEYOND_GRID = "beyond_energy_grid"

_MOST_BEYOND = 1e-3
"""Largest share of a channel bin's counts from above the energy grid that needs no flag."""

_MOST_COUNTS = np.iinfo(np.int32).max
_NOT_WHOLE = 1e-3


@dataclass(frozen=True, eq=False)
class GriddedSpectrum:
    """Hold a detection in the form of a row of the spectra table.

    `telescope`, `instrument`: TELESCOP and INSTRUME; `counts`, `background_counts` (n,) int32 on
    the native channels of the response, the latter None where there is no background;
    `background_scale`, their factor in the source region, `scale_by_bin` (n_bins,) where it differs
    by channel, else None; `bins`, those of the response that lie within the spectrum's channels;
    `arf_cm2` (n_energy,); `areascal` (n,) where the area differs by channel, which the response has
    to be multiplied by, else None; `bands`: `counts_u` to `background_counts_b`, the counts of each
    band, None where the channels do not cover it; `flags` say what a user should know of it.
    """

    telescope: str
    instrument: str
    exposure_s: float
    counts: npt.NDArray[np.int32]
    background_counts: npt.NDArray[np.int32] | None
    background_scale: float | None
    scale_by_bin: npt.NDArray[np.float32] | None
    bins: ChannelBins
    arf_cm2: npt.NDArray[np.float32]
    areascal: Floats | None
    bands: Mapping[str, int | None]
    flags: tuple[str, ...]

    def fingerprint(self, rmf_id: str) -> str:
        """Hash everything that the model sees of the detection; `rmf_id` names its response."""
        digest = hashlib.sha256()
        for part in self.counts, self.background_counts, self.arf_cm2, self.scale_by_bin:
            digest.update(b"" if part is None else np.ascontiguousarray(part).data)
            digest.update(b"|")
        digest.update(f"{rmf_id}|{self.exposure_s!r}|{self.background_scale!r}".encode())
        return digest.hexdigest()[:16]


def grid_detection(
    spectrum: Spectrum, grid: EnergyGrid, response: GriddedResponse | None = None
) -> tuple[GriddedSpectrum, GriddedResponse]:
    """Put a spectrum on the grid, and find the response through which its counts are folded.

    `response` is that of its RMF, or the one that replaces it; without one, its RMF is put on the
    grid. A spectrum with fewer channels than its RMF, or with AREASCAL by channel, gets a separate
    response. Raises OgipError, naming the file and the remedy, for what the latent model cannot
    use.
    """
    require_imaging(spectrum.header, spectrum.path)
    rmf = spectrum.rmf
    if response is None:
        if rmf is None:
            raise missing_response(spectrum, "RMF", "RESPFILE")
        response = put_rmf_on_grid(rmf, grid, spectrum.path)
    row = put_on_grid(spectrum, grid, response.bins)
    if row.bins is not response.bins or row.areascal is not None:
        if rmf is None:
            raise missing_response(spectrum, "RMF", "RESPFILE")
        response = put_rmf_on_grid(rmf, grid, spectrum.path, row.bins, row.areascal)
    if rmf is not None and _is_beyond(spectrum, grid, row.bins):
        row = replace(row, flags=(*row.flags, BEYOND_GRID))
    return row, response


def put_on_grid(spectrum: Spectrum, grid: EnergyGrid, bins: ChannelBins) -> GriddedSpectrum:
    """Put a spectrum with an ARF, or with an RMF that includes the area, on the grid.

    `bins` are those of its response (`channel_bins_of`), or of the one that replaces it. AREASCAL
    multiplies `arf_cm2`, as it multiplies every predicted count. Raises OgipError, naming the file
    and the remedy, for what the latent model cannot use.
    """
    noted = flags_of(spectrum.warnings, spectrum.path)
    require_imaging(spectrum.header, spectrum.path)
    places = _places(spectrum, bins)
    inside = _bins_within(spectrum, bins, places)
    counts = _native(spectrum.counts, places, bins, spectrum.path)
    background, native_background = spectrum.background_counts, None
    if background is not None:
        native_background = _native(background, places, bins, spectrum.path)
    require_within(
        spectrum.exposure_s, EXPOSURE_S, spectrum.path, "EXPOSURE", "give the exposure in s"
    )
    areascal = _areascal(spectrum, places, bins)
    scale, by_bin = _scales(spectrum, places, inside)
    factor = float(np.asarray(spectrum.areascal)) if areascal is None else 1.0
    area, covered = _area_on_grid(spectrum, grid, inside, factor)
    flags = [
        *([NO_BACKGROUND] if background is None else []),
        *([] if covered else [ARF_TRUNCATED]),
        *([] if inside.bin_counts(counts).any() else [NO_COUNTS]),
        *([ZEROTH_ORDER] if keyword(spectrum.header, "GRATING") not in ("", "NONE") else []),
        *noted,
    ]
    return GriddedSpectrum(
        telescope=keyword(spectrum.header, "TELESCOP"),
        instrument=keyword(spectrum.header, "INSTRUME"),
        exposure_s=float(spectrum.exposure_s),
        counts=counts,
        background_counts=native_background,
        background_scale=scale,
        scale_by_bin=by_bin,
        bins=inside,
        arf_cm2=area,
        areascal=areascal,
        bands=_bands(
            spectrum.channel_energy_kev,
            counts[places],
            None if native_background is None else native_background[places],
        ),
        flags=tuple(flags),
    )


def require_imaging(header: Mapping[str, Any], path: str) -> None:
    """Raise OgipError for instruments whose spectra are outside the latent model, by the header."""
    instrument = keyword(header, "INSTRUME")
    if instrument == "HRC":
        raise OgipError(path, "HRC has almost no energy resolution: outside the latent model")
    order = header.get("TG_M")
    is_order = isinstance(order, int | float) and order != 0
    if is_order or instrument in DISPERSED:
        raise OgipError(
            path,
            "a dispersed order of a grating: outside the latent model; give the zeroth order, or "
            "the spectrum of a camera",
        )


def _places(spectrum: Spectrum, bins: ChannelBins) -> slice:
    """Find the places of the spectrum's channels among those of the response."""
    path, channels = spectrum.path, spectrum.channels
    if (np.diff(channels) != 1).any():
        raise OgipError(
            path,
            "channels are left out between others: write all channels, with 0 where nothing was "
            "counted",
        )
    begin = 0
    if spectrum.rmf is not None:
        places = channel_places(channels, spectrum.rmf, path)
        begin = 0 if isinstance(places, slice) else int(places[0])
    elif len(channels) != bins.n_channels:
        raise OgipError(
            path,
            f"{len(channels)} channels, its response has {bins.n_channels}: give the RMF that was "
            "made for it",
        )
    return slice(begin, begin + len(channels))


def _bins_within(spectrum: Spectrum, bins: ChannelBins, places: slice) -> ChannelBins:
    try:
        inside = bins.within(places.start, places.stop)
        if len(inside) < FEWEST_BINS:
            raise ValueError(f"{len(inside)} channel bins, at least {FEWEST_BINS} are needed")
        return inside
    except ValueError as error:
        raise OgipError(
            spectrum.path,
            f"its channels do not reach {bins.lo_kev[0]:.2g}-{bins.hi_kev[-1]:.2g} keV: write all "
            "channels into the spectrum",
        ) from error


def _scales(
    spectrum: Spectrum, places: slice, bins: ChannelBins
) -> tuple[float | None, npt.NDArray[np.float32] | None]:
    """Return the background's scale, and its mean per bin if it differs by channel."""
    path, scale = spectrum.path, spectrum.background_scale
    if scale is None:
        return None, None
    mend = "EXPOSURE, BACKSCAL and AREASCAL of source and background must be above zero"
    if np.ndim(scale) == 0:
        require_within(float(scale), BACKGROUND_SCALE, path, "the background scale", mend)
        return float(scale), None
    by_channel = np.ones(bins.n_channels)
    by_channel[places] = scale
    used = by_channel[bins.first[0] : bins.first[-1]]
    for value in used.min(), used.max():
        require_within(float(value), BACKGROUND_SCALE, path, "the background scale", mend)
    by_bin = bins.bin_counts(by_channel) / np.diff(bins.first)
    return float(used.mean()), by_bin.astype(np.float32)


def _areascal(spectrum: Spectrum, places: slice, bins: ChannelBins) -> Floats | None:
    """Return AREASCAL per channel of the response, None if it is a single number."""
    path, areascal = spectrum.path, np.asarray(spectrum.areascal, dtype=np.float64)
    mend = "give 1 if it has none"
    if areascal.ndim == 0:
        require_within(float(areascal), AREASCAL, path, "AREASCAL", mend)
        return None
    by_channel = np.ones(bins.n_channels)
    by_channel[places] = areascal
    used = by_channel[bins.first[0] : bins.first[-1]]
    for value in used.min(), used.max():
        require_within(float(value), AREASCAL, path, "AREASCAL", mend)
    return by_channel


def missing_response(spectrum: Spectrum, kind: str, key: str) -> OgipError:
    """Make the error for a spectrum without ARF or RMF; keyword `key` should name the file."""
    named = str(spectrum.header.get(key, "")).strip().lower()
    mend = f"write the name of the {kind} into it"
    if named == "none":
        mend = f"{key} names none: {mend}"
    elif named.startswith("caldb"):
        mend = f"{key} is CALDB, which is not searched: {mend}"
    else:
        mend = f"put the file {key} names beside it"
    if kind == "ARF" and spectrum.rmf is not None:
        mend += ", or set HDUCLAS3 of the RMF to FULL if that includes the area"
    return OgipError(spectrum.path, f"no {kind} with it: {mend}")


def _area_on_grid(
    spectrum: Spectrum, grid: EnergyGrid, bins: ChannelBins, factor: float
) -> tuple[npt.NDArray[np.float32], bool]:
    """Compute the mean area of each energy bin, cm2, and whether it covers the channel bins."""
    arf, rmf, path = spectrum.arf, spectrum.rmf, spectrum.path
    if arf is not None:
        overlap = overlap_of(arf.energy_lo_kev, arf.energy_hi_kev, grid)
        area = overlap.shares @ arf.area_cm2[overlap.begin : overlap.end]
    elif rmf is not None and rmf.includes_area:
        overlap = overlap_of(rmf.energy_lo_kev, rmf.energy_hi_kev, grid)
        area = efficiency_on_grid(rmf, grid)
    else:
        raise missing_response(spectrum, "ARF", "ANCRFILE")
    area = area * factor
    largest = float(area.max())
    require_within(largest, PEAK_AREA_CM2, path, "the largest effective area", "make the ARF again")
    return area.astype(np.float32), is_covered(overlap, grid, reach_kev(bins))


def _is_beyond(spectrum: Spectrum, grid: EnergyGrid, bins: ChannelBins) -> bool:
    """Tell whether photons above the grid make too large a share of a bin's counts."""
    rmf, arf = spectrum.rmf, spectrum.arf
    if rmf is None or rmf.energy_lo_kev[-1] < grid.edges_kev[-1]:
        return False
    area = np.ones(len(rmf.energy_lo_kev))
    if arf is not None and not rmf.includes_area:
        area = arf.area_on(rmf.energy_lo_kev, rmf.energy_hi_kev)
    return beyond_share(rmf, area, grid, bins) > _MOST_BEYOND


def _bands(
    edges_kev: Floats | None,
    counts: npt.NDArray[np.int32],
    background: npt.NDArray[np.int32] | None,
) -> dict[str, int | None]:
    """Sum counts and background counts (n,) by band; without edges (n, 2) by those of ACIS."""
    places = _acis_bands() if edges_kev is None else band_channels(edges_kev)
    sums = {"counts": band_counts(counts, places)}
    sums["background_counts"] = band_counts(background, places)
    return {f"{name}_{band}": sums[name][band] for name in sums for band in BANDS_KEV}


@cache
def _acis_bands() -> Mapping[str, tuple[int, int] | None]:
    return band_channels(acis_edges_kev())


def _native(counts: Floats, places: slice, bins: ChannelBins, path: str) -> npt.NDArray[np.int32]:
    """Put counts on all channels of the response, 0 where the spectrum has none."""
    least, most = counts.min(), counts.max()
    if not 0 <= least <= most <= _MOST_COUNTS:
        raise OgipError(
            path,
            f"a channel has {least if least < 0 else most:g} counts, expected 0 to "
            f"{_MOST_COUNTS}: give counts as they were detected",
        )
    whole = np.rint(counts)
    if np.abs(whole - counts).max() > _NOT_WHOLE:
        raise OgipError(
            path,
            "counts are not whole numbers: the likelihood needs counts as they were detected",
        )
    native = np.zeros(bins.n_channels, np.int32)
    native[places] = whole
    return native


def keyword(header: Mapping[str, Any], key: str) -> str:
    """Return a keyword's text in capitals, empty where it is absent."""
    return str(header.get(key, "")).strip().upper()
