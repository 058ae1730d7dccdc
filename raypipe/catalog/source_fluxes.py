"""Combine the fluxes of the detections of a source."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.stats import gamma

from raypipe.model.flux_errors import widened

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LOW, _HIGH, _LIMIT = 0.158655, 0.841345, 0.9
_SHAPES = np.geomspace(0.05, 1e7, 600)
"""Shapes of the tabulated gamma distributions, which correspond to numbers of counts."""


def combine_fluxes(
    value: FloatArray,
    lolim: FloatArray,
    hilim: FloatArray,
    starts: IntArray,
    log_error: float | FloatArray = 0.0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Combine fluxes (n,) with their limits to those of sources, value and limits of (s,).

    The detections of a source are contiguous from `starts` (s,); NaN is left out. A source is taken
    to have one flux F. The posterior of a detection is approximated by the gamma distribution
    F^(k - 1) exp(-r F) with the same median and the same ratio of the limits, which is the
    posterior of k counts for a constant exposure r per flux and a prior flat in log F. Likelihoods
    multiply, and the prior counts once: k and r are summed over the detections. So the flux is the
    sum of the counts over that of the exposures, and stays unbiased for few counts.

    `log_error`, one or (n,), is the error of the model that the limits contain. The detections of a
    source share it, so that it does not shrink with their number. With w the shares of the counts,
    the sum of counts leaves sum (w e)^2 of its square, which ought to be (sum w e)^2: the
    difference is added in quadrature.

    A lower limit of 0 means that a detection has an upper limit (90%, prior flat in F). A source
    without any other detection has an upper limit, too.
    """
    known = np.isfinite(value) & (value > 0) & np.isfinite(hilim)
    found = known & (lolim > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shape = np.where(
            found, _shape_of(hilim / lolim, "limits"), _shape_of(hilim / value, "upper")
        )
        rate = _median(shape) / value
    counts = np.add.reduceat(np.where(known, shape, 0.0), starts)
    exposure = np.add.reduceat(np.where(known, rate, 0.0), starts)
    is_found = np.add.reduceat(found.astype(np.int64), starts) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = _median(counts) / exposure
        low = np.where(is_found, gamma.ppf(_LOW, counts) / exposure, 0.0)
        limit = gamma.ppf(_LIMIT, counts + 1.0) / exposure
        high = np.where(is_found, gamma.ppf(_HIGH, counts) / exposure, limit)
        weighted = np.where(known, shape * log_error, 0.0)
        shared, left = (np.add.reduceat(each, starts) for each in (weighted, weighted**2))
        missing = np.sqrt(np.maximum(shared**2 - left, 0.0)) / counts
        low, high = np.exp(widened(np.log([low, middle, high]), is_found * missing))[[0, 2]]
    measured = exposure > 0
    combined = (np.where(measured, each, np.nan) for each in (middle, low, high))
    one, other, third = combined
    return one, other, third


def _median(shape: FloatArray) -> FloatArray:
    return np.asarray(gamma.ppf(0.5, shape))


def _shape_of(ratio: FloatArray, kind: str) -> FloatArray:
    """Return the shape k whose quantiles have a ratio; ratios beyond the table are its ends."""
    log_ratio, log_shape = _ratios(kind)
    return np.asarray(np.exp(np.interp(np.log(ratio), log_ratio, log_shape)))


@cache
def _ratios(kind: str) -> tuple[FloatArray, FloatArray]:
    """Tabulate the log of ratios of quantiles, ascending, with the log of the shape.

    "limits": upper over lower 68% limit; "upper": upper limit over median.
    """
    if kind == "limits":
        ratio = gamma.ppf(_HIGH, _SHAPES) / gamma.ppf(_LOW, _SHAPES)
    else:
        ratio = gamma.ppf(_LIMIT, _SHAPES + 1.0) / gamma.ppf(0.5, _SHAPES)
    return np.log(ratio[::-1]), np.log(_SHAPES[::-1])
