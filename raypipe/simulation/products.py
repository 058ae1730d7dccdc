"""Write PHA, ARF and RMF files of a detection with the layout of the Chandra Source Catalog."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from isal import igzip

from raypipe._version import __version__
from raypipe.identity import CscName
from raypipe.physics.energy import FloatArray
from raypipe.simulation.clock import Row, clock_cards, clock_start, clock_values, epoch_cards
from raypipe.simulation.fits_template import (
    Card,
    HeaderTemplate,
    Value,
    primary_cards,
    table_bytes,
    table_cards,
)
from raypipe.simulation.instrument import Instrument

INSTRUMENT = "acis"
VERSION = 1
"""The instrument and the N of the file names."""
GZIP_LEVEL = 1
DEAD_TIME_CORRECTION = 0.987
"""Live time per on time, a typical value of ACIS."""
MAX_WORD = 60
"""Characters of a keyword's value that certainly fit a card."""

SPECTRUM_DTYPE = np.dtype(
    [("CHANNEL", ">i4"), ("PI", ">f8"), ("COUNTS", ">i4"), ("COUNT_RATE", ">f8")]
)
GTI_DTYPE = np.dtype([("START", ">f8"), ("STOP", ">f8")])
ARF_DTYPE = np.dtype(
    [("ENERG_LO", ">f4"), ("ENERG_HI", ">f4"), ("SPECRESP", ">f4"), ("PSF_FRAC", ">f8")]
)
EBOUNDS_DTYPE = np.dtype([("CHANNEL", ">i4"), ("E_MIN", ">f4"), ("E_MAX", ">f4")])
MATRIX_DTYPE = np.dtype(
    [
        ("ENERG_LO", ">f4"),
        ("ENERG_HI", ">f4"),
        ("N_GRP", ">i2"),
        ("F_CHAN", ">i4", (2,)),
        ("N_CHAN", ">i4", (2,)),
        ("MATRIX", ">i4", (2,)),
    ]
)


def product_name(row: Row, kind: str) -> str:
    """Return the file name of a detection's "pha3", "arf3" or "rmf3"."""
    return f"{_csc_name(row, kind).plain}.gz"


def _csc_name(row: Row, kind: str) -> CscName:
    return CscName(INSTRUMENT, row["obsid"], row["obi"], VERSION, 0, row["region_id"], kind)


def pha_file(
    instrument: Instrument,
    row: Row,
    counts: npt.NDArray[np.int32],
    background_counts: npt.NDArray[np.int32],
) -> bytes:
    """Return a gzipped PHA file: total spectrum, good time interval, background spectrum."""
    primary, total, gti, background = _pha_templates(instrument)
    exposure = float(row["exposure_s"])
    on_time = exposure / DEAD_TIME_CORRECTION
    start = clock_start(instrument, row)
    clock = clock_values(start, start + on_time)
    identity = _identity(row)
    timing: dict[str, Value] = {
        "EXPOSURE": exposure,
        "LIVETIME": exposure,
        "ONTIME": on_time,
        **clock,
    }
    pha = _csc_name(row, "pha3").plain
    source_header = total.render(
        {
            **identity,
            **timing,
            "BACKSCAL": float(row["backscal"]),
            "TOTCTS": int(counts.sum()),
            "BACKFILE": pha,
            "ANCRFILE": _csc_name(row, "arf3").plain,
            "RESPFILE": _csc_name(row, "rmf3").plain,
        }
    )
    background_header = background.render(
        {
            **identity,
            **timing,
            "BACKSCAL": float(row["background_backscal"]),
            "TOTCTS": int(background_counts.sum()),
        }
    )
    interval = np.array([(start, start + on_time)], dtype=GTI_DTYPE)
    return gzipped(
        primary.render(identity | clock)
        + table_bytes(source_header, _spectrum(counts, exposure))
        + table_bytes(gti.render(clock), interval)
        + table_bytes(background_header, _spectrum(background_counts, exposure))
    )


