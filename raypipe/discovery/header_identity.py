"""Identify spectra outside the Chandra Source Catalog from their headers.

OBJECT is the name of the observation's target, which need not be the source of the spectrum: all
spectra from an observation of M31 have "M31" there. It is kept as `target_name` (the name that the
IVOA's ObsCore has for it), and becomes the `name` of a source only if it can mean a single one
(`source_names`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.archive.positions import MISSING
from raypipe.ogip.regions import region_position
from raypipe.redaction import printable

REGION, TARGET, CATALOG = "region", "target", "catalog"
"""Values of `position_from`: the extraction region, the target of the observation, a table."""

SAME_ARCSEC = 2.0
"""Distance within which two extraction regions are at one position."""

NEAR_TARGET_ARCSEC = 60.0
"""Distance from a target's position within which a region may be that of the target: positions of
targets are those of proposals, and jets and companions of a target have its name."""

_MOST_CHARACTERS = 100
_NO_TARGET = {*MISSING, "csc"}
"""Values of OBJECT that name no target; products of CSC 2.0 have "CSC"."""

_TARGET_KEYS = (("RA_TARG", "DEC_TARG"), ("RA_OBJ", "DEC_OBJ"))
_WHOLE = re.compile(r"\d{1,18}(\.0*)?", re.ASCII)


@dataclass(frozen=True)
class HeaderIdentity:
    """Hold target, observation and position (deg, ICRS) of a spectrum; None if unknown.

    `is_near_target` is false if the extraction region is too far from the target to be its own.
    """

    target_name: str | None = None
    obsid: int | None = None
    ra: float | None = None
    dec: float | None = None
    position_from: str | None = None
    is_near_target: bool = True


def header_identity(header: Mapping[str, Any]) -> HeaderIdentity:
    """Read target, observation and position from the header of a spectrum, which may hold anything.

    The position is the center of the extraction region if the header has one, else that of the
    target; positions of another equinox than 2000 are not used.
    """
    name, obsid = _target_name(header.get("OBJECT")), _obsid(header.get("OBS_ID"))
    if _degrees(header.get("EQUINOX")) not in (None, 2000.0):
        return HeaderIdentity(name, obsid)
    region, target = region_position(header), _target_position(header)
    if region is not None:
        is_near = target is None or _separation_arcsec(region, target) <= NEAR_TARGET_ARCSEC
        return HeaderIdentity(name, obsid, *region, REGION, is_near)
    if target is not None:
        return HeaderIdentity(name, obsid, *target, TARGET)
    return HeaderIdentity(name, obsid)


def source_names(identities: Sequence[HeaderIdentity]) -> list[str | None]:
    """Name the source of each spectrum of a folder: its target's name if that means one source.

    That is so if only one spectrum has this target, or if all of them are from different
    observations and their extraction regions are at one position; spectra from regions far from
    the target do not count. All others get no name, so that each of them is a source by itself.
    """
    by_target: dict[str, list[HeaderIdentity]] = defaultdict(list)
    for identity in identities:
        if (key := _key(identity)) is not None:
            by_target[key].append(identity)
    names = {
        key: min(each.target_name or "" for each in some)
        for key, some in by_target.items()
        if _are_one_source(some)
    }
    return [None if key is None else names.get(key) for key in map(_key, identities)]


def _key(identity: HeaderIdentity) -> str | None:
    """Return the key that spectra of one target may share."""
    if identity.target_name is None or not identity.is_near_target:
        return None
    return identity.target_name.casefold()


def _are_one_source(some: Sequence[HeaderIdentity]) -> bool:
    if len(some) == 1:
        return True
    observations = {each.obsid for each in some if each.obsid is not None}
    if len(observations) < len(some) or any(each.position_from != REGION for each in some):
        return False
    places = sorted(
        (each.ra, each.dec) for each in some if each.ra is not None and each.dec is not None
    )
    return all(_separation_arcsec(places[0], place) <= SAME_ARCSEC for place in places)


def _separation_arcsec(first: tuple[float, float], second: tuple[float, float]) -> float:
    from astropy.coordinates import angular_separation

    return float(np.degrees(angular_separation(*np.radians([*first, *second]))) * 3600)


def _target_name(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = " ".join(str(value)[: 4 * _MOST_CHARACTERS].split())
    return None if text.lower() in _NO_TARGET else printable(text, _MOST_CHARACTERS)


def _obsid(value: Any) -> int | None:
    """Return an observation's id if it is a whole number of 18 digits at most."""
    if isinstance(value, bool):
        return None
    text = str(value).strip()
    return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None


def _target_position(header: Mapping[str, Any]) -> tuple[float, float] | None:
    for keys in _TARGET_KEYS:
        ra, dec = (_degrees(header.get(key)) for key in keys)
        # Tools that know no target write zeros.
        if ra is None or dec is None or (ra, dec) == (0.0, 0.0):
            continue
        if -180 <= ra <= 360 and -90 <= dec <= 90:
            return ra % 360, dec
    return None


def _degrees(value: Any) -> float | None:
    """Return a number, also one that is written as text, if it is finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None
