"""Decode rows of the spectra table into arrays: counts in channel bins, and their responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import RaypipeError
from raypipe.spectra.channel_bins import MOST_BINS, ChannelBins
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import GriddedResponse
from raypipe.spectra.responses import ResponseLibrary

FloatArray = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 1024
"""Most rows whose native channels are copied at once: 32 MB of 4,096 channels."""

COUNTS = ["counts", "background_counts", "background_scale", "background_scale_by_bin", "rmf_id"]
"""Columns that `SpectraDecoder.counts` reads."""

COLUMNS = [*COUNTS, "exposure_s", "arf_cm2"]
"""Columns that `SpectraDecoder.decode` reads."""


@dataclass(frozen=True)
class DecodedCounts:
    """Hold the counts of n rows, in the channel bins of their responses.

    `counts`, `background_counts` (n, 256) int64, 0 in bins beyond those of the response;
    `background_scale` (n,), or (n, 256) where it differs by channel in one of the rows, 0 where
    there is no background; `response_index` (n,) into the decoder's `responses`.
    """

    counts: Integers
    background_counts: Integers
    background_scale: FloatArray
    response_index: Integers

    @property
    def background_scale_by_bin(self) -> FloatArray:
        """Return the background scale in a shape that broadcasts over bins, (n, 1) or (n, 256)."""
        scale = self.background_scale
        return scale if scale.ndim == 2 else scale[:, None]


@dataclass(frozen=True)
class DecodedSpectra(DecodedCounts):
    """Hold the counts of n rows, with `exposure_s` (n,) and `arf_cm2` (n, n_energy)."""

    exposure_s: FloatArray
    arf_cm2: FloatArray


class SpectraDecoder:
    """Decode tables of spectra, and number the responses that occur in them.

    `responses` are those of all tables so far, in the order of their first occurrence.
    """

    def __init__(self, library: ResponseLibrary) -> None:
        self.responses: list[GriddedResponse] = []
        self._library = library
        self._numbers: dict[str, int] = {}

    def counts(self, table: pa.Table) -> DecodedCounts:
        """Decode counts and background of a table with the columns `COUNTS`.

        Raises RaypipeError if a row has other channels than its response.
        """
        index = self._response_index(table["rmf_id"])
        return DecodedCounts(
            counts=self._binned(table["counts"], index),
            background_counts=self._binned(table["background_counts"], index),
            background_scale=self._scales(table, index),
            response_index=index,
        )

    def decode(self, table: pa.Table) -> DecodedSpectra:
        """Decode a table with the columns `COLUMNS`; raises what `counts` does.

        Raises RaypipeError for areas on another energy grid, too.
        """
        part = self.counts(table)
        return DecodedSpectra(
            counts=part.counts,
            background_counts=part.background_counts,
            background_scale=part.background_scale,
            response_index=part.response_index,
            exposure_s=single(table["exposure_s"]),
            arf_cm2=_areas(table["arf_cm2"]),
        )

    def bins_of(self, decoded: DecodedCounts) -> list[ChannelBins]:
        """Return the channel bins of each row."""
        return [self.responses[number].bins for number in decoded.response_index]

    def _response_index(self, column: pa.ChunkedArray) -> Integers:
        encoded = pc.dictionary_encode(column.combine_chunks())
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        numbers = np.array([self._number(str(name)) for name in encoded.dictionary.to_pylist()])
        places = encoded.indices.to_numpy(zero_copy_only=False)
        return numbers.astype(np.int64)[places] if len(places) else np.zeros(0, np.int64)

    def _number(self, rmf_id: str) -> int:
        if rmf_id not in self._numbers:
            self.responses.append(self._library.load(rmf_id))
            self._numbers[rmf_id] = len(self._numbers)
        return self._numbers[rmf_id]

    def _binned(self, column: pa.ChunkedArray, index: Integers) -> Integers:
        """Sum native channels into channel bins, (n, 256): rows of the same bins together."""
        lists = column.combine_chunks()
        binned = np.zeros((len(lists), MOST_BINS), np.int64)
        there = lists.is_valid().to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        self._require_channels(lengths[there], index[there])
        values = lists.flatten().to_numpy(zero_copy_only=False)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        for bins, responses in _alike([each.bins for each in self.responses]):
            rows = np.flatnonzero(there & np.isin(index, responses))
            for some in np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE)):
                if len(some):
                    native = _rows_of(values, starts, some, bins.n_channels)
                    binned[some, : len(bins)] = bins.bin_counts(native)
        return binned

    def _require_channels(self, lengths: npt.NDArray[Any], index: Integers) -> None:
        expected = np.array([each.bins.n_channels for each in self.responses], np.int64)[index]
        if len(index) and (lengths != expected).any():
            row = int((lengths != expected).argmax())
            raise RaypipeError(
                f"a spectrum of {lengths[row]} channels names a response of {expected[row]}: run "
                "raypipe ingest again"
            )

    def _scales(self, table: pa.Table, index: Integers) -> FloatArray:
        scales = single(background_scales(table))
        if "background_scale_by_bin" not in table.column_names:
            return scales
        by_bin = table["background_scale_by_bin"].combine_chunks()
        if by_bin.null_count == len(by_bin):
            return scales
        spread = np.repeat(scales[:, None], MOST_BINS, axis=1)
        for row in np.flatnonzero(by_bin.is_valid().to_numpy(zero_copy_only=False)):
            values = by_bin[int(row)].values.to_numpy(zero_copy_only=False)
            if len(values) != len(self.responses[index[row]].bins):
                raise RaypipeError(
                    f"a spectrum has {len(values)} background scales, its response "
                    f"{len(self.responses[index[row]].bins)} bins: run raypipe ingest again"
                )
            spread[row, : len(values)] = values
        return spread


def _rows_of(
    values: npt.NDArray[Any], starts: Integers, rows: Integers, size: int
) -> npt.NDArray[Any]:
    """Return rows of `size` values each, (rows, size), without a copy where they are one block."""
    begin, end = int(starts[rows[0]]), int(starts[rows[-1] + 1])
    if end - begin == len(rows) * size:
        return values[begin:end].reshape(len(rows), size)
    return values[starts[rows][:, None] + np.arange(size)]


def vectors(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """Read a column of fixed-size lists as a matrix (rows, size); null rows become zeros."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    size = array.type.list_size
    matrix = np.zeros((len(array), size), array.type.value_type.to_pandas_dtype())
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    matrix[valid] = (
        array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(int(valid.sum()), size)
    )
    return matrix


