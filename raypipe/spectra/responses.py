"""The redistribution library: each distinct RMF once, cut to the model's grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from raypipe.errors import OgipError, RaypipeError
from raypipe.ogip import Rmf
from raypipe.spectra.grid import NATIVE_CHANNELS, Grid
from raypipe.store.layout import mend_of
from raypipe.store.workspace import Workspace

FloatArray = npt.NDArray[np.float32]

FOLDER = "responses"
_ID_LENGTH = 16

MOST_EFFICIENCY = 1.1
"""Largest sum of an RMF's row that counts as a probability: rows of real ones reach 1.01."""

BROAD_BAND_KEV = (0.5, 7.0)
"""The CSC's broad band, which a response for a zone has to cover."""

_DENSE_ROWS = 4096
"""Most energy bins of a file whose matrix is made dense, 16 MB; files for ACIS have about 1,000."""

_CACHED_BINS = 50_000
"""Most energy bins of a file whose overlap with the grid is kept for the next file."""


def overlap_shares(
    lo: npt.NDArray[np.float64], hi: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> sparse.csr_array:
    """Share of each model bin, (model bins, file bins), that each of a file's bins covers.

    Rows sum to 1 where the file's bins cover the whole of the model bin.
    """
    first = np.clip(np.searchsorted(edges, lo, side="right") - 1, 0, len(edges) - 2)
    last = np.clip(np.searchsorted(edges, hi, side="left") - 1, 0, len(edges) - 2)
    spans = last - first + 1
    source = np.repeat(np.arange(len(lo)), spans)
    offsets = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
    target = np.repeat(first, spans) + offsets
    width = np.minimum(hi[source], edges[target + 1]) - np.maximum(lo[source], edges[target])
    share = np.clip(width, 0.0, None) / (edges[target + 1] - edges[target])
    return sparse.csr_array((share, (target, source)), shape=(len(edges) - 1, len(lo)))


class Overlap(NamedTuple):
    """`overlap_shares` of a file's energy bins, and their sum where the model is covered least."""

    shares: sparse.csr_array
    least_covered: float


def overlap_of(lo: npt.NDArray[np.float64], hi: npt.NDArray[np.float64], grid: Grid) -> Overlap:
    """Overlap of a file's energy bins, keV, with the grid's; most files have those of another."""
    overlap = _overlap_of if len(lo) <= _CACHED_BINS else _overlap_of.__wrapped__
    return overlap(lo.tobytes(), hi.tobytes(), grid)


@lru_cache(maxsize=16)
def _overlap_of(lo: bytes, hi: bytes, grid: Grid) -> Overlap:
    shares = overlap_shares(np.frombuffer(lo), np.frombuffer(hi), grid.energy_edges_kev)
    return Overlap(shares, float(shares.sum(axis=1).min()))


def redistribution_on_grid(rmf: Rmf, grid: Grid, path: str) -> FloatArray:
    """Probability that a photon of each energy bin lands in each channel bin, (n_energy, bins).

    The mean of the file's rows over each energy bin, its native channels summed by their place.
    Where the matrix includes the effective area, that is divided out: `efficiency_on_grid` has it.
    Raises OgipError, naming `path`, where the RMF has other channels than ACIS PI, negative values,
    rows that sum to more than a probability can, or nothing in the model's channels.
    """
    if len(rmf.channels) != NATIVE_CHANNELS:
        raise OgipError(
            path,
            f"{len(rmf.channels)} channels, the latent model needs the {NATIVE_CHANNELS} PI "
            "channels of ACIS",
        )
    if rmf.matrix.nnz and rmf.matrix.data.min() < 0:
        raise OgipError(path, "the RMF has negative probabilities: make it again")
    efficiency = efficiency_on_grid(rmf, grid)
    if not rmf.includes_area and efficiency.max() > MOST_EFFICIENCY:
        raise OgipError(
            path,
            f"rows of the RMF sum to {efficiency.max():g}, where probabilities sum to 1: make it "
            "again, or set HDUCLAS3 to FULL if the matrix includes the effective area",
        )
    shares = overlap_of(rmf.energy_lo_kev, rmf.energy_hi_kev, grid).shares
    redistribution = shares @ _in_channel_bins(rmf.matrix, grid)
    if sparse.issparse(redistribution):
        redistribution = redistribution.toarray()
    if rmf.includes_area:
        redistribution /= np.where(efficiency > 0, efficiency, 1.0)[:, None]
    redistribution = redistribution.astype(np.float32)
    if not redistribution.any():
        raise OgipError(
            path, "the RMF leads no photon into the model's channels (0.5-8 keV): make it again"
        )
    return redistribution


def efficiency_on_grid(rmf: Rmf, grid: Grid) -> npt.NDArray[np.float64]:
    """Probability that a photon of each energy bin is counted in any native channel, (n_energy,).

    The mean of the sums of the file's rows over each energy bin: about 1 for an RMF of ACIS, and
    the effective area in cm2 where the matrix includes it.
    """
    sums = rmf.matrix.sum(axis=1, dtype=np.float64)
    efficiency: npt.NDArray[np.float64] = (
        overlap_of(rmf.energy_lo_kev, rmf.energy_hi_kev, grid).shares @ sums
    )
    return efficiency


@dataclass(frozen=True)
class GriddedRmf:
    """An RMF on the model's grid: `redistribution_on_grid`, and the name of that."""

    redistribution: FloatArray
    rmf_id: str


def put_rmf_on_grid(rmf: Rmf, grid: Grid, path: str) -> GriddedRmf:
    """Put an RMF onto the model's grid; raises what `redistribution_on_grid` does."""
    redistribution = redistribution_on_grid(rmf, grid, path)
    return GriddedRmf(redistribution, rmf_id_of(redistribution))


def in_broad_band(response: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """The part of an area or efficiency (n_energy,) that lies in the CSC's broad band."""
    low, high = BROAD_BAND_KEV
    return response[(grid.energy_mid_kev > low) & (grid.energy_mid_kev < high)]


def _in_channel_bins(matrix: sparse.csr_array, grid: Grid) -> Any:
    """Native channels (m, 1024) summed into channel bins (m, bins).

    The dense form of a matrix of usual size is ten times faster than a sparse product; that of a
    larger one could fill the memory, so it stays sparse. Both give the same bits.
    """
    start = grid.first_channel - 1
    kept = np.arange(grid.channels_per_bin * grid.n_channel_bins)
    stop = start + len(kept)
    if matrix.shape[0] > _DENSE_ROWS:
        where = (np.ones(len(kept)), (start + kept, kept // grid.channels_per_bin))
        return matrix @ sparse.csr_array(where, shape=(matrix.shape[1], grid.n_channel_bins))
    native = matrix.toarray()[:, start:stop]
    binned = np.zeros((len(native), grid.n_channel_bins))
    for channel in range(grid.channels_per_bin):
        binned += native[:, channel :: grid.channels_per_bin]
    return binned


def rmf_id_of(redistribution: FloatArray) -> str:
    """Name of a redistribution: a hash of its values."""
    return hashlib.sha256(np.ascontiguousarray(redistribution).tobytes()).hexdigest()[:_ID_LENGTH]


class ResponseLibrary:
    """The redistributions of a workspace, by `rmf_id`."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._load = lru_cache(maxsize=64)(self._read)
        self._stored: set[str] = set()

    def add(self, redistribution: FloatArray, rmf_id: str | None = None) -> str:
        """Store a redistribution (n_energy, bins) unless it is there, and return its id."""
        rmf_id = rmf_id or rmf_id_of(redistribution)
        if rmf_id not in self._stored:
            name = self._name(rmf_id)
            if not self.workspace.exists(name):
                self.workspace.write_table(name, _to_table(rmf_id, redistribution))
            self._stored.add(rmf_id)
        return rmf_id

    def load(self, rmf_id: str) -> FloatArray:
        """The redistribution (n_energy, bins) of that id.

        Raises RaypipeError where it is not there, or is not the one that the id is the hash of.
        """
        return self._load(rmf_id)

    def _read(self, rmf_id: str) -> FloatArray:
        name = self._name(rmf_id)
        where, mend = self.workspace.absolute_uri(name), mend_of(name)
        if not self.workspace.exists(name):
            raise RaypipeError(f"{where}: this redistribution is missing; {mend}")
        table = self.workspace.read_table(name)
        try:
            redistribution = _from_table(table)
        except (LookupError, TypeError, ValueError) as error:
            raise RaypipeError(f"{where}: not a redistribution ({error}); {mend}") from error
        if rmf_id_of(redistribution) != rmf_id:
            raise RaypipeError(
                f"{where}: damaged, for its values do not have the hash that is its name; {mend}"
            )
        return redistribution

    @staticmethod
    def _name(rmf_id: str) -> str:
        return f"{FOLDER}/{rmf_id}.parquet"


def _to_table(rmf_id: str, redistribution: FloatArray) -> pa.Table:
    """Banded storage: of each energy bin the channel bins from its first to its last non-zero."""
    filled = redistribution != 0
    first = filled.argmax(1)
    last = redistribution.shape[1] - filled[:, ::-1].argmax(1)
    bands = [
        row[a:b] if any_filled else row[:0]
        for row, a, b, any_filled in zip(redistribution, first, last, filled.any(1), strict=True)
    ]
    return pa.table(
        {
            "rmf_id": pa.array([rmf_id] * len(bands)),
            "energy_bin": pa.array(np.arange(len(bands), dtype=np.int32)),
            "first_channel_bin": pa.array(first.astype(np.int32)),
            "redistribution": pa.array(bands, pa.list_(pa.float32())),
        }
    ).replace_schema_metadata({"n_channel_bins": str(redistribution.shape[1])})


def _from_table(table: pa.Table) -> FloatArray:
    bins = int(table.schema.metadata[b"n_channel_bins"])
    matrix = np.zeros((table.num_rows, bins), np.float32)
    first = table["first_channel_bin"].to_numpy()
    column = table["redistribution"].combine_chunks()
    lengths = column.value_lengths().to_numpy()
    values = column.flatten().to_numpy()
    rows = np.repeat(np.arange(len(first)), lengths)
    offsets = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    matrix[rows, first[rows] + offsets] = values
    return matrix
