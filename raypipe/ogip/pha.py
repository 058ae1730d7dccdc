"""Read spectra from pulse height analyzer files (PHA), type I.

Source: OGIP memo OGIP/92-007, "The OGIP Spectral File Format", and its addendum 92-007a.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import OgipError
from raypipe.ogip.columns import (
    SPECTRUM,
    as_floats,
    as_integers,
    finite,
    refuse_rows,
    tables_of_class,
)
from raypipe.ogip.fits import Floats, Hdu, Integers, read_hdus
from raypipe.ogip.header import as_number
from raypipe.ogip.loading import Source
from raypipe.ogip.notes import (
    EXPOSURE_ODD,
    LIVETIME_USED,
    NEGATIVE_BACKGROUND,
    NET_COUNTS,
    NOT_POISSON,
    SCALE_ODD,
    SEVERAL_SPECTRA,
    SORTED_CHANNELS,
    Note,
)
from raypipe.ogip.table import Table
from raypipe.ogip.times import UNKNOWN_TIMES, Times, observation_times

MAX_FLAG = 2**15 - 1
"""Largest QUALITY or GROUPING, which OGIP defines as 16-bit integers."""

WHOLE_WITHIN = 1e-2
"""Largest distance of a count from a whole number: it may be a float32 rate times an exposure."""

TYPE_II_REFUSED = "gratings type II spectra (several spectra in one table) are not supported"


@dataclass(frozen=True, slots=True, eq=False)
class Pha:
    """Hold the counts per channel of one exposure, and their scales.

    `channels` (n,): channel numbers, ascending; `counts` (n,); `exposure_s`; `backscal` and
    `areascal`: a number, or (n,) where they differ by channel; `quality` and `grouping`: (n,) or
    None where the file has none; `background`: the background block of the same file;
    `backfile`, `ancrfile`, `respfile`: file names as the header gives them, None for "none";
    `header`: the keywords of the HDU; `warnings`: notes on what is odd in this block, each
    with its code (`raypipe.ogip.notes`); `assumed`: those of BACKSCAL and AREASCAL that the file
    lacks, which are taken as 1; `times`: start and stop of the observation, MJD in TT.
    """

    channels: Integers
    counts: Floats
    exposure_s: float
    backscal: float | Floats
    areascal: float | Floats
    quality: Integers | None
    grouping: Integers | None
    background: Pha | None
    backfile: str | None
    ancrfile: str | None
    respfile: str | None
    header: Mapping[str, Any]
    warnings: tuple[Note, ...]
    assumed: frozenset[str] = frozenset()
    times: Times = UNKNOWN_TIMES


def read_pha(source: Source, *, name: str | None = None) -> Pha:
    """Read the spectrum of a path or of bytes (called `name` in errors).

    If the file also has a background block (HDUCLAS2 BKG), that becomes `background`. Counts come
    from COUNTS, else from RATE times EXPOSURE. EXPOSURE, scales and names of files may be in the
    primary header instead; LIVETIME replaces a missing EXPOSURE. Numbers may be written as text.

    Raises OgipError for malformed files, repeated channels, counts that are not finite, a file with
    neither EXPOSURE nor LIVETIME, and type II files. These are read with a warning: channels out of
    order (they are sorted); an exposure or scale that is zero, negative or not finite; values that
    are no counts, that is negative or net ones, and fractions where POISSERR is false.
    """
    hdus = read_hdus(source, name=name)
    found = tables_of_class(hdus, SPECTRUM)
    if not found:
        raise OgipError(hdus[0].path, "no spectrum (HDUCLAS1 SPECTRUM) in the file")
    backgrounds = [hdu for hdu in found if hdu.text("HDUCLAS2") == "BKG"]
    totals = [hdu for hdu in found if hdu.text("HDUCLAS2") != "BKG"]
    if not totals:
        pha = _read_block(backgrounds[0], hdus[0], _surplus("backgrounds", backgrounds))
        return replace(pha, times=_times(backgrounds[0], hdus))
    surplus = _surplus("spectra", totals) + _surplus("backgrounds", backgrounds)
    background = _read_block(backgrounds[0], hdus[0]) if backgrounds else None
    pha = _read_block(totals[0], hdus[0], surplus, background)
    return replace(pha, times=_times(totals[0], hdus))


def _times(block: Hdu, hdus: Sequence[Hdu]) -> Times:
    """Read the times of the observation from the block, the primary HDU and the time intervals."""
    intervals = [hdu for hdu in hdus[1:] if hdu.text("HDUCLAS1") == "GTI"]
    return observation_times([hdu.header for hdu in (block, hdus[0], *intervals[:1])])


def _surplus(kind: str, found: list[Hdu]) -> list[Note]:
    if len(found) < 2:
        return []
    return [Note(f"{len(found)} {kind} in one file: the first is read", SEVERAL_SPECTRA)]


def _read_block(
    hdu: Hdu, primary: Hdu, surplus: Iterable[Note] = (), background: Pha | None = None
) -> Pha:
    """Read the spectrum of one block, and give it its background."""
    table = Table(hdu)
    _refuse_type_ii(table)
    notes: list[Note] = []
    exposure = _exposure(hdu, primary, notes)
    channels = as_integers(table, "CHANNEL")
    order = _channel_order(table, channels)
    if not isinstance(order, slice):
        notes.append(Note("channels were out of order: sorted", SORTED_CHANNELS))
    scales = [_scale(table, primary, key, order, notes) for key in ("BACKSCAL", "AREASCAL")]
    backscal, areascal = (1.0 if scale is None else scale for scale in scales)
    counts = _counts(table, exposure)
    notes += _poisson_notes(table, counts)
    quality, grouping = (_flags(table, key, order) for key in ("QUALITY", "GROUPING"))
    return Pha(
        channels=channels[order],
        counts=counts[order],
        exposure_s=exposure,
        backscal=backscal,
        areascal=areascal,
        quality=quality,
        grouping=grouping,
        background=background,
        backfile=_file_name(hdu, primary, "BACKFILE"),
        ancrfile=_file_name(hdu, primary, "ANCRFILE"),
        respfile=_file_name(hdu, primary, "RESPFILE"),
        header=hdu.header,
        warnings=(*notes, *surplus),
        assumed=frozenset(
            key
            for key, scale in zip(("BACKSCAL", "AREASCAL"), scales, strict=True)
            if scale is None
        ),
    )


def _exposure(hdu: Hdu, primary: Hdu, notes: list[Note]) -> float:
    """Return EXPOSURE of the block, else of the file; LIVETIME, with a note, if there is none."""
    exposure = _number_of(hdu, primary, "EXPOSURE")
    if exposure is None:
        exposure = _number_of(hdu, primary, "LIVETIME")
        if exposure is None:
            raise hdu.error("keyword EXPOSURE is missing")
        notes.append(Note("EXPOSURE is missing: LIVETIME takes its place", LIVETIME_USED))
    if not 0 < exposure < np.inf:
        notes.append(Note(f"EXPOSURE is {exposure:g} s", EXPOSURE_ODD))
    return exposure


def _number_of(hdu: Hdu, primary: Hdu, key: str) -> float | None:
    value = hdu.optional_number(key)
    return primary.optional_number(key) if value is None else value


def _poisson_notes(table: Table, counts: Floats) -> list[Note]:
    """Return notes on values that are no counts, and on errors that are not Poisson's."""
    hdu, notes = table.hdu, []
    is_background = hdu.text("HDUCLAS2") == "BKG"
    if hdu.text("HDUCLAS2") == "NET":
        notes.append(Note("the background is already subtracted (HDUCLAS2 NET)", NET_COUNTS))
    if counts.min() < 0:
        row = int((counts < 0).argmax()) + 1
        code = NEGATIVE_BACKGROUND if is_background else NET_COUNTS
        notes.append(Note(f"a negative value at row {row}: these are no counts", code))
    if hdu.truth("POISSERR") is False:
        notes.append(
            Note("POISSERR is false: the file states other errors than Poisson's", NOT_POISSON)
        )
        if (np.abs(counts - np.rint(counts)) > WHOLE_WITHIN).any():
            said = "POISSERR is false and the values are not whole: these are no counts"
            notes.append(Note(said, NET_COUNTS))
    return notes


