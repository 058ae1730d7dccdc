"""Make instruments from real response files, of any telescope."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from raypipe.errors import OgipError, UsageError
from raypipe.identity import parse_csc_name
from raypipe.ogip import Arf, Pha, Rmf, read_arf, read_pha, read_rmf
from raypipe.physics.energy import BAND_KEV, FloatArray
from raypipe.simulation.instrument import Instrument
from raypipe.simulation.measured_background import MeasuredBackground, measured_background
from raypipe.simulation.response_files import ResponseFiles, find_response_files
from raypipe.spectra.channel_bins import channel_bins_of

logger = logging.getLogger(__name__)

BACK_ILLUMINATED_WIDTHS = 0.48
"""Back-illuminated chips: peaks at 0.5 keV at least this wide in units of those at 5.9 keV (0.60,
against 0.30-0.40 on front-illuminated chips)."""
UNKNOWN_YEAR = 2000.0


def read_responses(*folders: Path) -> tuple[Instrument, ...]:
    """Read every response in `folders` and the folders in them, ordered by name.

    `find_response_files` says how files are paired; a matrix that includes the area needs no ARF. A
    file that cannot be paired and a response that the model cannot use (HRC, and what
    `channel_bins_of` refuses) are passed over with a warning. An instrument takes the background of
    the spectrum that was observed through it (`measured_background`), else, unless it is ACIS, of
    another one of its telescope and camera. Raises UsageError where a folder is missing or there is
    no response in all of them, OgipError where a response is not readable.
    """
    found: list[Instrument] = []
    for folder in folders:
        pairs, problems = find_response_files(folder)
        for problem in problems:
            logger.warning("%s", problem)
        found += [each for each in map(_instrument, pairs) if each is not None]
    if not found:
        raise UsageError(
            f"{', '.join(map(str, folders))}: no ARF/RMF pair in it; a pair is NAME.arf with "
            "NAME.rmf, or NAME_arf3.fits with NAME_rmf3.fits, .gz or not, or the only RMF of a "
            "folder with each ARF there, or what an index.json lists"
        )
    return _with_backgrounds(_with_unique_names(found))


def _instrument(files: ResponseFiles) -> Instrument | None:
    rmf = read_rmf(files.rmf)
    arf = None if files.arf is None else read_arf(files.arf)
    headers = [rmf.header] if arf is None else [arf.header, rmf.header]
    telescope = _word("TELESCOP", headers, "CHANDRA")
    camera = _word("INSTRUME", headers, "ACIS")
    if camera.startswith("HRC"):
        logger.warning("%s: passed over, %s has almost no energy resolution", files.rmf, camera)
        return None
    if arf is None and not rmf.includes_area:
        logger.warning(
            "%s: passed over, no ARF found for it; give both the same name (NAME.arf, NAME.rmf)",
            files.rmf,
        )
        return None
    try:
        channel_bins_of(rmf, str(files.rmf))
    except OgipError as error:
        logger.warning("%s; passed over", error)
        return None
    edges = _edges(rmf, files.rmf)
    area, redistribution = _area_and_redistribution(files, arf, rmf, edges)
    instrument = Instrument(
        name=files.name,
        detnam=_word("DETNAM", headers[::-1], camera),
        back_illuminated=False,
        year=_year(_word("DATE-OBS", headers, "")),
        energy_edges_kev=edges,
        area_cm2=area,
        redistribution=redistribution,
        channel_energy_kev=np.asarray(rmf.channel_energy_kev, dtype=float),
        vignettes=parse_csc_name(files.rmf.name) is None,
        telescope=telescope,
        camera=camera,
        first_channel=int(rmf.channels[0]),
        background=_background(files, rmf),
    )
    if not area[_energies_in_band(edges)].any() or not instrument.channels_in_band.any():
        logger.warning(
            "%s: passed over, the response sees nothing between %g and %g keV", files.rmf, *BAND_KEV
        )
        return None
    if not instrument.is_acis:
        return replace(instrument, vignettes=False)
    return replace(instrument, back_illuminated=_is_back_illuminated(rmf))


def _area_and_redistribution(
    files: ResponseFiles, arf: Arf | None, rmf: Rmf, edges_kev: FloatArray
) -> tuple[FloatArray, sparse.csr_array]:
    """Return area (m,) and redistribution (m, n), divided if the matrix holds both."""
    if arf is None:
        area = np.asarray(rmf.matrix.sum(axis=1), dtype=float)
        per_area = np.divide(1.0, area, out=np.zeros_like(area), where=area > 0)
        shares = sparse.csr_array(sparse.diags_array(per_area) @ rmf.matrix)
        return area, shares.astype(np.float32)
    if rmf.includes_area:
        raise OgipError(
            str(files.rmf),
            f"the matrix has the area in it, and there is an ARF ({files.arf}): remove one of them",
        )
    return arf.area_on(edges_kev[:-1], edges_kev[1:]), rmf.matrix


def _background(files: ResponseFiles, rmf: Rmf) -> MeasuredBackground | None:
    if files.spectrum is None:
        return None
    try:
        spectrum = read_pha(files.spectrum)
        region: Pha | None = None
        if files.background is not None:
            region = read_pha(files.background)
            region = region.background or region
        return measured_background(spectrum, region, rmf, str(files.spectrum))
    except OgipError as error:
        logger.warning("%s; its background is not used", error)
        return None


def _with_backgrounds(instruments: Sequence[Instrument]) -> tuple[Instrument, ...]:
    """Lend measured backgrounds to instruments without one of the same camera, except to ACIS.

    The built-in background knows ACIS and its chips better than another observation does.
    """
    known = {each.mission: each for each in instruments if each.background is not None}
    completed = []
    for each in instruments:
        lender = known.get(each.mission)
        fits = lender is not None and len(lender.channel_energy_kev) == len(each.channel_energy_kev)
        if each.background is None and not each.is_acis and lender is not None and fits:
            each = replace(each, background=lender.background)
        completed.append(each)
    return tuple(completed)


def _with_unique_names(instruments: Sequence[Instrument]) -> list[Instrument]:
    """Number the names that occur in several folders."""
    seen: dict[str, int] = {}
    named = []
    for each in instruments:
        seen[each.name] = seen.get(each.name, 0) + 1
        again = seen[each.name] > 1
        named.append(replace(each, name=f"{each.name}-{seen[each.name]}") if again else each)
    return named


def _word(key: str, headers: Sequence[Mapping[str, Any]], default: str) -> str:
    """Return the first word of the headers for a keyword that is not blank or NONE."""
    words = (str(header.get(key) or "").strip() for header in headers)
    return next((word for word in words if word and word.upper() != "NONE"), default)


def _energies_in_band(edges_kev: FloatArray) -> npt.NDArray[np.bool_]:
    return (edges_kev[1:] > BAND_KEV[0]) & (edges_kev[:-1] < BAND_KEV[1])


def _edges(rmf: Rmf, path: Path) -> FloatArray:
    lower, upper = np.asarray(rmf.energy_lo_kev), np.asarray(rmf.energy_hi_kev)
    if not np.allclose(lower[1:], upper[:-1], rtol=1e-4):
        raise OgipError(str(path), "energy bins with gaps between them, expected adjoining ones")
    return np.append(lower, upper[-1]).astype(float)


def _is_back_illuminated(rmf: Rmf) -> bool:
    """Tell the kind of chip by its peaks: headers name every chip of a pointing."""
    return _peak_width(rmf, 0.5) > BACK_ILLUMINATED_WIDTHS * _peak_width(rmf, 5.9)


def _peak_width(rmf: Rmf, energy_kev: float) -> float:
    """Return the width of the channels above half the peak, keV."""
    row = int(np.searchsorted(np.asarray(rmf.energy_hi_kev), energy_kev))
    probability = rmf.matrix[[row], :].toarray()[0]
    above = np.flatnonzero(probability > 0.5 * probability.max())
    bounds = np.asarray(rmf.channel_energy_kev)
    return float(bounds[above[-1], 1] - bounds[above[0], 0])


def _year(date: str) -> float:
    match = re.match(r"(\d{4})-(\d{2})", date)
    return int(match[1]) + (int(match[2]) - 1) / 12 if match else UNKNOWN_YEAR
