"""Normal densities of many detections at once: single precision, in blocks that fit the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.model.covariance import unpack

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_BLOCK = 8192
"""Rows done at a time: what is in work stays in the processor's cache."""


@dataclass(frozen=True)
class Posteriors:
    """Latents of n detections, (latents, n), and their covariances' triangles, (.., n).

    An element of `raypipe.model.covariance` is a row of `triangles`, so that columns of the catalog
    are contiguous. Both are NaN where they are not known.
    """

    z: Float32
    triangles: Float32

    def __len__(self) -> int:
        return self.z.shape[1]

    def take(self, rows: Rows | slice) -> Posteriors:
        """Those of the detections of these rows."""
        if isinstance(rows, slice):
            return Posteriors(self.z[:, rows], self.triangles[:, rows])
        return Posteriors(self.z.take(rows, axis=1), self.triangles.take(rows, axis=1))

    @property
    def covariance(self) -> Float64:
        """Their covariances, (n, latents, latents)."""
        return unpack(self.triangles.T)


def log_determinant_and_chi2(
    known: Posteriors, u: Float64, y: Float64, rows: Rows | None = None
) -> tuple[Float32, Float32]:
    """ln|A| and d^T A^-1 d of n rows (all by default), A = 1 + u^T C u and d = y - u^T z.

    `u` (latents, j) are directions and `y` (j,) where a measurement with unit errors puts them.
    """
    n = len(known) if rows is None else len(rows)
    form, directions = _quadratic_form(u.astype(np.float32)), u.T.astype(np.float32)
    place = y[:, None].astype(np.float32)
    determinants, squares = np.empty(n, np.float32), np.empty(n, np.float32)
    for start in range(0, n, _BLOCK):
        here = slice(start, start + _BLOCK)
        block = known.take(here if rows is None else rows[here])
        determinants[here], squares[here] = _eliminate(
            form @ block.triangles, place - directions @ block.z
        )
    return determinants, squares


def _quadratic_form(u: Float32) -> Float32:
    """What makes of a matrix's lower triangle the upper one of u^T matrix u, both row by row."""
    i, j = np.tril_indices(u.shape[0])
    a, b = np.triu_indices(u.shape[1])
    twice = (i != j)[:, None] * u[j][:, a] * u[i][:, b]
    return np.ascontiguousarray((u[i][:, a] * u[j][:, b] + twice).T)


def _eliminate(triangle: Float32, residual: Float32) -> tuple[Float32, Float32]:
    """ln|1 + T| and d^T (1 + T)^-1 d of n rows by elimination; works in its arguments.

    `triangle` (j (j + 1) / 2, n) are upper triangles of T, `residual` (j, n) is d.
    """
    size, n = residual.shape
    determinant, square = np.zeros(n, np.float32), np.zeros(n, np.float32)
    scratch = np.empty_like(residual)
    start = np.cumsum([0, *range(size, 0, -1)])
    for j in range(size):
        pivot, row = triangle[start[j]], triangle[start[j] + 1 : start[j + 1]]
        pivot += 1.0
        inverse = 1.0 / pivot
        determinant += np.log(pivot, out=pivot)
        factor = residual[j] * inverse
        square += residual[j] * factor
        residual[j + 1 :] -= np.multiply(row, factor, out=scratch[j + 1 :])
        for m in range(j + 1, size):
            np.multiply(row[m - j - 1], inverse, out=factor)
            rest = triangle[start[m] : start[m + 1]]
            rest -= np.multiply(row[m - j - 1 :], factor, out=scratch[m:])
    return determinant, square
