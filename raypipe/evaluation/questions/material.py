"""Hold the data of the questions of the study: judged rows, representations, real detections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from raypipe._version import __version__
from raypipe.config import EvaluateConfig
from raypipe.evaluation.baselines import Representation
from raypipe.evaluation.selection import BinnedSpectra, latents_of
from raypipe.evaluation.validation import FloatArray, TextArray, sources_of
from raypipe.model.bundle import Model
from raypipe.model.covariance import latents_of_triangle, triangles_in, unpack


@dataclass(frozen=True)
class Material:
    """Hold the judged detections and all that is known about them.

    `frame` has one row per detection (n,), with latents. `representations` have features (n, d);
    the latents are the first. `real` has, in the same order, the row of the real detection for
    which each stands; it is None without a table of real detections. `spectra` (n,) are None if any
    is missing.
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
    def fingerprint(self) -> str:
        """Return a SHA-256 of all that determines an answer: data, model, settings and version."""
        digest = hashlib.sha256(__version__.encode())
        settings = self.settings.model_dump(exclude={"questions", "baseline_presets"})
        digest.update(json.dumps(settings, sort_keys=True).encode())
        digest.update(str(None if self.model is None else self.model.fingerprint).encode())
        for table in (self.frame, self.real):
            for name, column in [] if table is None else table.items():
                if not _has_lists(column):
                    values = pd.util.hash_pandas_object(column, index=False).to_numpy()
                    digest.update(str(name).encode() + values.tobytes())
        for each in self.representations:
            # All others follow from the tables and the spectra.
            features = each.features.tobytes() if each.kind == "model" else b""
            digest.update(f"{each.name} {each.note}".encode() + features)
        for array in (self.covariances, None if self.spectra is None else self.spectra.counts):
            digest.update(b"" if array is None else array.tobytes())
        return digest.hexdigest()

    @cached_property
    def covariances(self) -> FloatArray | None:
        """Return the covariances of the latents, (n, latents, latents); None without errors."""
        if "z_cov" not in self.frame or self.frame["z_cov"].isna().all():
            return None
        cells = self.frame["z_cov"]
        latents = latents_of_triangle(len(cells.dropna().iloc[0]))
        return unpack(triangles_in(cells, latents))


def _has_lists(column: pd.Series[Any]) -> bool:
    """Tell whether the cells of a column are lists or arrays."""
    known = column.dropna()
    return len(known) > 0 and isinstance(known.iloc[0], list | np.ndarray)


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
