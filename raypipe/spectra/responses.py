"""Keep the responses of a workspace as files: redistributions and the channel bins they have."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.errors import RaypipeError
from raypipe.spectra.channel_bins import MOST_BINS, ChannelBins
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import GriddedResponse
from raypipe.store.layout import mend_of
from raypipe.store.workspace import Workspace, check_name

FOLDER = "responses"

_BINS = "channel_bins"
"""Key of a file's metadata with the channel bins, JSON."""


def chip_rmfs_name(release: str) -> str:
    """Name the file that records the RMF chosen for each zone of chips."""
    return f"{FOLDER}/chips/{check_name(release, 'release')}.json"


class ResponseLibrary:
    """Hold the responses of a workspace by `rmf_id`, and read each distinct one once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._load = lru_cache(maxsize=64)(self._read)
        self._stored: set[str] = set()

    def add(self, response: GriddedResponse) -> str:
        """Store a response unless it is there, and return its `rmf_id`."""
        rmf_id = response.rmf_id
        if rmf_id not in self._stored:
            name = self._name(rmf_id)
            if not self.workspace.exists(name):
                self.workspace.write_table(name, _to_table(response))
            self._stored.add(rmf_id)
        return rmf_id

    def load(self, rmf_id: str) -> GriddedResponse:
        """Return the response of that id.

        Raises RaypipeError if the file is missing, was made for another energy grid, or does not
        have the content of which the id is the hash.
        """
        return self._load(rmf_id)

    def _read(self, rmf_id: str) -> GriddedResponse:
        name = self._name(rmf_id)
        where, mend = self.workspace.absolute_uri(name), mend_of(name)
        if not self.workspace.exists(name):
            raise RaypipeError(f"{where}: this redistribution is missing; {mend}")
        table = self.workspace.read_table(name)
        if is_former(table):
            raise RaypipeError(
                f"{where}: made for another energy grid, by another version of raypipe; run "
                "raypipe ingest again"
            )
        try:
            response = _from_table(table)
        except (LookupError, TypeError, ValueError) as error:
            raise RaypipeError(f"{where}: not a redistribution ({error}); {mend}") from error
        if response.rmf_id != rmf_id:
            raise RaypipeError(
                f"{where}: damaged, for its values do not have the hash that is its name; {mend}"
            )
        return response

    @staticmethod
    def _name(rmf_id: str) -> str:
        return f"{FOLDER}/{rmf_id}.parquet"


def is_former(table: pa.Table) -> bool:
    """Tell whether a response's file lacks channel bins, or has other energy bins than the grid."""
    described = _BINS.encode() in (table.schema.metadata or {})
    return not described or table.num_rows != EnergyGrid().n_energy


def _to_table(response: GriddedResponse) -> pa.Table:
    """Store each energy bin's channel bins from the first to the last that is not zero."""
    redistribution, bins = response.redistribution, response.bins
    filled = redistribution != 0
    first = filled.argmax(1)
    last = redistribution.shape[1] - filled[:, ::-1].argmax(1)
    bands = [
        row[a:b] if any_filled else row[:0]
        for row, a, b, any_filled in zip(redistribution, first, last, filled.any(1), strict=True)
    ]
    described = {
        "first": bins.first.tolist(),
        "lo_kev": bins.lo_kev.tolist(),
        "hi_kev": bins.hi_kev.tolist(),
        "fwhm_kev": bins.fwhm_kev.tolist(),
        "n_channels": bins.n_channels,
        "is_acis": bins.is_acis,
    }
    return pa.table(
        {
            "rmf_id": pa.array([response.rmf_id] * len(bands)),
            "energy_bin": pa.array(np.arange(len(bands), dtype=np.int32)),
            "first_channel_bin": pa.array(first.astype(np.int32)),
            "redistribution": pa.array(bands, pa.list_(pa.float32())),
        }
    ).replace_schema_metadata({_BINS: json.dumps(described)})


def _from_table(table: pa.Table) -> GriddedResponse:
    bins = _bins_from(table.schema.metadata[_BINS.encode()])
    matrix = np.zeros((table.num_rows, len(bins)), np.float32)
    first = table["first_channel_bin"].to_numpy()
    column = table["redistribution"].combine_chunks()
    lengths = column.value_lengths().to_numpy()
    values = column.flatten().to_numpy()
    rows = np.repeat(np.arange(len(first)), lengths)
    offsets = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    matrix[rows, first[rows] + offsets] = values
    return GriddedResponse(matrix, bins)


def _bins_from(text: bytes) -> ChannelBins:
    """Read channel bins; raise ValueError, TypeError or LookupError for anything else."""
    described = json.loads(text)
    first = np.array(described["first"], dtype=np.int64)
    lo, hi, fwhm = (
        np.array(described[key], np.float64) for key in ("lo_kev", "hi_kev", "fwhm_kev")
    )
    n_channels = int(described["n_channels"])
    _require_shape(len(first) - 1, lo, hi, fwhm)
    if not 0 < len(lo) <= MOST_BINS or first[0] < 0 or first[-1] > n_channels:
        raise ValueError("its channel bins are not within its channels")
    if (np.diff(first) < 1).any():
        raise ValueError("its channel bins do not ascend")
    return ChannelBins(first, lo, hi, fwhm, n_channels, bool(described["is_acis"]))


def _require_shape(n_bins: int, *parts: npt.NDArray[np.float64]) -> None:
    if any(part.shape != (n_bins,) for part in parts):
        raise ValueError("its channel bins have parts of different lengths")
