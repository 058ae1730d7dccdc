"""A batch of spectra on the model's grid, with the responses they fold through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.errors import RaypipeError
from raypipe.spectra.grid import Grid

if TYPE_CHECKING:
    from raypipe.ogip import Spectrum
    from raypipe.spectra.responses import ResponseLibrary

FloatArray = npt.NDArray[np.float32]

COLUMNS = ["counts", "background_counts", "background_scale", "exposure_s", "arf_cm2", "rmf_id"]
"""Columns of the spectra table a batch is made of."""


@dataclass(frozen=True)
class SpectraBatch:
    """Spectra as arrays of n rows.

    `counts` and `background_counts` (n, n_channel_bins); `background_scale` (n,), 0 where there is
    no background; `exposure_s` (n,); `arf_cm2` (n, n_energy); `response_index` (n,) says which of
    `responses` (m, n_energy, n_channel_bins), the redistributions, is the row's own.
    """

    counts: FloatArray
    background_counts: FloatArray
    background_scale: FloatArray
    exposure_s: FloatArray
    arf_cm2: FloatArray
    response_index: npt.NDArray[np.int64]
    responses: FloatArray

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def is_measurable(self) -> npt.NDArray[np.bool_]:
        """Whether a likelihood can be made of each row, (n,), in single precision.

        Counts and the background's scale are finite and not negative, the exposure is finite and
        above zero, area and redistribution are finite, nowhere negative and somewhere above zero.
        """
        folds = _is_density(self.responses)
        return (
            _is_amount(self.counts)
            & _is_amount(self.background_counts)
            & _is_amount(self.background_scale[:, None])
            & _is_density(self.exposure_s[:, None])
            & _is_density(self.arf_cm2)
            & folds[self.response_index]
        )

    def take(self, rows: npt.ArrayLike) -> SpectraBatch:
        """The rows of those indices, with all responses."""
        chosen = np.asarray(rows)
        return SpectraBatch(
            counts=self.counts[chosen],
            background_counts=self.background_counts[chosen],
            background_scale=self.background_scale[chosen],
            exposure_s=self.exposure_s[chosen],
            arf_cm2=self.arf_cm2[chosen],
            response_index=self.response_index[chosen],
            responses=self.responses,
        )

    @classmethod
    def from_table(
        cls, table: pa.Table, library: ResponseLibrary, grid: Grid | None = None
    ) -> SpectraBatch:
        """Rows of a spectra table (`COLUMNS` are read) with redistributions from `library`."""
        grid = grid or Grid()
        rmf_ids, index = np.unique(
            table["rmf_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True
        )
        responses = [library.load(rmf_id) for rmf_id in rmf_ids]
        return cls(
            counts=grid.bin_channels(vectors(table["counts"])).astype(np.float32),
            background_counts=grid.bin_channels(vectors(table["background_counts"])).astype(
                np.float32
            ),
            background_scale=single(background_scales(table)),
            exposure_s=single(table["exposure_s"]),
            arf_cm2=vectors(table["arf_cm2"]).astype(np.float32),
            response_index=index.astype(np.int64),
            responses=np.stack(responses)
            if responses
            else np.zeros((0, grid.n_energy, grid.n_channel_bins), np.float32),
        )

    @classmethod
    def from_spectra(cls, spectra: Sequence[Spectrum], grid: Grid | None = None) -> SpectraBatch:
        """Spectra as read from their files; each needs its ARF and RMF.

        Raises RaypipeError naming the spectrum that cannot be put onto the grid.
        """
        from raypipe.spectra.gridding import missing_response, put_on_grid
        from raypipe.spectra.responses import redistribution_on_grid

        grid = grid or Grid()
        if not spectra:
            raise RaypipeError("no spectra were given")
        rows = [put_on_grid(spectrum, grid) for spectrum in spectra]
        responses = []
        for spectrum in spectra:
            if spectrum.rmf is None:
                raise missing_response(spectrum, "RMF", "RESPFILE")
            responses.append(redistribution_on_grid(spectrum.rmf, grid, spectrum.path))
        return cls(
            counts=grid.bin_channels(np.stack([row.counts for row in rows])).astype(np.float32),
            background_counts=grid.bin_channels(
                np.stack([_or_zeros(row.background_counts) for row in rows])
            ).astype(np.float32),
            background_scale=np.array([row.background_scale or 0.0 for row in rows], np.float32),
            exposure_s=np.array([row.exposure_s for row in rows], np.float32),
            arf_cm2=np.stack([row.arf_cm2 for row in rows]).astype(np.float32),
            response_index=np.arange(len(rows)),
            responses=np.stack(responses),
        )


def vectors(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """A column of fixed-size lists as a matrix (rows, size); null rows become zeros."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    size = array.type.list_size
    matrix = np.zeros((len(array), size), array.type.value_type.to_pandas_dtype())
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    matrix[valid] = (
        array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(int(valid.sum()), size)
    )
    return matrix


def background_scales(table: pa.Table) -> pa.ChunkedArray:
    """The column `background_scale` of spectra, 0 where there is no background."""
    return table["background_scale"].cast(pa.float64()).fill_null(0.0)


def single(column: pa.ChunkedArray) -> FloatArray:
    """A column of numbers in single precision, (rows,): infinite beyond it, NaN for null."""
    with np.errstate(over="ignore"):
        values: FloatArray = column.to_numpy(zero_copy_only=False).astype(np.float32)
    return values


def _is_amount(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether all numbers of a row (n, ...) are finite and none is negative."""
    axes = tuple(range(1, values.ndim))
    return np.asarray((values.min(axes) >= 0) & (values.max(axes) < np.inf))


def _is_density(values: FloatArray) -> npt.NDArray[np.bool_]:
    """As `_is_amount`, and whether one of the row's numbers is above zero."""
    most = values.max(tuple(range(1, values.ndim)))
    return _is_amount(values) & (most > 0)


def _or_zeros(counts: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    from raypipe.spectra.grid import NATIVE_CHANNELS

    return np.zeros(NATIVE_CHANNELS, np.int32) if counts is None else counts
