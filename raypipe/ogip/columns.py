"""Read the columns that OGIP spectra and responses share: energies, units, channel numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raypipe.ogip.fits import Floats, Hdu, Integers
from raypipe.ogip.notes import PARTIAL_RESPONSE, Note
from raypipe.ogip.table import MAX_COLUMNS, TABLE_TYPES, Table

EDGE_ROUNDING = 1e-5
"""Largest relative overlap of neighboring energy bins that single precision explains."""

EXPECTED_KEV = (0.5, 7.0)
"""The CSC's broad band: responses that do not cover all of it get a note."""

UNCOVERED_KEV = 0.01
"""Largest part of `EXPECTED_KEV` that may be without response and without a note, keV."""

_KEV_PER_UNIT = {"": 1.0, "KEV": 1.0, "EV": 1e-3}


_OTHER_CLASSES = frozenset(
    {
        "SPECTRUM",
        "RESPONSE",
        "EVENTS",
        "GTI",
        "LIGHTCURVE",
        "IMAGE",
        "REGION",
        "ARRAY",
        "TEMPORALDATA",
    }
)


class Kind(NamedTuple):
    """Describe a kind of OGIP table: its class words, usual names and required columns.

    A table must have one column of each group of `columns`.
    """

    class1: str
    class2: str | None
    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]


SPECTRUM = Kind("SPECTRUM", None, ("SPECTRUM",), (("CHANNEL",), ("COUNTS", "RATE")))
AREA = Kind("RESPONSE", "SPECRESP", ("SPECRESP",), (("ENERG_LO",), ("SPECRESP",)))
MATRIX = Kind(
    "RESPONSE",
    "RSP_MATRIX",
    ("MATRIX", "SPECRESP MATRIX", "RSP_MATRIX"),
    (("ENERG_LO",), ("F_CHAN",), ("MATRIX",)),
)
BOUNDS = Kind("RESPONSE", "EBOUNDS", ("EBOUNDS",), (("E_MIN",), ("E_MAX",)))
_CLASSES2 = frozenset(kind.class2 for kind in (AREA, MATRIX, BOUNDS))


def tables_of_class(hdus: Iterable[Hdu], kind: Kind) -> list[Hdu]:
    """Find the binary tables of a kind: by HDUCLAS1 and HDUCLAS2, else by EXTNAME, else by columns.

    EXTNAME and columns decide for tables without class words, and for those whose class words name
    no other product: files exist with HDUCLAS2 PI_EBOUNDS, with a class but without the usual name,
    and with neither.
    """
    tables = [hdu for hdu in hdus if hdu.text("XTENSION") in TABLE_TYPES]
    classed = [hdu for hdu in tables if _is_classed(hdu, kind)]
    if classed:
        return classed
    open_to_names = [hdu for hdu in tables if not _is_classed_otherwise(hdu, kind)]
    named = [hdu for hdu in open_to_names if hdu.text("EXTNAME") in kind.names]
    return named or [hdu for hdu in open_to_names if _has_columns(hdu, kind)]


def _is_classed(hdu: Hdu, kind: Kind) -> bool:
    if hdu.text("HDUCLAS1") != kind.class1:
        return False
    return kind.class2 is None or hdu.text("HDUCLAS2") == kind.class2


def _is_classed_otherwise(hdu: Hdu, kind: Kind) -> bool:
    """Tell whether the class words are those of another product."""
    stated1, stated2 = hdu.text("HDUCLAS1"), hdu.text("HDUCLAS2")
    if stated1 != kind.class1:
        return stated1 in _OTHER_CLASSES
    return stated2 in _CLASSES2


def _has_columns(hdu: Hdu, kind: Kind) -> bool:
    stated = hdu.header.get("TFIELDS")
    n_columns = min(stated, MAX_COLUMNS) if isinstance(stated, int) else 0
    names = {hdu.text(f"TTYPE{number}") for number in range(1, n_columns + 1)}
    return all(not names.isdisjoint(group) for group in kind.columns)


class EnergyGrid(NamedTuple):
    """Hold the edges (m,) of energy bins, keV, and the rows of the table that hold them."""

    low: Floats
    high: Floats
    rows: slice | npt.NDArray[np.bool_]


def finite(table: Table, name: str) -> Floats:
    """Return one finite float64 per row; OgipError names the first row that is not finite."""
    values = as_floats(table, name)
    if not (-np.inf < values.min() and values.max() < np.inf):
        _refuse_infinite(table, name, values)
    return values


def not_negative(table: Table, name: str) -> Floats:
    """Return one finite float64 per row, none negative; OgipError names the first bad row."""
    values = as_floats(table, name)
    if not (values.min() >= 0 and values.max() < np.inf):
        _refuse_infinite(table, name, values)
        refuse_rows(table, values < 0, f"{name} is negative")
    return values


