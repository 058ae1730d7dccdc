"""Convert descriptions to JSON, in which numbers that are not known are null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raypipe.describing.description import Description, Fit, Flux, Interval


def description_json(found: Description) -> dict[str, Any]:
    """Return a description as JSON: fluxes in erg/cm2/s, parameters in their columns' units."""
    return {
        "file": found.file,
        "object": found.object,
        "telescope": found.telescope,
        "instrument": found.instrument,
        "exposure_s": _number(found.exposure_s),
        "total_counts": found.total_counts,
        "background_share": _number(found.background_share),
        "fluxes": {band: _flux(flux) for band, flux in found.fluxes.items()},
        "fits": {name: _fit(fit) for name, fit in found.fits.items()},
        "best_fit": found.best_fit,
        "cash": _number(found.cash),
        "cash_expected": _number(found.cash_expected),
        "n_bins": found.n_bins,
        "fit_zscore": _number(found.fit_zscore),
        "anomaly_score": _number(found.anomaly_score),
        "posterior_ess": _number(found.posterior_ess),
        "classes": _numbers(found.classes),
        "classes_from": found.classes_from,
        "neighbors": [
            {
                "name": each.name,
                "class": each.label,
                "distance": _number(each.distance),
                "separation": _number(each.separation),
                "separation_err": _number(each.separation_err),
                "source": each.source,
            }
            for each in found.neighbors
        ],
        "warnings": [str(each) for each in found.warnings],
        "model_id": found.model_id,
    }


def _flux(flux: Flux) -> dict[str, float | None]:
    limit = None if flux.upper_limit is None else _number(flux.upper_limit)
    return _interval(flux) | {"upper_limit": limit}


def _fit(fit: Fit) -> dict[str, Any]:
    parameters = {name: _interval(each) for name, each in fit.parameters.items()}
    return {"stat": _number(fit.stat), **parameters}


def _interval(interval: Interval) -> dict[str, float | None]:
    return _numbers({"value": interval.value, "lolim": interval.lolim, "hilim": interval.hilim})


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
