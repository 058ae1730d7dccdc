"""Read redistribution matrices from response matrix files (RMF).

Source: OGIP memo CAL/GEN/92-002 and its addendum 92-002a. NUMGRP, NUMELT and DETCHANS are ignored,
because archives carry wrong ones.
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
from raypipe.ogip.energies import EnergyBins, bins_of, union_of
from raypipe.ogip.fits import Floats, Hdu, Integers, read_hdus
from raypipe.ogip.header import as_number
from raypipe.ogip.loading import Source
from raypipe.ogip.notes import Note
from raypipe.ogip.table import Ragged, Table, runs

MAX_CHANNEL = 2**31 - 1
"""Largest channel number that a header may state; a larger one counts as absent."""

MOST_PROBABILITY = 1.5
"""Largest sum of a row of probabilities: they sum to 1 at most, so larger sums include an area."""

PROBABILITIES = (0.5, 1.1)
"""Range of the largest row sum of a redistribution: Chandra's reach 1.01, Swift's 0.91, those of
ASCA, which lose events, 0.87. No telescope has an area of so few cm2."""

MAX_PARTS = 16
"""Largest number of matrices into which one response may be split."""

MAX_SPREAD = 16
"""Largest growth of the number of elements when a split matrix is put on the union of its bins."""

_WITH_AREA = "SPECRESP MATRIX"


@dataclass(frozen=True, slots=True, eq=False)
class Rmf:
    """Hold the probability that a photon of an energy bin is counted in a channel.

    `energy_lo_kev`, `energy_hi_kev` (m,): edges of the energy bins, keV, ascending; `channels`
    (n,): consecutive channel numbers; `channel_energy_kev` (n, 2): their nominal edges, keV;
    `matrix`: sparse (m, n); `includes_area`: whether the matrix is multiplied by the effective
    area already (HDUCLAS3 FULL, or rows that sum to more than probabilities do); `header`: the
    keywords of the matrix's HDU; `warnings`: notes on what is odd in the file, each with its code
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
        """Return the counts per channel (..., n) for photons per energy bin (..., m)."""
        photons = np.asarray(photons, dtype=np.float64)
        n_energies, n_channels = self.matrix.shape
        if photons.shape[-1:] != (n_energies,):
            raise ValueError(f"photons has shape {photons.shape}, expected (..., {n_energies})")
        counts = photons.reshape(-1, n_energies) @ self.matrix
        folded: Floats = np.asarray(counts).reshape(*photons.shape[:-1], n_channels)
        return folded


def read_rmf(source: Source, *, name: str | None = None) -> Rmf:
    """Read the RMF of a path or of bytes (called `name` in errors).

    The matrix is found by HDUCLAS2 RSP_MATRIX, else by EXTNAME, else by its columns. Several
    matrices over the same channels are parts of one and are summed on the union of their energy
    bins. F_CHAN counts from its column's TLMIN, else from the first channel of EBOUNDS, else from
    1. Energy bins without width are left out. Raises OgipError for a malformed file.
    """
    hdus = read_hdus(source, name=name)
    tables, bounds = [Table(hdu) for hdu in _matrix_hdus(hdus)], Table(_bounds_hdu(hdus))
    edges = np.column_stack(bin_edges_kev(bounds, "E_MIN", "E_MAX"))
    channels = _channels(bounds, edges[:, 0], _limit(tables[0], "F_CHAN"))
    hdu = tables[0].hdu
    path, header, stated = hdu.path, hdu.header, hdu.text("HDUCLAS3")
    named = _states_area(hdu)
    grids = [energy_grid_kev(table) for table in tables]
    groups = [_read_groups(table, channels) for table in tables]
    # Free the file's bytes, which these hold: the matrices need the room.
    del hdus, hdu, tables, bounds
    parts = [
        _of_rows(part.to_matrix(len(channels)), grid.rows)
        for part, grid in zip(groups, grids, strict=True)
    ]
    (low, high), matrix = _sum_of([grid[:2] for grid in grids], parts, path)
    sums = np.asarray(matrix.sum(axis=1))
    includes_area = _includes_area(stated, named, float(sums.max()))
    notes = coverage_notes("RMF", low, high, sums)
    return Rmf(low, high, channels, edges, matrix, includes_area, header, notes)


def _of_rows(matrix: sparse.csr_array, rows: slice | npt.NDArray[np.bool_]) -> sparse.csr_array:
    """Select rows of a matrix; a slice means all of them, which need no copy."""
    return matrix if isinstance(rows, slice) else matrix[rows]


def _sum_of(
    grids: list[EnergyBins], parts: list[sparse.csr_array], path: str
) -> tuple[EnergyBins, sparse.csr_array]:
    """Sum the parts of a matrix on the union of their energy bins.

    A probability holds for each photon of a bin, so that each piece of a bin has the bin's row.
    """
    if len(parts) == 1:
        return grids[0], parts[0]
    low, high = union_of(grids)
    bins = [bins_of((low, high), grid) for grid in grids]
    covered = np.logical_or.reduce([each >= 0 for each in bins])
    bins = [each[covered] for each in bins]
    stored = sum(part.nnz for part in parts)
    needed = sum(
        int(np.diff(part.indptr)[each[each >= 0]].sum())
        for part, each in zip(parts, bins, strict=True)
    )
    if needed > MAX_SPREAD * stored:
        raise OgipError(
            path,
            f"{len(parts)} matrices of {stored} elements take {needed} on the union of their "
            f"energy bins, more than {MAX_SPREAD} times as many",
        )
    total = sparse.csr_array((int(covered.sum()), parts[0].shape[1]), dtype=np.float32)
    # A matrix of ones (pieces, bins) copies the row of each bin to its pieces.
    for part, each in zip(parts, bins, strict=True):
        rows = np.flatnonzero(each >= 0)
        ones = np.ones(len(rows), np.float32)
        shape = len(each), part.shape[0]
        total = total + sparse.csr_array((ones, (rows, each[rows])), shape=shape) @ part
    total.sort_indices()
    return (low[covered], high[covered]), total


