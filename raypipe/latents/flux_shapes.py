"""Describe latents by the shape of the flux to which they decode, with errors.

The meaning of a distance between latents differs from place to place, because the decoder is not
linear. That of the roots of the shares of the photon flux in bins of energy is the same everywhere:
their Euclidean distance is the Hellinger distance between the photon spectra.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA

from raypipe.model.presets import Folded

FloatArray = npt.NDArray[np.float64]

BAND_KEV = (0.5, 7.0)
"""Energies whose photons count, the CSC's broad band."""

BINS = 30
"""Bins of the shape, even in the logarithm of the energy."""

_ROWS_AT_ONCE = 16_384
_LEAST_VARIANCE = 2e-3
"""Variance added to every error, in units of a direction's variance: the decoder is not exact."""


@dataclass(frozen=True)
class FluxShapes:
    """Map latents to the principal directions of the roots of decoded flux.

    `center` (bins,), `directions` (d, bins) and `scale` (d,), the standard deviation along each,
    come from the rows that `fit` has seen.
    """

    network: Folded
    center: FloatArray
    directions: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, network: Folded, z: FloatArray, directions: int) -> FluxShapes:
        """Find the principal directions of rows with latents (n, k)."""
        roots = flux_roots(network, z)
        found = PCA(min(directions, *roots.shape), svd_solver="full").fit(roots)
        scale = np.sqrt(found.explained_variance_).clip(1e-9)
        return cls(network, found.mean_, found.components_, scale)

    def values(self, z: FloatArray) -> FloatArray:
        """Return the coordinates of latents (n, k) along the directions, (n, d)."""
        offset = flux_roots(self.network, z) - self.center
        return np.asarray(offset @ self.directions.T / self.scale)

    def covariance(self, z: FloatArray, z_cov: FloatArray) -> FloatArray:
        """Carry the covariance of latents (n, k, k) to the coordinates, (n, d, d).

        It is the covariance of the images of the 2 k sigma points z +- sqrt(k) L e_i, with z_cov =
        L L^T (unscented transform; Julier & Uhlmann 1997).
        """
        k = z.shape[1]
        steps = np.sqrt(k) * np.swapaxes(np.linalg.cholesky(z_cov), 1, 2)
        points = np.concatenate([z[:, None] + steps, z[:, None] - steps], axis=1)
        images = self.values(points.reshape(-1, k)).reshape(len(z), 2 * k, -1)
        offset = images - images.mean(axis=1, keepdims=True)
        spread = np.einsum("nmi,nmj->nij", offset, offset) / (2 * k)
        return np.asarray(spread + _LEAST_VARIANCE * np.eye(images.shape[-1]))


def flux_roots(network: Folded, z: FloatArray) -> FloatArray:
    """Return the root of the share of the photon flux in each bin of energy, (n, BINS)."""
    photons = photons_in_bins(network, z, np.geomspace(*BAND_KEV, BINS + 1))
    return np.asarray(np.sqrt(photons / photons.sum(axis=1, keepdims=True)))


@torch.no_grad()
def photons_in_bins(network: Folded, z: FloatArray, edges_kev: FloatArray) -> FloatArray:
    """Return the photon flux that latents (n, k) decode to between edges (m + 1,), (n, m).

    Only ratios within a row have a meaning, because latents have no amplitude.
    """
    grid = network.grid
    low = np.maximum(grid.edges_kev[:-1, None], edges_kev[:-1])
    high = np.minimum(grid.edges_kev[1:, None], edges_kev[1:])
    widths = torch.from_numpy((high - low).clip(0.0)).float()
    device = network.log_flux_base.device
    photons = np.empty((len(z), len(edges_kev) - 1))
    for start in range(0, len(z), _ROWS_AT_ONCE):
        here = slice(start, start + _ROWS_AT_ONCE)
        latents = torch.from_numpy(np.ascontiguousarray(z[here], dtype=np.float32)).to(device)
        photons[here] = (torch.exp(network.log_shape(latents)) @ widths.to(device)).cpu().numpy()
    return photons
