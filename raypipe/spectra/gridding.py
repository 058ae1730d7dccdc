"""One detection: from its files' contents to a row of the spectra table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.errors import OgipError
from raypipe.ogip import Spectrum
from raypipe.spectra.bounds import (
    AREASCAL,
    BACKGROUND_SCALE,
    EXPOSURE_S,
    PEAK_AREA_CM2,
    require_within,
)
from raypipe.spectra.fates import flags_of
from raypipe.spectra.grid import CHANNEL_WIDTH_KEV, NATIVE_CHANNELS, Grid
from raypipe.spectra.responses import efficiency_on_grid, overlap_of

BANDS_KEV = {"s": (0.5, 1.2), "m": (1.2, 2.0), "h": (2.0, 7.0), "b": (0.5, 7.0)}
"""The CSC's energy bands (Evans et al. 2010); a channel belongs where its middle lies."""

_CHANNEL_TOPS_KEV = np.arange(1, NATIVE_CHANNELS + 1) * CHANNEL_WIDTH_KEV
_CHANNEL_MIDDLES_KEV = _CHANNEL_TOPS_KEV - 0.5 * CHANNEL_WIDTH_KEV
_BAND_CHANNELS = np.searchsorted(_CHANNEL_MIDDLES_KEV, list(BANDS_KEV.values())).ravel()

NO_BACKGROUND = "no_background"
ARF_TRUNCATED = "arf_truncated"
BACKGROUND_MISSING = "background_missing"
BAD_QUALITY = "bad_quality_channels"
NO_COUNTS = "no_counts"
ZEROTH_ORDER = "grating_zeroth_order"

_MOST_COUNTS = np.iinfo(np.int32).max
_GRID_TOLERANCE_KEV = 0.004
_COVERED = 0.99
_NOT_WHOLE = 1e-3


@dataclass(frozen=True)
class GriddedSpectrum:
    """A detection on the model's grid.

    `counts`, `background_counts` (1024,) int32 on native channels, the latter None where there is
    no background; `arf_cm2` (n_energy,); `flags` say what a user should know of it.
    """

    exposure_s: float
    counts: npt.NDArray[np.int32]
    background_counts: npt.NDArray[np.int32] | None
    background_scale: float | None
    arf_cm2: npt.NDArray[np.float32]
    flags: tuple[str, ...]

    def fingerprint(self, rmf_id: str) -> str:
        """A hash of all the model sees of the detection; `rmf_id` names the redistribution."""
        digest = hashlib.sha256()
        for part in self.counts, self.background_counts, self.arf_cm2:
            digest.update(b"" if part is None else np.ascontiguousarray(part).data)
            digest.update(b"|")
        digest.update(f"{rmf_id}|{self.exposure_s!r}|{self.background_scale!r}".encode())
        return digest.hexdigest()[:16]

    def band_counts(self) -> dict[str, int | None]:
        """Counts and background counts in each CSC band."""
        sums: dict[str, int | None] = {}
        for name, counts in ("counts", self.counts), ("background_counts", self.background_counts):
            by_band: list[int | None] = [None] * len(BANDS_KEV)
            if counts is not None:
                by_band = np.add.reduceat(counts, _BAND_CHANNELS, dtype=np.int64)[::2].tolist()
            sums |= {f"{name}_{band}": n for band, n in zip(BANDS_KEV, by_band, strict=True)}
        return sums


def put_on_grid(spectrum: Spectrum, grid: Grid) -> GriddedSpectrum:
    """Put a spectrum that has its ARF, or an RMF with the area in it, onto the model's grid.

    Its RMF, where there is one, has to be that of ACIS. AREASCAL multiplies `arf_cm2`, as it
    multiplies every predicted count. Raises OgipError, naming the file and the mend, for what the
    latent model cannot use.
    """
    noted = flags_of(spectrum.warnings, spectrum.path)
    _require_acis_imaging(spectrum)
    _require_scales(spectrum)
    area, truncated = _area_on_grid(spectrum, grid)
    background, scale = spectrum.background_counts, spectrum.background_scale
    counts = _native(spectrum.counts, spectrum)
    flags = [
        *([NO_BACKGROUND] if background is None else []),
        *([ARF_TRUNCATED] if truncated else []),
        *([] if grid.bin_channels(counts).any() else [NO_COUNTS]),
        *([ZEROTH_ORDER] if _keyword(spectrum, "GRATING") not in ("", "NONE") else []),
        *noted,
    ]
    return GriddedSpectrum(
        exposure_s=float(spectrum.exposure_s),
        counts=counts,
        background_counts=None if background is None else _native(background, spectrum),
        background_scale=None if scale is None else float(scale),
        arf_cm2=area,
        flags=tuple(flags),
    )


