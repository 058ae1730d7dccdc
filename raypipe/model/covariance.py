"""Covariances of latents as the catalog keeps them: the lower triangle, row by row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def latents_of_triangle(size: int) -> int:
    """The number of latents k whose lower triangle has k (k + 1) / 2 elements."""
    return int(np.sqrt(2 * size))


def unpack(triangle: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Symmetric matrices (n, k, k) from the rows of their lower triangles (n, k (k + 1) / 2)."""
    size = latents_of_triangle(triangle.shape[1])
    rows, columns = np.tril_indices(size)
    matrices = np.zeros((len(triangle), size, size))
    matrices[:, rows, columns] = triangle
    matrices[:, columns, rows] = triangle
    return matrices


def pack(matrices: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The lower triangles, row by row, of symmetric matrices (n, k, k)."""
    rows, columns = np.tril_indices(matrices.shape[1])
    return matrices[:, rows, columns].astype(np.float32)
