"""Write the PHA files of a detection by another telescope than ACIS.

Spectrum and background are files of their own, on the channels of the response, with the keywords
that OGIP asks for; the spectrum names its background and its responses.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from raypipe.simulation.clock import Row, clock_cards, clock_start, clock_values
from raypipe.simulation.fits_template import (
    Card,
    HeaderTemplate,
    Value,
    primary_cards,
    table_bytes,
    table_cards,
)
from raypipe.simulation.instrument import Instrument
from raypipe.simulation.products import class_cards, gzipped, mission_cards

FILE_PREFIX = "file:"
"""Beginning of a detection_id that is made from a file's name."""

NAMES = re.compile(
    r"sim(\d{6,}_[a-z0-9.+-]+(\.pha|_bkg\.pha|\.arf)|_[A-Za-z0-9._+-]+\.rmf)\.gz(\.partial)?"
)
"""Names of all files of such detections."""

COUNTS_DTYPE = np.dtype([("CHANNEL", ">i4"), ("COUNTS", ">i4")])


def mission_stem(instrument: Instrument, obsid: int) -> str:
    """Return the name that the files of a detection share."""
    return f"sim{obsid:06d}_{_plain(instrument.mission).lower()}"


def mission_names(instrument: Instrument, row: Row) -> dict[str, str]:
    """Return the names of a detection's "pha", "background", "arf" and "rmf"."""
    stem = mission_stem(instrument, int(row["obsid"]))
    return {
        "pha": f"{stem}.pha.gz",
        "background": f"{stem}_bkg.pha.gz",
        "arf": f"{stem}.arf.gz",
        "rmf": f"sim_{_plain(instrument.name)}.rmf.gz",
    }


def _plain(name: str) -> str:
    """Return a name in characters that any file system takes."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name)[:80]


def mission_pha(
    instrument: Instrument, row: Row, counts: npt.NDArray[np.int32], *, is_background: bool
) -> bytes:
    """Return the gzipped PHA of a source region, or that of its background region."""
    primary, table = _templates(instrument, is_background)
    names = mission_names(instrument, row)
    start = clock_start(instrument, row)
    common: dict[str, Value] = {
        "OBJECT": str(row["name"]),
        "OBS_ID": str(row["obsid"]),
        "RA_OBJ": float(row["ra"]),
        "DEC_OBJ": float(row["dec"]),
        **clock_values(start, start + float(row["exposure_s"])),
        "EXPOSURE": float(row["exposure_s"]),
        "BACKSCAL": float(row["background_backscal" if is_background else "backscal"]),
    }
    files: dict[str, Value] = {
        "BACKFILE": names["background"],
        "ANCRFILE": names["arf"],
        "RESPFILE": names["rmf"],
    }
    records = np.empty(len(counts), dtype=COUNTS_DTYPE)
    records["CHANNEL"] = np.arange(len(counts)) + instrument.first_channel
    records["COUNTS"] = counts
    header = table.render(common if is_background else {**common, **files})
    return gzipped(primary.render({}) + table_bytes(header, records))


@lru_cache(maxsize=128)
def _templates(
    instrument: Instrument, is_background: bool
) -> tuple[HeaderTemplate, HeaderTemplate]:
    channels, first = len(instrument.channel_energy_kev), instrument.first_channel
    cards: list[Card] = [
        *table_cards("SPECTRUM", COUNTS_DTYPE, channels, units={"COUNTS": "count"}),
        ("TLMIN1", first, "first channel"),
        ("TLMAX1", first + channels - 1, "highest channel"),
        *class_cards("SPECTRUM", "BKG" if is_background else "TOTAL", "COUNT", version="1.1.0"),
        *mission_cards(instrument),
        ("OBJECT", "", "source name"),
        ("OBS_ID", "", "observation id"),
        ("RA_OBJ", 0.0, "[deg] position of the source"),
        ("DEC_OBJ", 0.0, "[deg] position of the source"),
        ("EQUINOX", 2000.0, ""),
        *clock_cards(),
        ("EXPOSURE", 0.0, "[s] exposure time"),
        ("CHANTYPE", "PI", "channel type"),
        ("DETCHANS", channels, "number of channels"),
        ("BACKSCAL", 0.0, "area of the region"),
        ("AREASCAL", 1.0, ""),
        ("CORRSCAL", 0.0, ""),
        ("POISSERR", True, "assumed Poisson errors"),
        ("SYS_ERR", 0.0, "systematic errors"),
        ("QUALITY", 0, "quality flag"),
        ("GROUPING", 0, "grouping flag"),
        ("BACKFILE", "none", ""),
        ("CORRFILE", "none", ""),
        ("RESPFILE", "none", ""),
        ("ANCRFILE", "none", ""),
    ]
    return HeaderTemplate([*primary_cards(), *mission_cards(instrument)]), HeaderTemplate(cards)
