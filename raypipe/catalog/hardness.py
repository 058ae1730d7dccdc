"""Compute hardness ratios from the counts per band in the rows of a catalog."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

HARDNESS_PAIRS = {"hard_ms": ("m", "s"), "hard_hm": ("h", "m"), "hard_hs": ("h", "s")}
"""Bands of each ratio, as the CSC names them: hard_xy compares band x with the softer band y."""


def has_band_counts(frame: pd.DataFrame) -> bool:
    """Return whether the rows have counts in the bands s, m and h."""
    return all(f"counts_{band}" in frame for band in "smh")


def hardness_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Compute hardness ratios (x - y) / (x + y) of background-subtracted counts in the CSC bands.

    Needs `counts_s|m|h`, `background_counts_s|m|h` and `background_scale`. Net counts below zero
    are set to zero, so that a ratio stays between -1 and 1; it is NaN if neither band has net
    counts. The CSC gives ratios of fluxes; these are ratios of detected counts, which still contain
    the instrument's response.
    """
    net = {band: _net_counts(frame, band) for band in "smh"}
    ratios = {}
    for name, (harder, softer) in HARDNESS_PAIRS.items():
        total = net[harder] + net[softer]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios[name] = np.where(total > 0, (net[harder] - net[softer]) / total, np.nan)
    return pd.DataFrame(ratios, index=frame.index)


def _net_counts(frame: pd.DataFrame, band: str) -> npt.NDArray[np.float64]:
    counts = _numbers(frame[f"counts_{band}"])
    if f"background_counts_{band}" in frame and "background_scale" in frame:
        background = _numbers(frame[f"background_counts_{band}"])
        counts = counts - np.nan_to_num(background * _numbers(frame["background_scale"]))
    return np.maximum(counts, 0.0)


def _numbers(column: pd.Series[float]) -> npt.NDArray[np.float64]:
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