def background_scales(table: pa.Table) -> pa.ChunkedArray:
    """Return the column `background_scale` of spectra, 0 where there is no background."""
    return table["background_scale"].cast(pa.float64()).fill_null(0.0)


def single(column: pa.ChunkedArray) -> FloatArray:
    """Read a column in single precision, (rows,): infinite beyond its range, NaN for null."""
    with np.errstate(over="ignore"):
        values: FloatArray = column.to_numpy(zero_copy_only=False).astype(np.float32)
    return values


def _areas(column: pa.ChunkedArray) -> FloatArray:
    """Read effective areas, (n, n_energy), in single precision."""
    kind, n_energy = column.type, EnergyGrid().n_energy
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != n_energy:
        raise RaypipeError(
            f"spectra with areas of {kind}, expected {n_energy} energy bins: made by another "
            "version of raypipe; run raypipe ingest again"
        )
    return vectors(column).astype(np.float32, copy=False)


def _alike(bins: list[ChannelBins]) -> list[tuple[ChannelBins, list[int]]]:
    """Group responses whose channels are summed alike; those of ACIS are one group."""
    groups: dict[tuple[bytes, int], tuple[ChannelBins, list[int]]] = {}
    for number, each in enumerate(bins):
        key = each.first.tobytes(), each.n_channels
        groups.setdefault(key, (each, []))[1].append(number)
    return list(groups.values())
