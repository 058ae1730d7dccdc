"""Convert covariances of latents to and from the catalog's lower triangles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def unpack(triangle: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Convert lower triangles, row by row, (n, k (k + 1) / 2) to symmetric matrices (n, k, k)."""
    size = int(np.sqrt(2 * triangle.shape[1]))  # k < sqrt(k (k + 1)) < k + 1
    rows, columns = np.tril_indices(size)
    matrices = np.zeros((len(triangle), size, size))
    matrices[:, rows, columns] = triangle
    matrices[:, columns, rows] = triangle
    return matrices


def pack(matrices: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Convert symmetric matrices (n, k, k) to their lower triangles, row by row."""
    rows, columns = np.tril_indices(matrices.shape[1])
    return matrices[:, rows, columns].astype(np.float32)
