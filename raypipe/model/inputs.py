"""Accept spectra as users give them: read already, or as the paths of their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.errors import UsageError
from raypipe.identity import OWN_FILE, parse_csc_name, stem
from raypipe.ogip import Spectrum, read_spectrum

SpectrumOrPath: TypeAlias = Spectrum | str | os.PathLike[str]
"""A spectrum, or the path of a PHA with its ARF and RMF beside it."""


def read_all(spectra: SpectrumOrPath | Iterable[SpectrumOrPath]) -> list[Spectrum]:
    """Return spectra as a list, reading those that are paths.

    Raises OgipError naming the file that cannot be read, and UsageError for anything that is
    neither a spectrum nor a path.
    """
    one = isinstance(spectra, Spectrum | str | os.PathLike)
    given = [spectra] if one else list(spectra)  # type: ignore[arg-type]
    return [_read(each, place) for place, each in enumerate(given)]


def _read(given: Any, place: int) -> Spectrum:
    if isinstance(given, Spectrum):
        return given
    if isinstance(given, str | os.PathLike):
        return read_spectrum(given)
    raise UsageError(
        f"spectrum {place} is of type {type(given).__name__}: give spectra "
        "(raypipe.read_spectrum) or paths of PHA files"
    )


def identity_of(spectra: Sequence[Spectrum]) -> dict[str, list[str]]:
    """Return the columns that identify each spectrum: `detection_id` and `path`.

    A release is not known here: detections of the Chandra Source Catalog are
    "obsid.obi.region_id", by the names of their files; all others are "file:stem".
    """
    paths = [spectrum.path for spectrum in spectra]
    return {"detection_id": [_detection_id(path) for path in paths], "path": paths}


def _detection_id(path: str) -> str:
    name = parse_csc_name(path)
    if name is None:
        return f"{OWN_FILE}{stem(path)}"
    return f"{name.obsid}.{name.obi}.{name.region_id}"


def latents_in(z: npt.ArrayLike | pd.DataFrame, latents: int) -> npt.NDArray[np.float32]:
    """Return latents (n, latents) from an array, or from the columns z0.. of a data frame."""
    if isinstance(z, pd.DataFrame):
        z = z[[f"z{i}" for i in range(latents)]]
    return np.atleast_2d(np.asarray(z, dtype=np.float32))
