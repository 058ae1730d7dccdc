"""Hold the emissivity of a thermal plasma by temperature, and interpolate it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.physics.energy import FloatArray


@dataclass(frozen=True)
class Emissivities:
    """Hold emissivities on a grid of energies, photons cm3/s/keV.

    `kt_kev` (t,) are increasing temperatures, even in their logarithm; `primordial` (t, n) is what
    does not scale with the abundance of metals, `metals` (t, n) what does, at solar abundance.
    """

    kt_kev: FloatArray
    primordial: FloatArray
    metals: FloatArray

    def at(self, kt_kev: FloatArray, abundance: FloatArray) -> FloatArray:
        """Return emissivities at temperatures and abundances (B,), solar: (B, n).

        They are interpolated in log kT by a cubic through four temperatures. A temperature outside
        of the table counts as the nearest in it.
        """
        found = np.zeros((len(kt_kev), self.primordial.shape[1]))
        for node, weight in self._cubic_weights(np.log(kt_kev)):
            found += weight * (self.primordial[node] + abundance[:, None] * self.metals[node])
        return np.maximum(found, 0.0, out=found)

    def _cubic_weights(self, log_kt: FloatArray) -> list[tuple[npt.NDArray[np.int64], FloatArray]]:
        """Return four temperatures (B,) of the table and their weights (B, 1) (Catmull-Rom)."""
        last = len(self.kt_kev) - 1
        position = np.interp(log_kt, np.log(self.kt_kev), np.arange(last + 1, dtype=float))
        node = np.minimum(position.astype(int), last - 1)
        t = (position - node)[:, None]
        return [
            (np.maximum(node - 1, 0), (-t + 2 * t**2 - t**3) / 2),
            (node, (2 - 5 * t**2 + 3 * t**3) / 2),
            (node + 1, (t + 4 * t**2 - 3 * t**3) / 2),
            (np.minimum(node + 2, last), (t**3 - t**2) / 2),
        ]
