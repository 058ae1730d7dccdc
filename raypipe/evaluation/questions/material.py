"""Hold what the questions of the study work on: judged rows, representations, real detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from raypipe.config import EvaluateConfig
from raypipe.evaluation.baselines import Representation
from raypipe.evaluation.selection import BinnedSpectra, latents_of
from raypipe.evaluation.validation import FloatArray, TextArray, sources_of
from raypipe.model.bundle import Model
from raypipe.model.covariance import latents_of_triangle, triangles_in, unpack


@dataclass(frozen=True)
class Material:
    """Hold the judged detections and all that is known of them.

    `frame` has a row per detection (n,), with latents; `representations` have features (n, d), the
    latents first; `real` has the row of the real detection that each stands for, in the same order,
    None without a table of real detections; `spectra` (n,) are None if they are not all there.
    """

    frame: pd.DataFrame
    representations: Sequence[Representation]
    real: pd.DataFrame | None
    spectra: BinnedSpectra | None
    model: Model | None
    settings: EvaluateConfig

    @cached_property
    def classes(self) -> TextArray:
        """Return the class of each row, (n,), None for rows without one."""
        if "class" not in self.frame:
            return np.full(len(self.frame), None, dtype=object)
        return self.frame["class"].to_numpy(dtype=object)

    @cached_property
    def sources(self) -> TextArray:
        """Return the source of each row, (n,)."""
        return sources_of(self.frame)

    @cached_property
    def latents(self) -> FloatArray:
        """Return the latents, (n, latents)."""
        return latents_of(self.frame)

    @cached_property
    def covariances(self) -> FloatArray | None:
        """Return the covariances of the latents, (n, latents, latents); None without errors."""
        if "z_cov" not in self.frame or self.frame["z_cov"].isna().all():
            return None
        cells = self.frame["z_cov"]
        latents = latents_of_triangle(len(cells.dropna().iloc[0]))
        return unpack(triangles_in(cells, latents))


def unmeasured(reason: str) -> dict[str, Any]:
    """Return the answer to a question that could not be measured."""
    return {"reason": reason}


def numbers(frame: pd.DataFrame | None, name: str) -> FloatArray | None:
    """Return a column as numbers, (n,), with NaN for what is missing; None without the column."""
    if frame is None or name not in frame:
        return None
    column = pd.to_numeric(frame[name], errors="coerce")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return values if np.isfinite(values).any() else None


def logarithm(values: FloatArray) -> FloatArray:
    """Return log10 of values, NaN where they are not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(values > 0, np.log10(values), np.nan)


def one_per_source(sources: TextArray, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Draw one row per source at random, and return their indices in ascending order."""
    order = rng.permutation(len(sources))
    first = np.unique(sources[order].astype(str), return_index=True)[1]
    return np.sort(order[first])