def arf_file(instrument: Instrument, row: Row, area_cm2: npt.NDArray[np.float32]) -> bytes:
    """Return a gzipped ARF file."""
    primary, table = _arf_templates(instrument)
    edges = instrument.energy_edges_kev
    records = np.empty(len(area_cm2), dtype=ARF_DTYPE)
    records["ENERG_LO"] = edges[:-1]
    records["ENERG_HI"] = edges[1:]
    records["SPECRESP"] = area_cm2
    records["PSF_FRAC"] = row["psf_fraction"]
    identity = _identity(row)
    header = table.render({**identity, "EXPOSURE": float(row["exposure_s"])})
    return gzipped(primary.render(identity) + table_bytes(header, records))


def rmf_file(instrument: Instrument) -> bytes:
    """Return a gzipped RMF file: the matrix, with one group of channels per row, and EBOUNDS."""
    records, heap, widest, elements = _matrix(instrument)
    channels_in_all = len(instrument.channel_energy_kev)
    first, last = instrument.first_channel, instrument.first_channel + channels_in_all - 1
    common = [*mission_cards(instrument), *epoch_cards(instrument)]
    channels: list[Card] = [
        ("CHANTYPE", "PI", "type of channels"),
        ("DETCHANS", channels_in_all, "number of detector channels"),
        ("RMFVERSN", "1992a", "obsolete"),
    ]
    matrix_header = HeaderTemplate(
        [
            *table_cards(
                "RSP_MATRIX",
                MATRIX_DTYPE,
                len(records),
                units={"ENERG_LO": "keV", "ENERG_HI": "keV"},
                formats={"F_CHAN": "1PI(1)", "N_CHAN": "1PI(1)", "MATRIX": f"1PE({widest})"},
                heap_bytes=len(heap),
            ),
            ("TLMIN4", first, "first channel in the response"),
            ("TLMAX4", last, "highest channel in the response"),
            *class_cards("RESPONSE", "RSP_MATRIX", "REDIST", version="1.3.0"),
            *common,
            *channels,
            ("LO_THRES", 1e-6, "probabilities below are left out"),
            ("NUMGRP", len(records), "sum of the N_GRP column"),
            ("NUMELT", elements, "sum of the N_CHAN column"),
        ]
    )
    bounds = np.empty(channels_in_all, dtype=EBOUNDS_DTYPE)
    bounds["CHANNEL"] = np.arange(first, last + 1)
    bounds["E_MIN"], bounds["E_MAX"] = instrument.channel_energy_kev.T
    bounds_header = HeaderTemplate(
        [
            *table_cards(
                "EBOUNDS", EBOUNDS_DTYPE, channels_in_all, units={"E_MIN": "keV", "E_MAX": "keV"}
            ),
            ("TLMIN1", first, "first channel"),
            ("TLMAX1", last, "highest channel"),
            *class_cards("RESPONSE", "EBOUNDS", version="1.2.0"),
            *common,
            *channels,
        ]
    )
    primary = HeaderTemplate([*primary_cards(), *common])
    return gzipped(
        primary.render({})
        + table_bytes(matrix_header.render({}), records, heap)
        + table_bytes(bounds_header.render({}), bounds)
    )


def gzipped(data: bytes) -> bytes:
    """Return data in gzip's format, the same bytes at any time."""
    compressed: bytes = igzip.compress(data, GZIP_LEVEL, mtime=0)
    return compressed


def _spectrum(counts: npt.NDArray[np.int32], exposure_s: float) -> npt.NDArray[np.void]:
    records = np.empty(len(counts), dtype=SPECTRUM_DTYPE)
    records["CHANNEL"] = records["PI"] = np.arange(1, len(counts) + 1)
    records["COUNTS"] = counts
    records["COUNT_RATE"] = counts / exposure_s
    return records


