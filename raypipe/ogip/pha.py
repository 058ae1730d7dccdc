"""Spectra: the pulse height analyzer file (PHA), type I.

Source: OGIP memo OGIP/92-007, "The OGIP Spectral File Format", and its addendum 92-007a.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import OgipError
from raypipe.ogip.columns import (
    as_floats,
    as_integers,
    not_negative,
    refuse_rows,
    tables_of_class,
)
from raypipe.ogip.fits import Floats, Hdu, Integers, Table, read_hdus
from raypipe.ogip.loading import Source

MAX_FLAG = 2**15 - 1
"""Largest QUALITY or GROUPING, which OGIP defines as 16-bit integers."""

TYPE_II_REFUSED = "gratings type II spectra (several spectra in one table) are not supported"


@dataclass(frozen=True, slots=True, eq=False)
class Pha:
    """Counts per channel of one exposure, and what scales them.

    `channels` (n,): channel numbers, ascending; `counts` (n,); `exposure_s`; `backscal` and
    `areascal`: a number, or (n,) where they differ by channel; `quality` and `grouping`: (n,) or
    None where the file has none; `background`: the background block of the same file;
    `backfile`, `ancrfile`, `respfile`: file names as the header gives them, None for "none";
    `header`: the keywords of the HDU; `warnings`: what is odd about the file, yet readable.
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
    warnings: tuple[str, ...]


def read_pha(source: Source, *, name: str | None = None) -> Pha:
    """Read the spectrum of a path or of bytes (called `name` in errors).

    The total spectrum is taken where the file also has a background block (HDUCLAS2 BKG), which
    becomes `background`. Counts come from COUNTS, else from RATE times EXPOSURE. Channels out of
    order are sorted, with a warning. Raises OgipError on anything malformed, on repeated
    channels, on counts that are negative or not finite, without EXPOSURE, and on type II files.
    An exposure or scale that is zero, negative or not finite is read, with a warning.
    """
    hdus = read_hdus(source, name=name)
    found = tables_of_class(hdus, "SPECTRUM", None, ("SPECTRUM",))
    if not found:
        raise OgipError(hdus[0].path, "no spectrum (HDUCLAS1 SPECTRUM) in the file")
    backgrounds = [hdu for hdu in found if hdu.text("HDUCLAS2") == "BKG"]
    totals = [hdu for hdu in found if hdu.text("HDUCLAS2") != "BKG"]
    if not totals:
        return _read_block(backgrounds[0])
    surplus = []
    if len(totals) > 1:
        surplus.append(f"{len(totals)} spectra in one file: the first is read")
    if len(backgrounds) > 1:
        surplus.append(f"{len(backgrounds)} backgrounds in one file: the first is read")
    return _read_block(totals[0], backgrounds[0] if backgrounds else None, surplus)


def _read_block(hdu: Hdu, beside: Hdu | None = None, surplus: Iterable[str] = ()) -> Pha:
    """The spectrum of one block, with the background that is beside it."""
    table = Table(hdu)
    _refuse_type_ii(table)
    notes: list[str] = []
    exposure = hdu.number("EXPOSURE")
    if not 0 < exposure < np.inf:
        notes.append(f"EXPOSURE is {exposure:g} s")
    if hdu.text("HDUCLAS2") == "NET":
        notes.append("the background is already subtracted (HDUCLAS2 NET)")
    channels = as_integers(table, "CHANNEL")
    order = _channel_order(table, channels)
    if not isinstance(order, slice):
        notes.append("channels were out of order: sorted")
    backscal, areascal = (_scale(table, key, order, notes) for key in ("BACKSCAL", "AREASCAL"))
    counts = _counts(table, exposure)[order]
    quality, grouping = (_flags(table, key, order) for key in ("QUALITY", "GROUPING"))
    background = _read_block(beside) if beside else None
    if background is not None:
        notes += [f"background: {note}" for note in background.warnings]
    return Pha(
        channels=channels[order],
        counts=counts,
        exposure_s=exposure,
        backscal=backscal,
        areascal=areascal,
        quality=quality,
        grouping=grouping,
        background=background,
        backfile=_file_name(hdu, "BACKFILE"),
        ancrfile=_file_name(hdu, "ANCRFILE"),
        respfile=_file_name(hdu, "RESPFILE"),
        header=hdu.header,
        warnings=(*notes, *surplus),
    )


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
    """Order that sorts the channels; a slice of all where they ascend already."""
    if (channels[1:] > channels[:-1]).all():
        return slice(None)
    order = np.argsort(channels, kind="stable")
    repeated = np.zeros(len(channels), dtype=np.bool_)
    repeated[order[1:]] = np.diff(channels[order]) == 0
    refuse_rows(table, repeated, "CHANNEL repeats an earlier one")
    return order


def _counts(table: Table, exposure: float) -> Floats:
    name = "COUNTS" if "COUNTS" in table or "RATE" not in table else "RATE"
    values = not_negative(table, name)
    if name == "COUNTS":
        return values
    if not 0 < exposure < np.inf:
        raise table.hdu.error(f"RATE needs a positive EXPOSURE, it is {exposure:g} s")
    with np.errstate(over="ignore"):
        counts: Floats = values * exposure
    refuse_rows(table, np.isinf(counts), "RATE times EXPOSURE is not finite")
    return counts


def _scale(table: Table, key: str, order: Any, notes: list[str]) -> float | Floats:
    """BACKSCAL or AREASCAL: a column, collapsed where constant, else the keyword, else 1."""
    if key not in table:
        scale: float | Floats = table.hdu.number(key, 1.0)
    else:
        column = as_floats(table, key)[order]
        scale = float(column[0]) if (column == column[0]).all() else column
    least, most = (scale, scale) if isinstance(scale, float) else (scale.min(), scale.max())
    if not 0 < least <= most < np.inf:
        notes.append(f"{key} is not positive everywhere")
    return scale


def _flags(table: Table, key: str, order: Any) -> Integers | None:
    """QUALITY or GROUPING: a column, else a keyword other than 0 for all channels, else None."""
    if key in table:
        return as_integers(table, key)[order]
    value = table.hdu.header.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value == 0:
        return None
    if abs(value) > MAX_FLAG:
        raise table.hdu.error(f"{key} is {value}, expected a 16-bit integer")
    return np.full(table.n_rows, value, dtype=np.int64)


def _file_name(hdu: Hdu, key: str) -> str | None:
    value = hdu.header.get(key)
    if not isinstance(value, str) or value.strip().lower() in ("", "none"):
        return None
    return value.strip()
