"""Evaluate normal densities of many detections at once, in single precision and in small blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.model.covariance import unpack

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_BLOCK = 8192
"""Rows per block, few enough that the arrays in use stay in the processor's cache."""


@dataclass(frozen=True)
class Posteriors:
    """Hold latents of n detections (latents, n) and the triangles of their covariances (k, n).

    Each row of `triangles` is one element of the triangle in the order of
    `raypipe.model.covariance`, so that each column of the catalog is contiguous in memory. Unknown
    values are NaN.
    """

    z: Float32
    triangles: Float32

    def __len__(self) -> int:
        return self.z.shape[1]

    def take(self, rows: Rows | slice) -> Posteriors:
        """Return the posteriors of a subset of rows."""
        if isinstance(rows, slice):
            return Posteriors(self.z[:, rows], self.triangles[:, rows])
        return Posteriors(self.z.take(rows, axis=1), self.triangles.take(rows, axis=1))

    @property
    def covariance(self) -> Float64:
        """Return covariance matrices, (n, latents, latents)."""
        return unpack(self.triangles.T)


def log_determinant_and_chi2(
    known: Posteriors, u: Float64, y: Float64, rows: Rows | None = None
) -> tuple[Float32, Float32]:
    """Return ln|A| and d^T A^-1 d of n rows (default all), for A = 1 + u^T C u and d = y - u^T z.

    z and C are a row's latents and their covariance. The columns of `u` (latents, j) are directions
    in which a measurement with unit errors gives the values `y` (j,). Both results are (n,).
    """
    # All j (j + 1) / 2 elements of u^T C u and all j of d are linear in C and z: two products of
    # matrices give them for a whole block of rows.
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
    """Return the matrix that maps the lower triangle of C to the upper triangle of u^T C u."""
    # (u^T C u)_ab = sum_ij u_ia C_ij u_jb. The triangle has C_ij once for i > j, so that its
    # coefficient is that of C_ij plus that of C_ji; on the diagonal it counts once.
    i, j = np.tril_indices(u.shape[0])
    a, b = np.triu_indices(u.shape[1])
    twice = (i != j)[:, None] * u[j][:, a] * u[i][:, b]
    return np.ascontiguousarray((u[i][:, a] * u[j][:, b] + twice).T)


def _eliminate(triangle: Float32, residual: Float32) -> tuple[Float32, Float32]:
    """Return ln|1 + T| and d^T (1 + T)^-1 d of n rows by elimination; overwrites its arguments.

    `triangle` (j (j + 1) / 2, n) holds the upper triangles of T row by row, `residual` (j, n) is d.
    """
    # Gaussian elimination of A = 1 + T, symmetric and positive definite. With the pivots p_j and
    # the eliminated right-hand side r_j: ln|A| = sum ln p_j and d^T A^-1 d = sum r_j^2 / p_j.
    # All operations are in place: memory traffic, not arithmetic, sets the speed.
    size, n = residual.shape
    determinant, square = np.zeros(n, np.float32), np.zeros(n, np.float32)
    scratch = np.empty_like(residual)
    start = np.cumsum([0, *range(size, 0, -1)])  # where each row of the triangle begins
    for j in range(size):
        pivot, row = triangle[start[j]], triangle[start[j] + 1 : start[j + 1]]
        pivot += 1.0
        inverse = 1.0 / pivot
        determinant += np.log(pivot, out=pivot)  # the pivot itself is not needed again
        factor = residual[j] * inverse
        square += residual[j] * factor
        residual[j + 1 :] -= np.multiply(row, factor, out=scratch[j + 1 :])
        # Schur complement: subtract the outer product of the pivot's row, divided by the pivot.
        for m in range(j + 1, size):
            np.multiply(row[m - j - 1], inverse, out=factor)
            rest = triangle[start[m] : start[m + 1]]
            rest -= np.multiply(row[m - j - 1 :], factor, out=scratch[m:])
    return determinant, square