@dataclass(frozen=True, slots=True)
class _Groups:
    """Hold runs of channels: first column and width per run, elements per row, all elements."""

    starts: Integers
    widths: Integers
    elements_by_row: Integers
    values: npt.NDArray[np.float32]

    def to_matrix(self, n_channels: int) -> sparse.csr_array:
        """Build the sparse matrix (rows, n_channels)."""
        columns = runs(self.starts, self.widths, np.int32)
        row_ends = np.concatenate([[0], np.cumsum(self.elements_by_row)]).astype(np.int32)
        shape = len(self.elements_by_row), n_channels
        return sparse.csr_array((self.values, columns, row_ends), shape=shape)


def _matrix_hdus(hdus: list[Hdu]) -> list[Hdu]:
    """Find the matrix, or the parts into which it is split."""
    found = tables_of_class(hdus, MATRIX)
    if not found:
        raise OgipError(hdus[0].path, "no response matrix (HDUCLAS2 RSP_MATRIX) in the file")
    if len(found) > MAX_PARTS:
        raise found[MAX_PARTS].error(f"{len(found)} matrices in one file, at most {MAX_PARTS}")
    for other in found[1:]:
        if _states_area(other) != _states_area(found[0]):
            raise other.error("a matrix with the effective area beside one without")
    if len(found) > 1 and len(tables_of_class(hdus, BOUNDS)) > 1:
        raise found[1].error("several responses in one file: give a file with one of them")
    return found


def _bounds_hdu(hdus: list[Hdu]) -> Hdu:
    found = tables_of_class(hdus, BOUNDS)
    if not found:
        raise OgipError(hdus[0].path, "no channel energies (HDUCLAS2 EBOUNDS) in the file")
    return found[0]


def _states_area(hdu: Hdu) -> bool:
    """Tell whether the header says, by class or by name, that the matrix includes the area."""
    kind = hdu.text("HDUCLAS3")
    return kind == "FULL" or (not kind and hdu.text("EXTNAME") == _WITH_AREA)


def _includes_area(stated: str, named: bool, largest_sum: float) -> bool:
    """Tell whether the matrix includes the area: by its largest row sum, then by the header.

    Some tools call plain redistributions SPECRESP MATRIX. Without HDUCLAS3, the name therefore
    counts only if the rows are no probabilities.
    """
    if largest_sum > MOST_PROBABILITY or stated == "FULL":
        return True
    least, most = PROBABILITIES
    return named and not least <= largest_sum <= most


def _limit(table: Table, name: str) -> int | None:
    """Return TLMIN of a channel column, None where it is absent or no channel number."""
    limit = as_number(table.keyword("TLMIN", name))
    if limit is None:
        return None
    return int(limit) if abs(limit) <= MAX_CHANNEL and limit == int(limit) else None


def _channels(bounds: Table, energy_lo: Floats, first: int | None) -> Integers:
    """Return the channel numbers of EBOUNDS: its CHANNEL if that counts up by one.

    Some files have zeros or other bytes there. Their rows are numbered from TLMIN, provided that
    the energies ascend. Without the column, they are numbered from `first`.
    """
    if "CHANNEL" in bounds:
        channels = as_integers(bounds, "CHANNEL")
        if (np.diff(channels) == 1).all():
            return channels
        first = _limit(bounds, "CHANNEL")
        if first is None or (np.diff(energy_lo) <= 0).any():
            raise bounds.hdu.error("CHANNEL does not count up by one from row to row")
    return np.arange(bounds.n_rows, dtype=np.int64) + (1 if first is None else first)


def _read_groups(table: Table, channels: Integers) -> _Groups:
    """Read the channel groups of each row, with their elements."""
    first = _limit(table, "F_CHAN")
    first_channel = int(channels[0]) if first is None else first
    starts, widths, groups_by_row = _groups(table, first_channel, len(channels))
    # A row has as many elements as its groups have channels: sum widths from group to group.
    passed = np.concatenate([[0], np.cumsum(widths)])
    elements_by_row = np.diff(passed[np.concatenate([[0], np.cumsum(groups_by_row)])])
    return _Groups(starts, widths, elements_by_row, _elements(table, elements_by_row))


def _elements(table: Table, elements_by_row: Integers) -> npt.NDArray[np.float32]:
    """Read the elements that each row's groups take from MATRIX, row after row; all are finite."""
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
    """Return the row that holds the flat index `place`, for rows of these lengths."""
    return int(np.searchsorted(np.cumsum(lengths), place, "right"))


def _groups(
    table: Table, first_channel: int, n_channels: int
) -> tuple[Integers, Integers, Integers]:
    """Return first column and number of columns of each group, and the number of groups per row."""
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
