"""Redistribution matrices: the response matrix file (RMF).

Source: OGIP memo CAL/GEN/92-002 and its addendum 92-002a. NUMGRP, NUMELT and DETCHANS are not
looked at: archives carry wrong ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from raypipe.errors import OgipError
from raypipe.ogip.columns import (
    BOUNDS,
    MATRIX,
    as_integers,
    bin_edges_kev,
    coverage_notes,
    energy_grid_kev,
    tables_of_class,
    whole,
)
from raypipe.ogip.fits import Floats, Hdu, Integers, Ragged, Table, read_hdus, runs
from raypipe.ogip.loading import Source
from raypipe.ogip.notes import Note

MAX_CHANNEL = 2**31 - 1
"""Largest channel number a header may state; what exceeds it counts as absent."""

MOST_PROBABILITY = 1.5
"""Rows of a redistribution sum to 1 at most, with some rounding; what exceeds this is an area."""

_WITH_AREA = "SPECRESP MATRIX"


@dataclass(frozen=True, slots=True, eq=False)
class Rmf:
    """Probability that a photon of an energy bin is counted in a channel.

    `energy_lo_kev`, `energy_hi_kev` (m,): edges of the energy bins, keV, ascending; `channels`
    (n,): consecutive channel numbers; `channel_energy_kev` (n, 2): their nominal edges, keV;
    `matrix`: sparse (m, n); `includes_area`: whether the matrix is multiplied by the effective
    area already (HDUCLAS3 FULL, or rows that sum to more than probabilities do); `header`: the
    keywords of the matrix's HDU; `warnings`: oddities of the file, each with its code
    (`raypipe.ogip.notes`).
    """

    energy_lo_kev: Floats
    energy_hi_kev: Floats
    channels: Integers
    channel_energy_kev: Floats
    matrix: sparse.csr_array
    includes_area: bool
    header: Mapping[str, Any]
    warnings: tuple[Note, ...] = ()

    def fold(self, photons: npt.NDArray[Any]) -> Floats:
        """Counts per channel (..., n) from photons per energy bin (..., m)."""
        photons = np.asarray(photons, dtype=np.float64)
        n_energies, n_channels = self.matrix.shape
        if photons.shape[-1:] != (n_energies,):
            raise ValueError(f"photons has shape {photons.shape}, expected (..., {n_energies})")
        counts = photons.reshape(-1, n_energies) @ self.matrix
        folded: Floats = np.asarray(counts).reshape(*photons.shape[:-1], n_channels)
        return folded


def read_rmf(source: Source, *, name: str | None = None) -> Rmf:
    """Read the RMF of a path or of bytes (called `name` in errors).

    The matrix is found by HDUCLAS2 RSP_MATRIX, by EXTNAME only where unclassified. F_CHAN counts
    from the TLMIN of its own column, else from the first channel of EBOUNDS, else from 1. Raises
    OgipError on anything malformed.
    """
    hdus = read_hdus(source, name=name)
    table, bounds = Table(_matrix_hdu(hdus)), Table(_bounds_hdu(hdus))
    first = _limit(table, "F_CHAN")
    edges = np.column_stack(bin_edges_kev(bounds, "E_MIN", "E_MAX"))
    channels = _channels(bounds, edges[:, 0], first)
    first = int(channels[0]) if first is None else first
    energy_lo, energy_hi = energy_grid_kev(table)
    groups = _read_groups(table, first, len(channels))
    stated, header = _states_area(table.hdu), table.hdu.header
    del hdus, table, bounds  # with them the file's bytes, in whose memory the columns find room
    matrix = groups.to_matrix(len(channels))
    sums = _row_sums(matrix)
    includes_area = stated or bool(sums.max() > MOST_PROBABILITY)
    notes = coverage_notes("RMF", energy_lo, energy_hi, sums)
    return Rmf(energy_lo, energy_hi, channels, edges, matrix, includes_area, header, notes)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Runs of channels: first column and width of each, elements of each row, and all elements."""

    starts: Integers
    widths: Integers
    elements_by_row: Integers
    values: npt.NDArray[np.float32]

    def to_matrix(self, n_channels: int) -> sparse.csr_array:
        """The sparse matrix (rows, n_channels)."""
        columns = runs(self.starts, self.widths, np.int32)
        row_ends = np.concatenate([[0], np.cumsum(self.elements_by_row)]).astype(np.int32)
        shape = len(self.elements_by_row), n_channels
        return sparse.csr_array((self.values, columns, row_ends), shape=shape)


def _matrix_hdu(hdus: list[Hdu]) -> Hdu:
    found = tables_of_class(hdus, MATRIX)
    if not found:
        raise OgipError(hdus[0].path, "no response matrix (HDUCLAS2 RSP_MATRIX) in the file")
    if len(found) > 1:
        raise found[1].error("a second response matrix in one file is not supported")
    return found[0]


