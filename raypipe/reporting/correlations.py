"""Measure how latents follow measured or true quantities: rank correlations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.evaluation.regression import regression_targets
from raypipe.evaluation.selection import latent_columns, latents_of

MIN_CORRELATION_ROWS = 30
"""Fewest detections for which the page shows rank correlations."""

QUANTITY_LABELS = {
    "log_nh": "log N_H",
    "photon_index": "photon index",
    "log_kt": "log kT",
    "hard_ms": "hardness m/s",
    "hard_hm": "hardness h/m",
    "hard_hs": "hardness h/s",
}
"""Names of quantities on the page."""

COUNTS = "log counts"
"""The quantity that latents should not follow: they describe the shape of a spectrum."""


def rank_correlations(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlation of each quantity (rows) with each latent (columns)."""
    latents = pd.DataFrame(latents_of(catalog), columns=latent_columns(catalog))
    quantities = {COUNTS: np.log10(np.maximum(catalog["total_counts"].to_numpy(float), 1))}
    for name, target in regression_targets(catalog).items():
        if target is not None and np.isfinite(target.values).sum() >= MIN_CORRELATION_ROWS:
            quantities[QUANTITY_LABELS[name]] = target.values
    values = [[_correlation(z, q) for _, z in latents.items()] for q in quantities.values()]
    return pd.DataFrame(values, index=list(quantities), columns=latents.columns)


def strongest_correlation(catalog: pd.DataFrame) -> tuple[str, str, float] | None:
    """Return the latent and the quantity that follow each other best, and their correlation.

    None for few detections, or without any quantity but the counts.
    """
    if len(catalog) < MIN_CORRELATION_ROWS:
        return None
    found = rank_correlations(catalog).drop(index=COUNTS)
    strength = found.abs().fillna(0.0).to_numpy()
    if not strength.any():
        return None
    row, column = divmod(int(strength.argmax()), strength.shape[1])
    value = found.to_numpy()[row, column]
    return str(found.columns[int(column)]), str(found.index[int(row)]), float(value)


def _correlation(latent: pd.Series[float], quantity: npt.NDArray[np.float64]) -> float:
    return float(latent.corr(pd.Series(quantity), method="spearman"))