def _matrix(instrument: Instrument) -> tuple[npt.NDArray[np.void], bytes, int, int]:
    """Return the rows of the matrix table, its heap, the longest row and the number of elements."""
    dense: FloatArray = instrument.redistribution.toarray()
    filled = dense > 0
    first = filled.argmax(axis=1)
    last = dense.shape[1] - filled[:, ::-1].argmax(axis=1)
    length = np.where(filled.any(axis=1), last - first, 1)
    records = np.zeros(len(dense), dtype=MATRIX_DTYPE)
    records["ENERG_LO"] = instrument.energy_edges_kev[:-1]
    records["ENERG_HI"] = instrument.energy_edges_kev[1:]
    records["N_GRP"] = 1
    short = 2 * np.arange(len(dense))
    records["F_CHAN"] = np.stack([np.ones_like(short), short], axis=1)
    records["N_CHAN"] = np.stack([np.ones_like(short), short + 2 * len(dense)], axis=1)
    # The heap has F_CHAN of all rows, N_CHAN of all rows (int16), and then the matrix (float32). A
    # descriptor is a number of elements and an offset in the heap, bytes.
    values_at = 4 * len(dense) + 4 * (np.cumsum(length) - length)
    records["MATRIX"] = np.stack([length, values_at], axis=1)
    values = [row[a : a + n] for row, a, n in zip(dense, first, length, strict=True)]
    heap = (
        (first + instrument.first_channel).astype(">i2").tobytes()
        + length.astype(">i2").tobytes()
        + np.concatenate(values).astype(">f4").tobytes()
    )
    return records, heap, int(length.max()), int(length.sum())


def _identity(row: Row) -> dict[str, Value]:
    return {
        "OBS_ID": str(row["obsid"]),
        "OBI_NUM": int(row["obi"]),
        "REGIONID": f"{row['region_id']:04d}",
        "RA": float(row["ra"]),
        "DEC": float(row["dec"]),
        "RA_PNT": float(row["ra"]),
        "DEC_PNT": float(row["dec"] - np.copysign(row["off_axis_arcmin"] / 60.0, row["dec"])),
    }


def _identity_cards() -> list[Card]:
    return [
        ("OBJECT", "CSC", "source name"),
        ("OBS_ID", "", "observation id"),
        ("OBI_NUM", 0, "obi number"),
        ("REGIONID", "", "region of the source"),
        ("RA", 0.0, "[deg] position of the source"),
        ("DEC", 0.0, "[deg] position of the source"),
        ("RA_PNT", 0.0, "[deg] pointing"),
        ("DEC_PNT", 0.0, "[deg] pointing"),
        ("EQUINOX", 2000.0, ""),
        ("RADECSYS", "ICRS", ""),
    ]


def mission_cards(instrument: Instrument) -> list[Card]:
    """Return the cards for telescope and instrument."""
    if not instrument.is_acis:
        return _other_mission_cards(instrument)
    return [
        ("ORIGIN", "raypipe", "a simulated product"),
        ("CREATOR", f"raypipe {__version__}", "tool that created this output"),
        ("MISSION", "AXAF", "mission"),
        ("TELESCOP", "CHANDRA", "telescope"),
        ("INSTRUME", "ACIS", "instrument"),
        ("DETNAM", instrument.detnam, "detector"),
        ("GRATING", "NONE", "grating"),
        ("FILTER", "NONE", "filter"),
        ("RESPNAME", instrument.name, "instrument model of the simulation"),
    ]


def _other_mission_cards(instrument: Instrument) -> list[Card]:
    return [
        ("ORIGIN", "raypipe", "a simulated product"),
        ("CREATOR", f"raypipe {__version__}", "tool that created this output"),
        ("TELESCOP", instrument.telescope[:MAX_WORD], "telescope"),
        ("INSTRUME", instrument.camera[:MAX_WORD], "instrument"),
        ("DETNAM", instrument.detnam[:MAX_WORD], "detector"),
        ("GRATING", "NONE", "grating"),
        ("FILTER", "NONE", "filter"),
        ("RESPNAME", instrument.name[:MAX_WORD], "instrument model of the simulation"),
    ]


def class_cards(*classes: str, version: str) -> list[Card]:
    """Return the OGIP class of a table, level by level."""
    levels = [(f"HDUCLAS{level}", name, "") for level, name in enumerate(classes, start=1)]
    return [("HDUCLASS", "OGIP", ""), *levels, ("HDUVERS", version, "format version")]


