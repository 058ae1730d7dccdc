"""Date simulated observations: the times on Chandra's clock and the cards that state them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from raypipe.simulation.fits_template import Card, Value
from raypipe.simulation.instrument import Instrument

MJD_REFERENCE = 50814.0
"""Zero point of Chandra's clock, 1998-01-01."""
MJD_2000 = 51544.0
SECONDS_PER_DAY = 86400.0
GOLDEN_RATIO = 0.6180339887498949

Row = Mapping[str, Any]
"""One detection's values of `Survey.table`."""


def epoch_cards(instrument: Instrument) -> list[Card]:
    """Return the card that dates the files of a response; none for other telescopes than ACIS."""
    if not instrument.is_acis:
        return []
    start = (_mjd(instrument.year) - MJD_REFERENCE) * SECONDS_PER_DAY
    return [("DATE-OBS", _date(start), "epoch of the response")]


def clock_start(instrument: Instrument, row: Row) -> float:
    """Return the time on the clock, s, at which the observation of a detection starts.

    Observations are spread over the instrument's year by their numbers.
    """
    share = float(row["obsid"]) * GOLDEN_RATIO % 1.0
    return round((_mjd(instrument.year + share) - MJD_REFERENCE) * SECONDS_PER_DAY, 3)


def clock_values(start: float, stop: float) -> dict[str, Value]:
    """Return the values of `clock_cards` for an observation."""
    return {
        "TSTART": start,
        "TSTOP": stop,
        "DATE-OBS": _date(start),
        "DATE-END": _date(stop),
    }


def clock_cards() -> list[Card]:
    """Return the cards that date an observation; `clock_values` has their values."""
    return [
        ("DATE-OBS", "", "observation start date, TT"),
        ("DATE-END", "", "observation end date, TT"),
        ("MJDREF", MJD_REFERENCE, "zero point of times"),
        ("TIMEZERO", 0.0, "clock correction"),
        ("TIMESYS", "TT", "time system"),
        ("TIMEUNIT", "s", ""),
        ("TSTART", 0.0, "observation start time"),
        ("TSTOP", 0.0, "observation end time"),
    ]


def _date(clock: float) -> str:
    date = datetime(1858, 11, 17) + timedelta(days=MJD_REFERENCE, seconds=clock)
    return date.isoformat(timespec="seconds")


def _mjd(year: float) -> float:
    return MJD_2000 + 365.25 * (year - 2000.0)
