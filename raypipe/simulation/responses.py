"""Instruments from real response files."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from raypipe.errors import OgipError, UsageError
from raypipe.identity import parse_csc_name
from raypipe.ogip import Arf, Rmf, read_arf, read_rmf
from raypipe.simulation.energy import FloatArray
from raypipe.simulation.instrument import Instrument
from raypipe.spectra.grid import NATIVE_CHANNELS

logger = logging.getLogger(__name__)

RESPONSE_NAME = re.compile(r"(?P<stem>.+)[._]w?(?P<kind>arf|rmf)3?(\.fits?)?(\.gz)?", re.IGNORECASE)
BACK_ILLUMINATED_WIDTHS = 0.48
"""Back-illuminated chips: peaks at 0.5 keV at least this wide in units of those at 5.9 keV (0.60,
against 0.30-0.40 on front-illuminated chips)."""
UNKNOWN_YEAR = 2000.0


def read_responses(folder: Path) -> tuple[Instrument, ...]:
    """Read every ARF/RMF pair of `folder` for ACIS (1024 channels), ordered by name.

    A pair shares its stem: `x.arf` and `x.rmf.gz`, `x_arf3.fits.gz` and `x_rmf3.fits.gz`; the
    versions of two products of the Chandra Source Catalog may differ. Pairs for other detectors are
    left out with a warning. Raises UsageError where the folder is missing or holds no pair,
    OgipError where a file of a pair is not readable.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of responses")
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        match = RESPONSE_NAME.fullmatch(path.name)
        if match:
            product = parse_csc_name(path.name)
            pair = product.region if product else match["stem"]
            found[pair][match["kind"].lower()] = path
    pairs = {name: kinds for name, kinds in found.items() if len(kinds) == 2}
    instruments = [_instrument(name, kinds["arf"], kinds["rmf"]) for name, kinds in pairs.items()]
    usable = tuple(each for each in instruments if each is not None)
    if not usable:
        raise UsageError(
            f"{folder}: no ARF/RMF pair of ACIS in it (found {len(found)} stems with responses; "
            "a pair is NAME.arf with NAME.rmf, or NAME_arf3.fits with NAME_rmf3.fits, .gz or not)"
        )
    return usable


def _instrument(name: str, arf_path: Path, rmf_path: Path) -> Instrument | None:
    arf, rmf = read_arf(arf_path), read_rmf(rmf_path)
    camera = str(rmf.header.get("INSTRUME") or "ACIS")
    if not camera.startswith("ACIS") or len(rmf.channels) != NATIVE_CHANNELS:
        logger.warning(
            "%s: passed over, %s with %d channels is not ACIS with %d",
            rmf_path,
            camera,
            len(rmf.channels),
            NATIVE_CHANNELS,
        )
        return None
    if rmf.includes_area:
        raise OgipError(str(rmf_path), "a matrix with the area in it, expected HDUCLAS3 REDIST")
    edges = _edges(rmf, rmf_path)
    detnam = str(rmf.header.get("DETNAM") or arf.header.get("DETNAM") or "ACIS")
    return Instrument(
        name=name,
        detnam=detnam,
        back_illuminated=_is_back_illuminated(rmf),
        year=_year(arf, rmf),
        energy_edges_kev=edges,
        area_cm2=arf.area_on(edges[:-1], edges[1:]),
        redistribution=rmf.matrix,
        channel_energy_kev=np.asarray(rmf.channel_energy_kev, dtype=float),
        vignettes=parse_csc_name(rmf_path.name) is None,
    )


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


def _year(arf: Arf, rmf: Rmf) -> float:
    date = str(arf.header.get("DATE-OBS") or rmf.header.get("DATE-OBS") or "")
    match = re.match(r"(\d{4})-(\d{2})", date)
    return int(match[1]) + (int(match[2]) - 1) / 12 if match else UNKNOWN_YEAR
