"""Convert covariances of latents to and from the catalog's lower triangles, and invert them.

Matrices come in stacks of thousands. If one is singular or not finite, only its own row is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = npt.NDArray[np.float64]


def latents_of_triangle(size: int) -> int:
    """Return the number of latents k whose lower triangle has k (k + 1) / 2 elements."""
    # With size = k (k + 1) / 2, sqrt(2 size) = sqrt(k (k + 1)) lies between k and k + 1.
    return int(np.sqrt(2 * size))


def unpack(triangle: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Convert lower triangles, row by row, (n, k (k + 1) / 2) to symmetric matrices (n, k, k)."""
    size = latents_of_triangle(triangle.shape[1])
    rows, columns = np.tril_indices(size)
    matrices = np.zeros((len(triangle), size, size))
    matrices[:, rows, columns] = triangle  # The same elements fill both halves.
    matrices[:, columns, rows] = triangle
    return matrices


def triangles_of(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Read the triangles (n, k (k + 1) / 2) of a catalog's column `z_cov`; NaN where null."""
    from raypipe.spectra.decoding import vectors

    triangles: npt.NDArray[np.float32] = vectors(column)
    triangles[column.is_null().to_numpy()] = np.nan
    return triangles


def triangles_in(cells: Iterable[Any], latents: int) -> FloatArray:
    """Read the triangles of a data frame's column `z_cov`, as `triangles_of` does."""
    nothing = np.full(latents * (latents + 1) // 2, np.nan)
    rows = [nothing if cell is None or np.ndim(cell) == 0 else cell for cell in cells]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(nothing))


def inverses(matrices: FloatArray) -> FloatArray:
    """Invert matrices (n, k, k); the inverse of a singular one is NaN."""
    # One singular matrix makes numpy refuse all; only then are they inverted one by one.
    try:
        return np.asarray(np.linalg.inv(matrices), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.stack([_inverse(each) for each in matrices])


def solve(matrices: FloatArray, right: FloatArray) -> FloatArray:
    """Solve matrices (n, k, k) times x = `right` (n, k) for x; NaN for singular matrices."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[..., None])[..., 0], dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.einsum("nij,nj->ni", inverses(matrices), right))


def _inverse(matrix: FloatArray) -> FloatArray:
    try:
        return np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.full(matrix.shape, np.nan)


def pack(matrices: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Convert symmetric matrices (n, k, k) to their lower triangles, row by row."""
    rows, columns = np.tril_indices(matrices.shape[1])
    return matrices[:, rows, columns].astype(np.float32)
