"""Convert positions in a table to degrees: numbers, numbers written as text, and sexagesimal."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import UsageError
from raypipe.redaction import printable

log = logging.getLogger(__name__)

_UNITS: Mapping[str, str] = {"ra": "hourangle", "dec": "deg"}
_LIMITS = {"ra": (-180.0, 360.0), "dec": (-90.0, 90.0)}

MISSING = ("", "-", "--", "nan", "na", "n/a", "none", "null", "unknown", "undefined", "<na>")
"""Texts, in lower case, that say that there is no value."""

_DECIMAL = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_SEXAGESIMAL = re.compile(r"[+-]?\d.*[:hdms°'\"\s].*")
_MOST_SHOWN = 60


def positions_in_degrees(
    table: pa.Table, where: str, units: Mapping[str, str] | None = None
) -> pa.Table:
    """Convert `ra` and `dec` of a table to degrees (float64); `where` names it in messages.

    Numbers are in the unit that `units` has for their column, otherwise in degrees. Text is
    sexagesimal, `ra` in hours, only if it is written so (12:30:01, 12 30 01, 12h30m01s); all other
    text is a number of degrees. Blanks and values outside the sphere become null, and the log
    counts the latter; 360 is added to negative `ra` down to -180. Raises UsageError, which names
    column, row and value, for text that is not a position, and for a unit that is not an angle.
    """
    for name in _UNITS:
        place = table.schema.get_field_index(name)
        if place >= 0:
            scale = _degrees_of_unit(name, (units or {}).get(name, ""), where)
            degrees = _degrees(name, table[name], where, scale)
            field = table.schema.field(place).with_type(pa.float64())
            table = table.set_column(place, field, [degrees])
    return table


def is_missing(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Tell of each text whether it is null or says that there is no value."""
    is_word = pc.is_in(pc.utf8_lower(texts), value_set=pa.array(MISSING, texts.type))
    return pc.or_(pc.is_null(texts), is_word)


def bad_value(where: str, column: str, row: int, value: Any, wanted: str) -> UsageError:
    """Return the error about a value; `row` counts from 0, the message from 1."""
    shown = printable(str(value), _MOST_SHOWN)
    return UsageError(f"{where}: column {column}, row {row + 1}: {shown!r} is not {wanted}")


def _degrees_of_unit(name: str, unit: str, where: str) -> float:
    """Return the degrees in a unit; an unknown unit is taken as degrees, with a warning.

    An hour is one of right ascension, 15 degrees. Raises UsageError for a unit that is no angle.
    """
    from astropy import units

    if not unit or unit.lower().startswith("deg"):
        return 1.0
    known = units.Unit(unit, parse_strict="silent")
    if isinstance(known, units.UnrecognizedUnit):
        log.warning("%s: column %s: unit %s is taken as degrees", where, name, printable(unit, 60))
        return 1.0
    if known == units.hourangle or (name == "ra" and known == units.hour):
        return 15.0
    try:
        return float(known.to(units.deg))
    except units.UnitConversionError as error:
        raise UsageError(
            f"{where}: column {name} is in {printable(unit, 60)!r}, which is no angle: give degrees"
        ) from error


def _degrees(name: str, column: pa.ChunkedArray, where: str, scale: float) -> pa.Array:
    """Convert a column to degrees; numbers in it are in units of `scale` degrees."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        values = column.cast(pa.float64(), safe=False).to_numpy() * scale
    elif pa.types.is_large_string(kind) or pa.types.is_string(kind):
        values = _degrees_of_text(name, column.cast(pa.string()), where)
    else:
        raise UsageError(f"{where}: column {name} holds {kind}, expected degrees")
    given = ~np.isnan(values)
    low, high = _LIMITS[name]
    inside = given & (values >= low) & (values <= high)
    if name == "ra":
        values = np.mod(values, 360.0, where=inside, out=values.copy())
    if outside := int((given & ~inside).sum()):
        log.warning(
            "%s: %d values of %s are outside %g to %g degrees and count as unknown",
            where,
            outside,
            name,
            low,
            high,
        )
    return pa.array(values, pa.float64(), mask=~inside)


def _degrees_of_text(name: str, column: pa.ChunkedArray, where: str) -> npt.NDArray[np.float64]:
    texts = pc.replace_substring(pc.utf8_trim_whitespace(column), "\u2212", "-")
    missing = is_missing(texts)
    decimal = pc.fill_null(pc.match_substring_regex(texts, _DECIMAL), False)
    infinite = pc.fill_null(pc.match_substring_regex(texts, "(?i)^[+-]?inf(inity)?$"), False)
    plain = pc.utf8_ltrim(pc.if_else(pc.or_(decimal, infinite), texts, None), "+")
    values = np.array(plain.cast(pa.float64()).to_numpy(), dtype=np.float64)
    others = np.flatnonzero(
        pc.invert(pc.or_(missing, pc.or_(decimal, infinite))).to_numpy().astype(bool)
    )
    if len(others):
        written = texts.take(pa.array(others)).to_pylist()
        values[others] = _sexagesimal(name, written, others, where)
    return values


def _sexagesimal(
    name: str, texts: Sequence[str], rows: npt.NDArray[np.int64], where: str
) -> npt.NDArray[np.float64]:
    from astropy.coordinates import Angle

    def degrees(some: Sequence[str]) -> npt.NDArray[np.float64]:
        if not all(_SEXAGESIMAL.fullmatch(text) for text in some):
            raise ValueError("neither a number nor sexagesimal")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(Angle(list(some), unit=_UNITS[name]).deg, dtype=np.float64)

    try:
        return degrees(texts)
    except (ValueError, TypeError):
        pass
    values = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            values[i] = degrees([text])[0]
        except (ValueError, TypeError) as error:
            wanted = "a position in degrees or sexagesimal; correct it, leave it blank, or remove "
            raise bad_value(where, name, int(rows[i]), text, f"{wanted}a row of units") from error
    return values