@lru_cache(maxsize=64)
def _pha_templates(
    instrument: Instrument,
) -> tuple[HeaderTemplate, HeaderTemplate, HeaderTemplate, HeaderTemplate]:
    mission = mission_cards(instrument)
    primary = HeaderTemplate([*primary_cards(), *mission, *clock_cards(), *_identity_cards()])
    gti = HeaderTemplate(
        [
            *table_cards("GTI", GTI_DTYPE, 1, units={"START": "s", "STOP": "s"}),
            *class_cards("GTI", "STANDARD", version="1.0.0"),
            *mission,
            *clock_cards(),
        ]
    )
    return (
        primary,
        HeaderTemplate(_spectrum_cards(instrument, mission, 1, "TOTAL")),
        gti,
        HeaderTemplate(_spectrum_cards(instrument, mission, 2, "BKG")),
    )


def _spectrum_cards(
    instrument: Instrument, mission: list[Card], version: int, content: str
) -> list[Card]:
    channels = len(instrument.channel_energy_kev)
    units = {"CHANNEL": "channel", "PI": "chan", "COUNTS": "count", "COUNT_RATE": "count/s"}
    return [
        *table_cards("SPECTRUM", SPECTRUM_DTYPE, channels, units=units),
        ("EXTVER", version, ""),
        ("TLMIN1", 1, "first channel"),
        ("TLMAX1", channels, "highest channel"),
        ("TLMIN2", 1.0, ""),
        ("TLMAX2", float(channels), ""),
        *class_cards("SPECTRUM", content, "COUNT", version="1.1.0"),
        *mission,
        *_identity_cards(),
        *_chip_cards(instrument),
        *clock_cards(),
        ("ONTIME", 0.0, "[s] sum of GTIs"),
        ("LIVETIME", 0.0, "[s] live time"),
        ("EXPOSURE", 0.0, "[s] exposure time"),
        ("DTCOR", DEAD_TIME_CORRECTION, "dead time correction"),
        ("CHANTYPE", "PI", "channel type"),
        ("DETCHANS", channels, "number of channels"),
        ("BACKSCAL", 0.0, "fractional area"),
        ("AREASCAL", 1.0, "fractional area"),
        ("CORRSCAL", 0.0, ""),
        ("POISSERR", True, "assumed Poisson errors"),
        ("SYS_ERR", 0.0, "systematic errors"),
        ("QUALITY", 0, "quality flag"),
        ("GROUPING", 0, "grouping flag"),
        ("TOTCTS", 0, "[count] total counts"),
        ("BACKFILE", "none", ""),
        ("CORRFILE", "none", ""),
        ("RESPFILE", "none", ""),
        ("ANCRFILE", "none", ""),
    ]


def _chip_cards(instrument: Instrument) -> list[Card]:
    """Return the cards that name the chip in the data subspace; none for several chips."""
    chips = re.findall(r"\d", instrument.detnam)
    if len(chips) != 1:
        return []
    return [("DSTYP1", "ccd_id", "data subspace"), ("DSVAL1", f"{chips[0]}:{chips[0]}", "")]


@lru_cache(maxsize=64)
def _arf_templates(instrument: Instrument) -> tuple[HeaderTemplate, HeaderTemplate]:
    mission = [*mission_cards(instrument), *epoch_cards(instrument)]
    bins = len(instrument.energy_edges_kev) - 1
    units = {"ENERG_LO": "keV", "ENERG_HI": "keV", "SPECRESP": "cm**2"}
    table = HeaderTemplate(
        [
            *table_cards("SPECRESP", ARF_DTYPE, bins, units=units),
            *class_cards("RESPONSE", "SPECRESP", version="1.1.0"),
            ("ARFVERSN", "1992a", ""),
            *mission,
            *_identity_cards(),
            ("EXPOSURE", 0.0, "[s] exposure time"),
            ("CHANTYPE", "PI", "channel type"),
            ("DETCHANS", bins, "number of energy bins"),
        ]
    )
    return HeaderTemplate([*primary_cards(), *mission, *_identity_cards()]), table