def _refuse_infinite(table: Table, name: str, values: Floats) -> None:
    refuse_rows(table, ~np.isfinite(values), f"{name} is not finite")


def as_floats(table: Table, name: str) -> Floats:
    """Return one number per row, as float64."""
    values = table.scalars(name)
    if values.dtype.kind not in "iuf":
        raise table.hdu.error(f"column {name} holds no numbers")
    if values.dtype != np.float32:
        return values.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def as_integers(table: Table, name: str) -> Integers:
    """Return one whole number per row, as int64, from a column of integers or of floats."""
    return whole(table, name, table.scalars(name))


def whole(table: Table, name: str, values: npt.NDArray[Any]) -> Integers:
    """Convert `values` of any numeric type to int64; raise OgipError if one is not whole."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            integers = values.astype(np.int64)
            refuse_rows(table, integers != values, f"{name} is not a whole number")
        return integers
    if values.dtype.kind not in "iu":
        raise table.hdu.error(f"column {name} holds no numbers")
    return values.astype(np.int64)


def refuse_rows(table: Table, bad: npt.NDArray[np.bool_], problem: str) -> None:
    """Raise OgipError if a row is bad; it names the first one, counted from 1."""
    if np.count_nonzero(bad):
        raise table.hdu.error(f"{problem} at row {int(bad.argmax()) + 1}")


def bin_edges_kev(table: Table, low: str, high: str) -> tuple[Floats, Floats]:
    """Return the lower and upper edge of each row's bin, keV, finite and in ascending order."""
    lows, highs = _in_kev(table, low), _in_kev(table, high)
    with np.errstate(invalid="ignore"):
        widths = highs - lows
    if not (widths.min() >= 0 and widths.max() < np.inf):
        _refuse_infinite(table, low, lows)
        _refuse_infinite(table, high, highs)
        refuse_rows(table, widths < 0, f"{high} does not exceed {low}")
    return lows, highs


def _in_kev(table: Table, name: str) -> Floats:
    unit = table.keyword("TUNIT", name)
    factor = _KEV_PER_UNIT.get(unit.strip().upper() if isinstance(unit, str) else "")
    if factor is None:
        raise table.hdu.error(f"{name} is in {unit!r}, expected keV")
    values = as_floats(table, name)
    return values if factor == 1.0 else values * factor


def energy_grid_kev(table: Table) -> EnergyGrid:
    """Return a response's energy bins (ENERG_LO, ENERG_HI), ascending without overlap.

    Bins without width take no photons and are left out. Raises OgipError naming the row where
    energies are negative or do not ascend.
    """
    lows, highs = bin_edges_kev(table, "ENERG_LO", "ENERG_HI")
    ascending = (lows[1:] >= lows[:-1]) & (lows[1:] >= highs[:-1] * (1 - EDGE_ROUNDING))
    if lows[0] < 0 or not ascending.all():
        refuse_rows(table, lows < 0, "ENERG_LO is negative")
        refuse_rows(table, np.append(False, ~ascending), "energies do not ascend from bin to bin")
    wide = highs > lows
    if wide.all() and (lows[1:] != lows[:-1]).all():
        return EnergyGrid(lows, highs, slice(None))
    if not wide.any():
        raise table.hdu.error("no energy bin has a width: ENERG_HI equals ENERG_LO in every row")
    repeated = np.append(False, np.diff(lows[wide]) <= 0)
    if repeated.any():
        row = int(np.flatnonzero(wide)[repeated.argmax()])
        raise table.hdu.error(f"energies do not ascend from bin to bin at row {row + 1}")
    return EnergyGrid(lows[wide], highs[wide], wide)


def coverage_notes(product: str, low: Floats, high: Floats, response: Floats) -> tuple[Note, ...]:
    """Return a note if the bins that respond to photons leave part of `EXPECTED_KEV` uncovered.

    `low`, `high` (m,): edges of the bins, keV; `response` (m,): area, or sum of the matrix's row.
    """
    begin, end = EXPECTED_KEV
    responds = response > 0
    overlaps = np.minimum(high, end) - np.maximum(low, begin)
    covered = float(overlaps[responds & (overlaps > 0)].sum())
    if covered >= end - begin - UNCOVERED_KEV:
        return ()
    if not responds.any():
        return (Note(f"the {product} is zero everywhere", PARTIAL_RESPONSE),)
    first, last = float(low[responds].min()), float(high[responds].max())
    said = f"the {product} covers {covered:.3g} of the {end - begin:g} keV from {begin:g} to "
    said += f"{end:g} keV; its response reaches from {first:.3g} to {last:.3g} keV"
    return (Note(said, PARTIAL_RESPONSE),)