def _require_acis_imaging(spectrum: Spectrum) -> None:
    if _keyword(spectrum, "INSTRUME") == "HRC":
        raise OgipError(
            spectrum.path, "HRC has almost no energy resolution: outside the latent model"
        )
    if len(spectrum.channels) != NATIVE_CHANNELS:
        raise OgipError(
            spectrum.path,
            f"{len(spectrum.channels)} channels, the latent model needs the {NATIVE_CHANNELS} PI "
            "channels of ACIS",
        )
    energies = spectrum.channel_energy_kev
    if (
        energies is not None
        and np.abs(energies[:, 1] - _CHANNEL_TOPS_KEV).max() > _GRID_TOLERANCE_KEV
    ):
        raise OgipError(
            spectrum.path,
            f"channels of other energies than ACIS PI ({CHANNEL_WIDTH_KEV * 1e3} eV each): outside "
            "the latent model",
        )


def _require_scales(spectrum: Spectrum) -> None:
    path, scale = spectrum.path, spectrum.background_scale
    require_within(spectrum.exposure_s, EXPOSURE_S, path, "EXPOSURE", "give the exposure in s")
    if np.ndim(spectrum.areascal) != 0:
        raise OgipError(
            path,
            "AREASCAL differs by channel, a row of spectra has one area for all channels: give a "
            "spectrum with AREASCAL as a keyword",
        )
    require_within(float(spectrum.areascal), AREASCAL, path, "AREASCAL", "give 1 if it has none")
    if scale is None:
        return
    if np.ndim(scale) != 0:
        raise OgipError(path, "BACKSCAL or AREASCAL by channel is outside the latent model")
    require_within(
        float(scale),
        BACKGROUND_SCALE,
        path,
        "the background scale",
        "EXPOSURE, BACKSCAL and AREASCAL of source and background must be above zero",
    )


def missing_response(spectrum: Spectrum, kind: str, key: str) -> OgipError:
    """The error for a spectrum without its ARF or RMF, the file that keyword `key` should name."""
    named = str(spectrum.header.get(key, "")).strip().lower()
    mend = f"write the name of the {kind} into it"
    if named == "none":
        mend = f"{key} names none: {mend}"
    elif named.startswith("caldb"):
        mend = f"{key} is CALDB, which is not searched: {mend}"
    else:
        mend = f"put the file {key} names beside it"
    return OgipError(spectrum.path, f"no {kind} with it: {mend}")


def _area_on_grid(spectrum: Spectrum, grid: Grid) -> tuple[npt.NDArray[np.float32], bool]:
    """Mean area over each energy bin, cm2, and whether part of the grid is not covered.

    The area is that of the ARF, else the one that the RMF includes, times AREASCAL.
    """
    arf, rmf, path = spectrum.arf, spectrum.rmf, spectrum.path
    if arf is not None:
        overlap = overlap_of(arf.energy_lo_kev, arf.energy_hi_kev, grid)
        area = overlap.shares @ arf.area_cm2
    elif rmf is not None and rmf.includes_area:
        overlap = overlap_of(rmf.energy_lo_kev, rmf.energy_hi_kev, grid)
        area = efficiency_on_grid(rmf, grid)
    else:
        raise missing_response(spectrum, "ARF", "ANCRFILE")
    area = area * float(spectrum.areascal)
    require_within(
        float(area.max()), PEAK_AREA_CM2, path, "the largest effective area", "make the ARF again"
    )
    return area.astype(np.float32), overlap.least_covered < _COVERED


def _native(counts: npt.NDArray[np.float64], spectrum: Spectrum) -> npt.NDArray[np.int32]:
    least, most = counts.min(), counts.max()
    if not 0 <= least <= most <= _MOST_COUNTS:
        raise OgipError(
            spectrum.path,
            f"a channel has {least if least < 0 else most:g} counts, expected 0 to "
            f"{_MOST_COUNTS}: give counts as they were detected",
        )
    whole = np.rint(counts)
    if np.abs(whole - counts).max() > _NOT_WHOLE:
        raise OgipError(
            spectrum.path,
            "counts are not whole numbers: the likelihood needs counts as they were detected",
        )
    return whole.astype(np.int32)


def _keyword(spectrum: Spectrum, key: str) -> str:
    return str(spectrum.header.get(key, "")).strip().upper()
