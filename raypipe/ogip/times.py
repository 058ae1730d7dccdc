"""Read the times of an observation from the headers of its spectrum.

Sources: OGIP/93-003 and FITS Standard 4.0, section 9: a time on a mission's clock is
MJDREF + (TIMEZERO + TSTART) / 86400 days in the time system TIMESYS, where MJDREF may be split into
MJDREFI and MJDREFF. TIMESYS is UTC where the header does not say.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from raypipe.ogip.header import as_number

_DAY_S = 86400.0
_UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "h": 3600.0, "d": _DAY_S, "day": _DAY_S}
"""Seconds of each TIMEUNIT."""

_SCALES = {
    "UTC": "utc", "GMT": "utc", "TT": "tt", "TDT": "tt", "ET": "tt", "TDB": "tdb", "TAI": "tai",
    "IAT": "tai", "TCG": "tcg", "TCB": "tcb",
}  # fmt: skip
"""Names of time systems in headers, and what astropy calls them."""

_EARLIEST, _LATEST = 36204.0, 88069.0
"""Modified Julian Dates of 1958 and 2100: no other year is that of a spectrum."""

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d*)?)Z?", re.ASCII)
_ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_OLD_DAY = re.compile(r"(\d\d)/(\d\d)/(\d\d)", re.ASCII)
_TIME_OF_DAY = re.compile(r"\d\d:\d\d:\d\d(\.\d*)?", re.ASCII)

Header = Mapping[str, Any]


class Times(NamedTuple):
    """Hold start and stop of an observation, Modified Julian Dates in TT; None if unknown."""

    mjd_start: float | None = None
    mjd_stop: float | None = None


UNKNOWN_TIMES = Times()


def observation_times(headers: Sequence[Header]) -> Times:
    """Return when an observation began and ended, from the headers of a file in order of trust.

    The first header with TSTART and a reference decides; if there is none, the first with DATE-OBS
    (and TIME-OBS) does, and DATE-END then gives the end. Keywords that describe the clock may be in
    a later header. A date without a time of day, a time system that astropy does not know, and an
    end before the start count as unknown; EXPOSURE is never added to a start.
    """
    for read in (_on_the_clock, _by_date):
        for number, header in enumerate(headers):
            later: list[Any] = list(headers[number:])
            times = read(header, ChainMap(*later))
            if times.mjd_start is not None:
                return times
    return UNKNOWN_TIMES


def _on_the_clock(header: Header, around: Header) -> Times:
    """Read TSTART and TSTOP of a header; `around` describes the clock."""
    reference, scale = _reference(around), _scale(around)
    unit = _UNITS.get(str(around.get("TIMEUNIT", "s")).strip().lower().removesuffix("s") or "s")
    if reference is None or scale is None or unit is None:
        return UNKNOWN_TIMES
    zero = _split(around, "TIMEZERO", "TIMEZERI", "TIMEZERF") or 0.0
    start, stop = (
        None if value is None else _terrestrial(reference, (zero + value) * unit / _DAY_S, scale)
        for value in (as_number(header.get(key)) for key in ("TSTART", "TSTOP"))
    )
    return _sound(start, stop)


def _by_date(header: Header, around: Header) -> Times:
    """Read DATE-OBS and DATE-END of a header."""
    scale = _scale(around)
    if scale is None and str(around.get("TIMESYS", "")).strip()[:4].isdigit():
        # Headers of ASCA have the epoch of the clock, "1993.0", and dates in UTC.
        scale = "utc"
    if scale is None:
        return UNKNOWN_TIMES
    start, stop = (_date(header, end, scale) for end in ("OBS", "END"))
    return _sound(start, stop)


def _reference(header: Header) -> float | None:
    return _split(header, "MJDREF", "MJDREFI", "MJDREFF")


def _split(header: Header, whole: str, integer: str, fraction: str) -> float | None:
    """Return a number that is in one keyword or in two that add up."""
    parts = [as_number(header.get(key)) for key in (integer, fraction)]
    if parts[0] is not None:
        return parts[0] + (parts[1] or 0.0)
    return as_number(header.get(whole))


def _scale(header: Header) -> str | None:
    return _SCALES.get(str(header.get("TIMESYS") or "UTC").strip().upper())


def _date(header: Header, end: str, scale: str) -> float | None:
    """Return DATE-OBS or DATE-END, with the time of day in it or in TIME-OBS or TIME-END."""
    day, clock = (str(header.get(f"{key}-{end}") or "").strip() for key in ("DATE", "TIME"))
    if match := _ISO.fullmatch(day):
        day, clock = match.groups()
    elif match := _OLD_DAY.fullmatch(day):
        day = "19{2}-{1}-{0}".format(*match.groups())
    if not _ISO_DAY.fullmatch(day) or not _TIME_OF_DAY.fullmatch(clock):
        return None
    from astropy.time import Time  # Takes long to import.

    try:
        return float(Time(f"{day}T{clock}", format="isot", scale=scale).tt.mjd)
    except ValueError:
        return None


def _terrestrial(reference: float, days: float, scale: str) -> float | None:
    """Return the MJD in TT of a time that is `days` after `reference` in another time system."""
    if not _EARLIEST <= reference + days <= _LATEST:
        return None
    if scale == "tt":
        return reference + days
    from astropy.time import Time, TimeDelta  # Takes long to import.

    # Seconds of UTC are counted with its leap seconds.
    return float((Time(reference, format="mjd", scale=scale) + TimeDelta(days, format="jd")).tt.mjd)


def _sound(start: float | None, stop: float | None) -> Times:
    """Return the times if they can be those of an observation."""
    if start is None or not _EARLIEST <= start <= _LATEST:
        return UNKNOWN_TIMES
    if stop is not None and not start <= stop <= _LATEST:
        return UNKNOWN_TIMES
    return Times(start, stop)
