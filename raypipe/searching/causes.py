"""Decide which causes in the instrument may make a spectrum look strange.

The decision uses columns of the Chandra Source Catalog (CSC), if there are any. They are defined in
https://cxc.cfa.harvard.edu/csc/columns/flags.html and .../csc/why/pileup.html.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.spectra.gridding import ARF_TRUNCATED, ZEROTH_ORDER

Bools = npt.NDArray[np.bool_]

BACKGROUND_DOMINATED_SHARE = 0.5
"""A spectrum is dominated by background above this share of its counts in 0.5-7 keV."""
PILEUP_COUNTS_PER_FRAME = 0.1
"""Counts per frame, in the CSC's 3x3 pixel cell, at which 5% of the events are piled up."""
FRAME_S = 3.24104
"""Default frame time of ACIS: 3.2 s of exposure plus the transfer of the frame (CXC, TIMEDEL)."""
_SOURCE_REGION_OFF_EDGE = 2
_OVERLAPS_ANOTHER_SOURCE = 8 | 256
"""Bits of edge_code and of conf_code, respectively."""

COLUMNS = (
    "flags",
    "exposure_s",
    "background_scale",
    "counts_b",
    "background_counts_b",
    "pileup_warning",
    "exptime",
    "obs_streak_src_flag",
    "streak_src_flag",
    "edge_code",
    "obs_sat_src_flag",
    "sat_src_flag",
    "conf_code",
    "obs_dither_warning_flag",
)
"""Columns of the catalog that decide the causes; missing ones count as unknown."""


def known_causes(detections: pd.DataFrame) -> list[str]:
    """Return the causes that apply to each detection, joined by |, from `COLUMNS`."""
    names = np.full(len(detections), "", dtype=object)
    for cause, holds in _CAUSES.items():
        here = holds(detections)
        names[here] = [f"{before}|{cause}" if before else cause for before in names[here]]
    return list(names)


def _background_dominated(rows: pd.DataFrame) -> Bools:
    return _background(rows) > BACKGROUND_DOMINATED_SHARE * _numbers(rows, "counts_b")


def _piled_up(rows: pd.DataFrame) -> Bools:
    """Use the CSC's count rate per frame if known, else an upper limit from all net counts.

    Frame times below the default are only known from the CSC's `exptime`. Other cameras than ACIS
    have other frames, for which nothing is known here.
    """
    measured = _numbers(rows, "pileup_warning")
    frame = _numbers(rows, "exptime")
    frame = np.where(frame > 0, frame, FRAME_S)
    net = _numbers(rows, "counts_b") - np.nan_to_num(_background(rows))
    # All net counts instead of those in the 3x3 pixel cell: never an underestimate.
    estimated = net / _numbers(rows, "exposure_s") * frame
    per_frame = np.where(np.isfinite(measured), measured, estimated)
    is_acis = rows["instrument"].isin(["ACIS", ""]) if "instrument" in rows else True
    return np.asarray((per_frame > PILEUP_COUNTS_PER_FRAME) & is_acis)


def _streak(rows: pd.DataFrame) -> Bools:
    return _first_known(rows, "obs_streak_src_flag", "streak_src_flag") > 0


def _chip_edge(rows: pd.DataFrame) -> Bools:
    return _has_bit(rows, "edge_code", _SOURCE_REGION_OFF_EDGE)


def _saturated(rows: pd.DataFrame) -> Bools:
    return _first_known(rows, "obs_sat_src_flag", "sat_src_flag") > 0


def _confused(rows: pd.DataFrame) -> Bools:
    return _has_bit(rows, "conf_code", _OVERLAPS_ANOTHER_SOURCE)


def _dither(rows: pd.DataFrame) -> Bools:
    return _numbers(rows, "obs_dither_warning_flag") > 0


def _zeroth_order(rows: pd.DataFrame) -> Bools:
    return _flagged(rows, ZEROTH_ORDER)


def _truncated(rows: pd.DataFrame) -> Bools:
    return _flagged(rows, ARF_TRUNCATED)


_CAUSES: dict[str, Callable[[pd.DataFrame], Bools]] = {
    "background_dominated": _background_dominated,
    "pileup": _piled_up,
    "streak": _streak,
    "chip_edge": _chip_edge,
    "saturated": _saturated,
    "confused": _confused,
    "dither": _dither,
    "zeroth_order": _zeroth_order,
    "arf_truncated": _truncated,
}

CAUSES = tuple(_CAUSES)
"""Names of all causes, in the order in which they are listed."""


def _background(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return expected background counts in the source region, 0.5-7 keV; NaN if unknown."""
    return _numbers(rows, "background_counts_b") * _numbers(rows, "background_scale")


def _numbers(rows: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """Return a column as numbers, with true as 1; NaN if unknown or if there is no such column."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    column = rows[name]
    if column.dtype == object or pd.api.types.is_string_dtype(column):
        column = column.map(lambda value: _TRUTH.get(str(value).strip().lower(), value))
    return np.asarray(pd.to_numeric(column, errors="coerce").astype("float64"))


_TRUTH = {"true": 1.0, "t": 1.0, "false": 0.0, "f": 0.0}


def _first_known(rows: pd.DataFrame, *names: str) -> npt.NDArray[np.float64]:
    """Return the first known value of each row among the columns `names`, NaN if there is none."""
    found = _numbers(rows, names[0])
    for name in names[1:]:
        found = np.where(np.isnan(found), _numbers(rows, name), found)
    return found


def _has_bit(rows: pd.DataFrame, name: str, bits: int) -> Bools:
    codes = np.nan_to_num(_numbers(rows, name)).astype(np.int64)
    return np.asarray(codes & bits > 0)


def _flagged(rows: pd.DataFrame, flag: str) -> Bools:
    if "flags" not in rows:
        return np.zeros(len(rows), dtype=np.bool_)
    return np.array([flag in str(text).split("|") for text in rows["flags"]], dtype=np.bool_)
