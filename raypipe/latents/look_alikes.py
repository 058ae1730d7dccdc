"""Find communities in the graph that joins each row to its most similar ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.neighbors import kneighbors_graph

from raypipe.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NEIGHBORS = 15
"""Number of most similar rows that a row is joined to."""

_ROUNDS = 10


def graph_clusters(
    values: FloatArray, sources: IntArray, resolution: float, seed: int
) -> FloatArray:
    """Return the share of each row's neighbors, itself included, in each community, (n, k).

    Each row of `values` (n, d) is joined to its `NEIGHBORS` nearest rows and to the next row of its
    source (n,). Communities are found by the Leiden algorithm (Traag, Waltman & van Eck 2019) at
    the resolution given, and sorted by falling size. Raises UsageError if leidenalg is not
    installed.
    """
    try:
        import igraph
        import leidenalg
    except ImportError as error:
        raise UsageError(
            "method graph needs leidenalg and igraph: pip install 'raypipe[graph]'"
        ) from error
    near = kneighbors_graph(values, min(NEIGHBORS, len(values) - 1))
    joined = (near.maximum(near.T) + _same_source(sources)).tocoo()
    once = joined.row < joined.col
    edges = np.column_stack([joined.row[once], joined.col[once]])
    found = leidenalg.find_partition(
        igraph.Graph(n=len(values), edges=edges),
        leidenalg.RBConfigurationVertexPartition,
        resolution_parameter=resolution,
        seed=seed,
        n_iterations=_ROUNDS,
    )
    labels = np.asarray(found.membership)
    order = np.argsort(-np.bincount(labels), kind="stable")
    one_hot = (labels[:, None] == order).astype(np.float64)
    votes = near @ one_hot + one_hot
    return np.asarray(votes / votes.sum(axis=1, keepdims=True))


def _same_source(sources: IntArray) -> csr_matrix:
    """Join each row to the next one of the same source, (n, n)."""
    order = np.argsort(sources, kind="stable")
    same = np.flatnonzero(sources[order][1:] == sources[order][:-1])
    pairs = (order[same], order[same + 1])
    n = len(sources)
    return csr_matrix((np.ones(len(same)), pairs), shape=(n, n))
