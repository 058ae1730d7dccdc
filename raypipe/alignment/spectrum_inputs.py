"""Make the inputs of a network from the posteriors of latents, and draw from the posteriors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.model.covariance import triangles_of, unpack

Floats = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

_WIDTHS = 1e-3, 10.0
"""Range of standard deviations of latents; narrower and wider ones are taken as its ends."""


@dataclass(frozen=True)
class LatentPosteriors:
    """Hold the posteriors of n spectra as normal distributions.

    `mean` is (n, latents). `factors` (n, latents, latents) are the lower Cholesky factors of the
    covariances, all zero without errors (preset paper, `embed.errors = false`).
    """

    mean: Floats
    factors: Floats

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def widths(self) -> Floats:
        """Return the standard deviation of each latent, (n, latents)."""
        return np.asarray(np.sqrt((self.factors**2).sum(axis=2)))

    @property
    def has_errors(self) -> bool:
        """Return whether any spectrum has errors of its latents."""
        return bool(self.factors.any())

    def take(self, rows: npt.NDArray[np.int64]) -> LatentPosteriors:
        """Return the posteriors of these rows."""
        return LatentPosteriors(self.mean[rows], self.factors[rows])

    def features(self) -> Float32:
        """Return the inputs of the network: latents, then the logarithms of their widths."""
        widths = np.log(self.widths.clip(*_WIDTHS))
        return np.concatenate([self.mean, widths], axis=1).astype(np.float32)


def read_posteriors(table: pa.Table) -> tuple[LatentPosteriors, npt.NDArray[np.bool_]]:
    """Read the posteriors of a catalog's rows, and which rows have latents, (n,).

    Where the catalog has means and standard deviations of posterior draws (z0_mean, z0_sd), these
    replace the maximum and the widths of the normal approximation, whose correlations are kept.
    Rows without latents are zero.
    """
    latents = sum(f"z{i}" in table.column_names for i in range(64))
    z = _numbers(table, latents, "z{}")
    known = np.asarray(np.isfinite(z).all(axis=1))
    covariance = np.zeros((len(z), latents, latents))
    if "z_cov" in table.column_names:
        covariance = unpack(triangles_of(table["z_cov"]).astype(np.float64))
        covariance[~np.isfinite(covariance).all(axis=(1, 2))] = 0.0
    if "z0_sd" in table.column_names:
        mean, width = _numbers(table, latents, "z{}_mean"), _numbers(table, latents, "z{}_sd")
        old = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        drawn = np.asarray((np.isfinite(mean) & np.isfinite(width) & (old > 0)).all(axis=1))
        ratio = np.where(drawn[:, None], width / np.where(old > 0, old, 1.0), 1.0)
        covariance *= ratio[:, :, None] * ratio[:, None, :]
        z = np.where(drawn[:, None], mean, z)
    z[~known] = 0.0
    covariance[~known] = 0.0
    return LatentPosteriors(z, _factors(covariance)), known


def _numbers(table: pa.Table, latents: int, name: str) -> Floats:
    columns = [table[name.format(i)].cast(pa.float64()).to_numpy() for i in range(latents)]
    return np.stack(columns, axis=1)


def _factors(covariance: Floats) -> Floats:
    """Return Cholesky factors (n, k, k); eigenvalues that rounding made negative become zero."""
    try:
        return np.asarray(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        # With C = V W V^T, the R of the QR decomposition of (V W^1/2)^T gives C = R^T R.
        root = vectors * np.sqrt(values.clip(0.0))[:, None, :]
        upper = np.linalg.qr(np.swapaxes(root, 1, 2), mode="r")
        return np.swapaxes(upper, 1, 2)
