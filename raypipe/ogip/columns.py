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


def finite(table: Table, name: str) -> Floats:
    """One finite number a row, float64; OgipError naming the first row that is not."""
    values = as_floats(table, name)
    if not (are_finite := np.isfinite(values)).all():
        refuse_rows(table, ~are_finite, f"{name} is not finite")
    return values


def as_floats(table: Table, name: str) -> Floats:
    """One number a row, as float64."""
    values = table.scalars(name)
    if values.dtype.kind not in "iuf":
        raise table.hdu.error(f"column {name} holds no numbers")
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64, copy=False)


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
    edges = []
    for name in (low, high):
        unit = table.keyword("TUNIT", name)
        factor = _KEV_PER_UNIT.get(unit.strip().upper() if isinstance(unit, str) else "")
        if factor is None:
            raise table.hdu.error(f"{name} is in {unit!r}, expected keV")
        values = finite(table, name)
        edges.append(values if factor == 1.0 else values * factor)
    lows, highs = edges
    refuse_rows(table, highs <= lows, f"{high} does not exceed {low}")
    return lows, highs


def energy_grid_kev(table: Table) -> tuple[Floats, Floats]:
    """Edges of a response's energy bins (ENERG_LO, ENERG_HI), keV, ascending without overlap."""
    lows, highs = bin_edges_kev(table, "ENERG_LO", "ENERG_HI")
    ascending = (lows[1:] > lows[:-1]) & (lows[1:] >= highs[:-1] * (1 - EDGE_ROUNDING))
    if lows[0] < 0 or not ascending.all():
        refuse_rows(table, lows < 0, "ENERG_LO is negative")
        refuse_rows(table, np.append(False, ~ascending), "energies do not ascend from bin to bin")
    return lows, highs
