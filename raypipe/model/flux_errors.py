"""Hold how far a model's fluxes are off when the counts have no noise, and widen limits by that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raypipe.model.band_sums import Bands

WHOLLY = 0.95
"""Least share of a band, in the logarithm of energy, with which it counts as wholly seen."""
LEAST_MEASURED = 20
"""Least number of spectra that measure the errors of a band."""
_MOST_EDGES, _MOST_ERROR = 100, 10.0
"""Most edges, and largest logarithmic error, that a bundle may hold."""

Floats = npt.NDArray[np.float64]

_PREFIX = "flux_errors."


@dataclass(frozen=True)
class FluxErrors:
    """Hold the error of a model's fluxes without noise, by band.

    Latents describe a spectrum only approximately, so that its fluxes remain a little wrong however
    many counts there are. The bands lie between each two of `edges_kev` (k,), ascending.
    `log_errors` (2, 2, k, k) is the error of the logarithm of a flux which has to be added to the
    limits of the posterior, so that those of 68% of spectra contain the truth. Its axes are the
    kind (photon flux, energy flux), how the instrument sees the band (wholly, partly), and the
    lower and the upper edge. `number` (2, k, k) is how many spectra measured it; bands with fewer
    than `LEAST_MEASURED` are not used. Any other band has the error of the measured one whose edges
    are nearest in the logarithm; of two equally near ones, of the one that is seen in the same way.
    """

    edges_kev: Floats
    log_errors: Floats
    number: npt.NDArray[np.int64]

    def of_photons(self, bands: Bands, seen: npt.ArrayLike | None = None) -> Floats:
        """Return the errors of the logarithms of photon fluxes, (n, bands).

        `seen` (n, bands) is the share of each band that each instrument sees. Without it they are
        (bands,), for instruments that see each band as most of the measured ones do.
        """
        return self._of(0, bands, seen)

    def of_energy(self, bands: Bands, seen: npt.ArrayLike | None = None) -> Floats:
        """Return the errors of the logarithms of energy fluxes, as `of_photons` does."""
        return self._of(1, bands, seen)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by the names of their tensors in a model bundle."""
        return {_PREFIX + each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> FluxErrors | None:
        """Take the errors from the tensors of a bundle; None if the bundle holds none.

        Raises LookupError if some arrays are missing, and ValueError if they do not fit each other.
        """
        if not any(name.startswith(_PREFIX) for name in tensors):
            return None
        found = cls(*(tensors[_PREFIX + each.name] for each in fields(cls)))
        k = len(found.edges_kev)
        if not 2 <= k <= _MOST_EDGES:
            raise ValueError(f"flux errors: {k} edges, expected 2 to {_MOST_EDGES}")
        shapes = (k,), (2, 2, k, k), (2, k, k)
        kinds = np.floating, np.floating, np.integer
        for each, shape, kind in zip(fields(cls), shapes, kinds, strict=True):
            values = getattr(found, each.name)
            if values.shape != shape or not np.issubdtype(values.dtype, kind):
                raise ValueError(f"flux errors: {each.name} is not of shape {shape} and {kind}")
        if not (found.edges_kev > 0).all() or not (np.diff(found.edges_kev) > 0).all():
            raise ValueError("flux errors: edges_kev do not ascend")
        if not ((found.log_errors >= 0) & (found.log_errors <= _MOST_ERROR)).all():
            raise ValueError(f"flux errors: log_errors are not within 0 to {_MOST_ERROR:g}")
        if not found._is_measured.any():
            raise ValueError("flux errors: no band was measured")
        return found

    @property
    def _is_measured(self) -> npt.NDArray[np.bool_]:
        """Tell which bands, wholly and partly seen, have errors, (2, k, k)."""
        return np.asarray(np.triu(self.number >= LEAST_MEASURED, 1))

    def _of(self, kind: int, bands: Bands, seen: npt.ArrayLike | None) -> Floats:
        wholly, partly = (self._nearest(way, bands) for way in (0, 1))
        is_own = wholly.number >= partly.number if seen is None else np.asarray(seen) >= WHOLLY
        is_as_near = wholly.distance == partly.distance
        is_wholly = (wholly.distance < partly.distance) | (is_as_near & is_own)
        return np.where(is_wholly, wholly.log_errors[kind], partly.log_errors[kind])

    def _nearest(self, way: int, bands: Bands) -> _Cells:
        """Find the measured bands, seen wholly (0) or partly (1), that are nearest to others.

        Their distance is the sum of those of both edges, in the logarithm; infinite without any.
        """
        edges = np.log(np.array(list(bands.values())).reshape(-1, 2, 1) / self.edges_kev)
        low, high = np.abs(edges).transpose(1, 0, 2)
        distance = np.where(self._is_measured[way], low[:, :, None] + high[:, None], np.inf)
        distance = distance.reshape(len(bands), len(self.edges_kev) ** 2)
        cells = distance.argmin(1)
        return _Cells(
            self.log_errors[:, way].reshape(2, -1)[:, cells],
            distance[np.arange(len(cells)), cells],
            self.number[way].ravel()[cells],
        )


class _Cells(NamedTuple):
    """Hold the measured errors (2, bands) of bands, how far off these are, and their numbers."""

    log_errors: Floats
    distance: Floats
    number: npt.NDArray[np.int64]


def widened(limits: npt.ArrayLike, log_error: npt.ArrayLike) -> Floats:
    """Add errors of the model to the statistical ones of logarithms, in quadrature.

    `limits` (3, ...) are lower limit, value and upper limit; the value stays.
    """
    low, value, high = np.asarray(limits, dtype=np.float64)
    return np.stack(
        [value - np.hypot(value - low, log_error), value, value + np.hypot(high - value, log_error)]
    )