def _refuse_type_ii(table: Table) -> None:
    stated = "TYPE:II" in (table.hdu.text("HDUCLAS3"), table.hdu.text("HDUCLAS4"))
    vectors = any(
        column.holds_vectors
        for name, column in table.columns.items()
        if name in ("CHANNEL", "COUNTS", "RATE")
    )
    if stated or vectors or "SPEC_NUM" in table:
        raise table.hdu.error(TYPE_II_REFUSED)


def _channel_order(table: Table, channels: Integers) -> slice | npt.NDArray[np.intp]:
    """Return the order that sorts the channels, a slice if they ascend already."""
    if (channels[1:] > channels[:-1]).all():
        return slice(None)
    order = np.argsort(channels, kind="stable")
    repeated = np.zeros(len(channels), dtype=np.bool_)
    repeated[order[1:]] = np.diff(channels[order]) == 0
    refuse_rows(table, repeated, "CHANNEL repeats an earlier one")
    return order


def _counts(table: Table, exposure: float) -> Floats:
    name = "COUNTS" if "COUNTS" in table or "RATE" not in table else "RATE"
    values = finite(table, name)
    if name == "COUNTS":
        return values
    if not 0 < exposure < np.inf:
        raise table.hdu.error(f"RATE needs a positive EXPOSURE, it is {exposure:g} s")
    with np.errstate(over="ignore"):
        counts: Floats = values * exposure
    refuse_rows(table, np.isinf(counts), "RATE times EXPOSURE is not finite")
    return counts


def _scale(
    table: Table, primary: Hdu, key: str, order: Any, notes: list[Note]
) -> float | Floats | None:
    """Return BACKSCAL or AREASCAL: the column (a number if constant), else the keyword, or None."""
    scale: float | Floats | None
    if key not in table:
        scale = _number_of(table.hdu, primary, key)
        if scale is None:
            return None
    else:
        column = as_floats(table, key)[order]
        scale = float(column[0]) if (column == column[0]).all() else column
    least, most = (scale, scale) if isinstance(scale, float) else (scale.min(), scale.max())
    if not 0 < least <= most < np.inf:
        notes.append(Note(f"{key} is not positive everywhere", SCALE_ODD))
    return scale


def _flags(table: Table, key: str, order: Any) -> Integers | None:
    """Return QUALITY or GROUPING: the column, else a keyword other than 0 per channel, or None."""
    if key in table:
        return as_integers(table, key)[order]
    value = as_number(table.hdu.header.get(key))
    if value is None or value == 0 or value != np.rint(value):
        return None
    if abs(value) > MAX_FLAG:
        raise table.hdu.error(f"{key} is {value:g}, expected a 16-bit integer")
    return np.full(table.n_rows, int(value), dtype=np.int64)


def _file_name(hdu: Hdu, primary: Hdu, key: str) -> str | None:
    """Return a file's name from the block, else the primary header; None for "none" and blanks."""
    value = hdu.header.get(key)
    if value is None:
        value = primary.header.get(key)
    if not isinstance(value, str) or value.strip().lower() in ("", "none"):
        return None
    return value.strip()
