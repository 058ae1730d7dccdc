"""Hold a batch of spectra on the energy grid, with the responses they fold through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raypipe.errors import RaypipeError
from raypipe.spectra.channel_bins import MOST_BINS, ChannelBins
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import GriddedResponse

if TYPE_CHECKING:
    import pyarrow as pa

    from raypipe.ogip import Spectrum
    from raypipe.spectra.responses import ResponseLibrary

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SpectraBatch:
    """Hold n spectra as arrays, and m responses whose channel bins are padded to 256.

    `counts` and `background_counts` (n, 256), 0 in padded bins; `background_scale` (n,), or
    (n, 256) where it differs by channel, 0 where there is no background; `exposure_s` (n,);
    `arf_cm2` (n, n_energy); `response_index` (n,) says which of the responses is the row's own;
    `responses` (m, n_energy, 256), the redistributions, 0 in padded bins; `bins` (m), their channel
    bins.
    """

    counts: FloatArray
    background_counts: FloatArray
    background_scale: FloatArray
    exposure_s: FloatArray
    arf_cm2: FloatArray
    response_index: npt.NDArray[np.int64]
    responses: FloatArray
    bins: tuple[ChannelBins, ...]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Return which bins each response has, (m, 256)."""
        sizes = np.array([len(each) for each in self.bins], np.int64)
        return np.arange(MOST_BINS) < sizes[:, None]

    @property
    def n_bins(self) -> npt.NDArray[np.int64]:
        """Return the number of channel bins of each row, (n,)."""
        sizes = np.array([len(each) for each in self.bins], np.int64)
        return sizes[self.response_index]

    @property
    def is_measurable(self) -> npt.NDArray[np.bool_]:
        """Tell for each row, (n,), whether its likelihood can be computed in single precision.

        Counts and the background's scale are finite and not negative, the exposure is finite and
        above zero, area and redistribution are finite, nowhere negative and somewhere above zero.
        """
        folds, scale = _is_density(self.responses), self.background_scale
        return (
            _is_amount(self.counts)
            & _is_amount(self.background_counts)
            & _is_amount(scale if scale.ndim == 2 else scale[:, None])
            & _is_density(self.exposure_s[:, None])
            & _is_density(self.arf_cm2)
            & folds[self.response_index]
        )

    def take(self, rows: npt.ArrayLike) -> SpectraBatch:
        """Select the rows of those indices, with all responses."""
        chosen = np.asarray(rows)
        return replace(
            self,
            counts=self.counts[chosen],
            background_counts=self.background_counts[chosen],
            background_scale=self.background_scale[chosen],
            exposure_s=self.exposure_s[chosen],
            arf_cm2=self.arf_cm2[chosen],
            response_index=self.response_index[chosen],
        )

    @classmethod
    def from_table(cls, table: pa.Table, library: ResponseLibrary) -> SpectraBatch:
        """Read rows of a spectra table (`decoding.COLUMNS`), with responses from `library`."""
        from raypipe.spectra.decoding import SpectraDecoder

        decoder = SpectraDecoder(library)
        decoded = decoder.decode(table)
        return cls(
            counts=decoded.counts.astype(np.float32),
            background_counts=decoded.background_counts.astype(np.float32),
            background_scale=decoded.background_scale,
            exposure_s=decoded.exposure_s,
            arf_cm2=decoded.arf_cm2,
            response_index=decoded.response_index,
            responses=stack_responses(decoder.responses),
            bins=tuple(each.bins for each in decoder.responses),
        )

    @classmethod
    def from_spectra(cls, spectra: Sequence[Spectrum]) -> SpectraBatch:
        """Take spectra as read from their files; each needs its ARF and RMF.

        Raises RaypipeError naming the spectrum that cannot be put onto the grid.
        """
        from raypipe.spectra.gridding import grid_detection

        if not spectra:
            raise RaypipeError("no spectra were given")
        pairs = [grid_detection(spectrum, EnergyGrid()) for spectrum in spectra]
        rows, responses = [row for row, _ in pairs], [response for _, response in pairs]
        scales = [row.background_scale or 0.0 for row in rows]
        by_bin = [row.scale_by_bin for row in rows]
        background_scale = np.array(scales, np.float32)
        if any(each is not None for each in by_bin):
            background_scale = np.repeat(background_scale[:, None], MOST_BINS, axis=1)
            for row, each in zip(background_scale, by_bin, strict=True):
                if each is not None:
                    row[: len(each)] = each
        return cls(
            counts=_padded_rows([row.bins.bin_counts(row.counts) for row in rows]),
            background_counts=_padded_rows(
                [
                    np.zeros(len(row.bins))
                    if row.background_counts is None
                    else row.bins.bin_counts(row.background_counts)
                    for row in rows
                ]
            ),
            background_scale=background_scale,
            exposure_s=np.array([row.exposure_s for row in rows], np.float32),
            arf_cm2=np.stack([row.arf_cm2 for row in rows]).astype(np.float32),
            response_index=np.arange(len(rows)),
            responses=stack_responses(responses),
            bins=tuple(each.bins for each in responses),
        )


def stack_responses(responses: Sequence[GriddedResponse]) -> FloatArray:
    """Stack redistributions, (m, n_energy, 256), with zeros in the bins that a response lacks."""
    stacked = np.zeros((len(responses), EnergyGrid().n_energy, MOST_BINS), np.float32)
    for padded, response in zip(stacked, responses, strict=True):
        padded[:, : len(response.bins)] = response.redistribution
    return stacked


def _padded_rows(rows: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
    """Stack vectors of different lengths with zeros behind them, (n, 256)."""
    padded = np.zeros((len(rows), MOST_BINS), np.float32)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def _is_amount(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell for each row (n, ...) whether all its numbers are finite and none is negative."""
    axes = tuple(range(1, values.ndim))
    return np.asarray((values.min(axes) >= 0) & (values.max(axes) < np.inf))


def _is_density(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell for each row whether it passes `_is_amount` and has a number above zero."""
    most = values.max(tuple(range(1, values.ndim)))
    return _is_amount(values) & (most > 0)
