"""Columns that OGIP spectra and responses share: energies, units, channel numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.ogip.fits import Floats, Hdu, Integers, Table

EDGE_ROUNDING = 1e-5
"""Relative overlap of neighboring energy bins that single precision explains."""

_KEV_PER_UNIT = {"": 1.0, "KEV": 1.0, "EV": 1e-3}


def tables_of_class(
    hdus: Iterable[Hdu], class1: str, class2: str | None, names: tuple[str, ...]
) -> list[Hdu]:
    """Binary tables whose HDUCLAS1 (and HDUCLAS2) are these; those named so where unclassified."""
    return [
        hdu
        for hdu in hdus
        if hdu.text("XTENSION") == "BINTABLE" and _is_of_class(hdu, class1, class2, names)
    ]


def _is_of_class(hdu: Hdu, class1: str, class2: str | None, names: tuple[str, ...]) -> bool:
    stated1 = hdu.text("HDUCLAS1")
    stated2 = class2 if class2 is None else hdu.text("HDUCLAS2")
    if not stated1 or stated2 == "":
        return hdu.text("EXTNAME") in names
    return stated1 == class1 and stated2 == class2


def not_negative(table: Table, name: str) -> Floats:
    """One finite number from 0 on a row, float64; OgipError naming the first row that is not."""
    values = as_floats(table, name)
    if not (values.min() >= 0 and values.max() < np.inf):
        _refuse_infinite(table, name, values)
        refuse_rows(table, values < 0, f"{name} is negative")
    return values


def _refuse_infinite(table: Table, name: str, values: Floats) -> None:
    refuse_rows(table, ~np.isfinite(values), f"{name} is not finite")


def as_floats(table: Table, name: str) -> Floats:
    """One number a row, as float64."""
    values = table.scalars(name)
    if values.dtype.kind not in "iuf":
        raise table.hdu.error(f"column {name} holds no numbers")
    if values.dtype != np.float32:
        return values.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def as_integers(table: Table, name: str) -> Integers:
    """One whole number a row, as int64, from a column of integers or of floats."""
    return whole(table, name, table.scalars(name))


def whole(table: Table, name: str, values: npt.NDArray[Any]) -> Integers:
    """`values` of any numeric type as int64; OgipError where one is no whole number."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            integers = values.astype(np.int64)
            refuse_rows(table, integers != values, f"{name} is not a whole number")
        return integers
    if values.dtype.kind not in "iu":
        raise table.hdu.error(f"column {name} holds no numbers")
    return values.astype(np.int64)


def refuse_rows(table: Table, bad: npt.NDArray[np.bool_], problem: str) -> None:
    """Raise OgipError naming the first bad row, counted from 1, if there is one."""
    if np.count_nonzero(bad):
        raise table.hdu.error(f"{problem} at row {int(bad.argmax()) + 1}")


def bin_edges_kev(table: Table, low: str, high: str) -> tuple[Floats, Floats]:
    """Lower and upper edges of the bins of each row, keV: finite, positive in width."""
    lows, highs = _in_kev(table, low), _in_kev(table, high)
    with np.errstate(invalid="ignore"):
        widths = highs - lows
    if not (widths.min() > 0 and widths.max() < np.inf):
        _refuse_infinite(table, low, lows)
        _refuse_infinite(table, high, highs)
        refuse_rows(table, widths <= 0, f"{high} does not exceed {low}")
    return lows, highs


def _in_kev(table: Table, name: str) -> Floats:
    unit = table.keyword("TUNIT", name)
    factor = _KEV_PER_UNIT.get(unit.strip().upper() if isinstance(unit, str) else "")
    if factor is None:
        raise table.hdu.error(f"{name} is in {unit!r}, expected keV")
    values = as_floats(table, name)
    return values if factor == 1.0 else values * factor


def energy_grid_kev(table: Table) -> tuple[Floats, Floats]:
    """Edges of a response's energy bins (ENERG_LO, ENERG_HI), keV, ascending without overlap."""
    lows, highs = bin_edges_kev(table, "ENERG_LO", "ENERG_HI")
    ascending = (lows[1:] > lows[:-1]) & (lows[1:] >= highs[:-1] * (1 - EDGE_ROUNDING))
    if lows[0] < 0 or not ascending.all():
        refuse_rows(table, lows < 0, "ENERG_LO is negative")
        refuse_rows(table, np.append(False, ~ascending), "energies do not ascend from bin to bin")
    return lows, highs