def _bounds_hdu(hdus: list[Hdu]) -> Hdu:
    found = tables_of_class(hdus, BOUNDS)
    if not found:
        raise OgipError(hdus[0].path, "no channel energies (HDUCLAS2 EBOUNDS) in the file")
    return found[0]


def _row_sums(matrix: sparse.csr_array) -> Floats:
    """Sum (m,) of each row."""
    sums: Floats = matrix @ np.ones(matrix.shape[1])
    return sums


def _states_area(hdu: Hdu) -> bool:
    kind = hdu.text("HDUCLAS3")
    return kind == "FULL" or (not kind and hdu.text("EXTNAME") == _WITH_AREA)


def _limit(table: Table, name: str) -> int | None:
    """TLMIN of a channel column, None where it is absent or no number of a channel."""
    limit = table.keyword("TLMIN", name)
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        return None
    return int(limit) if abs(limit) <= MAX_CHANNEL and limit == int(limit) else None


def _channels(bounds: Table, energy_lo: Floats, first: int | None) -> Integers:
    """Channel numbers of EBOUNDS: its CHANNEL where that counts up by one.

    Some files carry zeros or other bytes there. Their rows are numbered from TLMIN, as long as
    their energies ascend as channels do. Without the column `first` takes the place of TLMIN.
    """
    if "CHANNEL" in bounds:
        channels = as_integers(bounds, "CHANNEL")
        if (np.diff(channels) == 1).all():
            return channels
        first = _limit(bounds, "CHANNEL")
        if first is None or (np.diff(energy_lo) <= 0).any():
            raise bounds.hdu.error("CHANNEL does not count up by one from row to row")
    return np.arange(bounds.n_rows, dtype=np.int64) + (1 if first is None else first)


def _read_groups(table: Table, first_channel: int, n_channels: int) -> _Groups:
    """The channel groups of each row, with their elements."""
    starts, widths, groups_by_row = _groups(table, first_channel, n_channels)
    passed = np.concatenate([[0], np.cumsum(widths)])
    elements_by_row = np.diff(passed[np.concatenate([[0], np.cumsum(groups_by_row)])])
    return _Groups(starts, widths, elements_by_row, _elements(table, elements_by_row))


def _elements(table: Table, elements_by_row: Integers) -> npt.NDArray[np.float32]:
    """The elements that each row's groups take from MATRIX, row after row; all finite."""
    stored = table.ragged("MATRIX", elements_by_row)
    if stored.values.dtype.kind not in "iuf":
        raise table.hdu.error("column MATRIX holds no numbers")
    short = elements_by_row > stored.lengths
    if short.any():
        row = int(short.argmax())
        raise table.hdu.error(
            f"MATRIX at row {row + 1} has {stored.lengths[row]} elements, "
            f"its channel groups need {elements_by_row[row]}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.values.astype(np.float32, copy=False)
    if len(values) and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        row = _row_of(int(np.isfinite(values).argmin()), elements_by_row)
        raise table.hdu.error(f"MATRIX is not finite at row {row + 1}")
    return values


def _row_of(place: int, lengths: Integers) -> int:
    """The row that holds the flat index `place` where rows have these lengths."""
    return int(np.searchsorted(np.cumsum(lengths), place, "right"))


def _groups(
    table: Table, first_channel: int, n_channels: int
) -> tuple[Integers, Integers, Integers]:
    """First column and number of columns of every group, and how many groups each row has."""
    starts, widths = _whole_ragged(table, "F_CHAN"), _whole_ragged(table, "N_CHAN")
    if "N_GRP" in table:
        groups_by_row = as_integers(table, "N_GRP")
    else:
        groups_by_row = np.minimum(starts.lengths, widths.lengths)
    bad = (groups_by_row < 0) | (groups_by_row > np.minimum(starts.lengths, widths.lengths))
    if bad.any():
        row = int(bad.argmax())
        raise table.hdu.error(
            f"N_GRP is {groups_by_row[row]} at row {row + 1}, F_CHAN and N_CHAN hold "
            f"{starts.lengths[row]} and {widths.lengths[row]} values"
        )
    first = starts.first(groups_by_row) - first_channel
    width = widths.first(groups_by_row)
    outside = (width < 0) | ((width > 0) & ((first < 0) | (first > n_channels - width)))
    outside |= width > n_channels
    if outside.any():
        group = int(outside.argmax())
        row = _row_of(group, groups_by_row)
        raise table.hdu.error(
            f"row {row + 1}: {width[group]} channels from {first[group] + first_channel} on lie "
            f"outside the {n_channels} from {first_channel} on"
        )
    return np.where(width > 0, first, 0), width, groups_by_row


def _whole_ragged(table: Table, name: str) -> Ragged:
    ragged = table.ragged(name)
    return Ragged(whole(table, name, ragged.values), ragged.lengths)
