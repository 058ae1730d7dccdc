"""Read the table that holds a second view of sources: numbers, words, texts, vectors, curves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe.catalog.brought_table import JOIN_KEYS, read_catalog_file, renamed
from raypipe.catalog.user_table import PARQUET
from raypipe.errors import UsageError
from raypipe.redaction import printable
from raypipe.store.addresses import Address, local_file, shown
from raypipe.store.parquet import require_plain

log = logging.getLogger(__name__)

Kind = Literal["number", "category", "text", "vector", "curve"]
Floats = npt.NDArray[np.float64]

MOST_CATEGORIES = 64
"""Most different words of a categorical column."""
MOST_ELEMENTS = 8192
"""Most elements of a vector, and most points of a light curve that is read."""
_KEYS = ("ra", "dec", *dict.fromkeys(name for key in JOIN_KEYS for name in key))
_SHOWN = 20
_MOSTLY = 0.5
"""Share of numbers above which a column of text is taken for one of numbers."""


@dataclass(frozen=True)
class ViewColumn:
    """Hold one column of a view before it is scaled.

    The type of `values` depends on the kind. For a number it is float64 (n,), NaN if missing; for
    category and text, objects (n,) that are str or None; for a vector, float32 (n, d), NaN in rows
    without one; for a curve, objects (n,) that are None or arrays (2, points) of times and rates.
    """

    name: str
    kind: Kind
    values: npt.NDArray[Any]

    @property
    def is_known(self) -> npt.NDArray[np.bool_]:
        """Return which rows have a value, (n,)."""
        if self.kind == "vector":
            return np.asarray(np.isfinite(self.values).all(axis=1))
        return np.asarray(pd.notna(self.values) if self.kind != "curve" else _given(self.values))

    def take(self, rows: npt.NDArray[np.int64]) -> ViewColumn:
        """Return the column of these rows."""
        return ViewColumn(self.name, self.kind, self.values[rows])


@dataclass(frozen=True)
class ViewTable:
    """Hold the view of n rows: its columns, and in `identity` the keys by which rows are joined.

    `file` is the address of the table, without secrets.
    """

    file: str
    identity: pd.DataFrame
    columns: tuple[ViewColumn, ...]

    def __len__(self) -> int:
        return len(self.identity)


def read_view_table(
    address: Address, wanted: Sequence[str] | None = None, *, texts: bool = False
) -> ViewTable:
    """Read columns of a table at a path, s3:// or https:// as a view.

    `wanted` names columns, and light curves as TIMES:RATES. By default all columns are read that do
    not identify rows and that are numbers, words, or vectors of one length. With `texts`, columns
    of text are read as texts for an encoder, otherwise as categories. Vectors and curves are read
    from Parquet only. Raises UsageError, which names the column and the row, for values that cannot
    be used.
    """
    where = shown(address)
    with local_file(address) as file:
        table = read_catalog_file(file, where)
        arrays, kinds = _read_arrays(file, where)
    old_names = renamed(table)
    identity = table.select([name for name in table.column_names if name in _KEYS])
    single = {
        old_names.get(name, name): table[name]
        for name in table.column_names
        if name not in _KEYS and name != "class"
    }
    if "class" in table.column_names:
        single["class"] = table["class"]
        single.setdefault(old_names.get("class", "class"), table["class"])
    frame = identity.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    others = {name: kind for name, kind in kinds.items() if name not in single | arrays}
    others = {name: kind for name, kind in others.items() if name not in identity.column_names}
    reader = _Reader(where, single, arrays, others, texts)
    columns = reader.named(wanted) if wanted else reader.usable()
    return ViewTable(where, frame, tuple(columns))


@dataclass(frozen=True)
class _Reader:
    """Make columns of a view from columns of single values and of lists.

    `others` has the types of the columns that are neither of these.
    """

    where: str
    single: dict[str, pa.ChunkedArray]
    lists: dict[str, pa.ChunkedArray]
    others: dict[str, str]
    texts: bool

    def named(self, wanted: Sequence[str]) -> list[ViewColumn]:
        """Make the columns that the user names; none may be constant."""
        made = [self._one(name.strip()) for name in wanted]
        for column in made:
            if not column.is_known.any():
                raise UsageError(f"{self.where}: column {column.name} has no value")
            if is_constant(column):
                raise UsageError(
                    f"{self.where}: column {column.name} has the same value in all rows, which "
                    "tells no source from another; leave it out of --columns"
                )
        return made

    def usable(self) -> list[ViewColumn]:
        """Make all columns that can be used; name the others in the log."""
        made, left_out = [], []
        names = dict.fromkeys([*self.single, *self.lists, *self.others])
        if "class" in names:  # the name that the table has for it says the same
            names = {
                name: None
                for name in names
                if self.single.get(name) is not self.single["class"] or name == "class"
            }
        for name in names:
            try:
                column = self._one(name)
            except UsageError as error:
                reason = str(error).removeprefix(f"{self.where}: column {name}").lstrip(",: ")
                left_out.append(f"{printable(name, 60)} ({reason})")
                continue
            if not column.is_known.any() or is_constant(column):
                left_out.append(f"{printable(name, 60)} (constant or empty)")
            else:
                made.append(column)
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        why = "; ".join(left_out[:_SHOWN]) + more
        if not made:
            has = f": {why}" if why else "; it has none besides those that identify rows"
            raise UsageError(f"{self.where}: no column can serve as a view{has}")
        if left_out:
            log.info("%s: left out: %s", self.where, why)
        return made

    def _one(self, name: str) -> ViewColumn:
        if ":" in name and name not in self.single and name not in self.lists:
            times, _, rates = name.partition(":")
            return ViewColumn(name, "curve", self._curves(times, rates))
        if name in self.lists:
            return ViewColumn(name, "vector", self._vectors(name))
        if name in self.others:
            raise UsageError(
                f"{self.where}: column {name} holds {self.others[name]}; expected numbers, text, "
                "or lists of numbers"
            )
        if name not in self.single:
            has = [*self.single, *self.lists][:40]
            known = ", ".join(printable(each, 60) for each in has) or "none that can be a view"
            raise UsageError(f"{self.where}: no column {printable(name, 60)!r}; it has {known}")
        column = self.single[name]
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return ViewColumn(name, "number", self._numbers(name, column))
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.large_string())
        if not (pa.types.is_large_string(column.type) or pa.types.is_string(column.type)):
            raise UsageError(f"{self.where}: column {name} holds {column.type}, no number or text")
        return self._words(name, column)

    def _numbers(self, name: str, column: pa.ChunkedArray) -> Floats:
        values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values))[0])
            raise UsageError(
                f"{self.where}: column {name}, row {row + 1}: infinite; leave it blank where "
                "there is no value"
            )
        return values

    def _words(self, name: str, column: pa.ChunkedArray) -> ViewColumn:
        words = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
        values = np.array([word or None for word in words.to_pylist()], dtype=object)
        if self.texts:
            return ViewColumn(name, "text", values)
        different = len({word for word in values if word is not None})
        if different > MOST_CATEGORIES:
            self._require_words(name, values)
            raise UsageError(
                f"{self.where}: column {name} has {different} different texts, at most "
                f"{MOST_CATEGORIES} are categories; name a --text-encoder to read them as texts"
            )
        return ViewColumn(name, "category", values)

    def _require_words(self, name: str, values: npt.NDArray[Any]) -> None:
        """Raise UsageError for a column of text most of which are numbers."""
        known = np.flatnonzero(pd.notna(values))
        numbers = pd.to_numeric(pd.Series(values[known]), errors="coerce").notna().to_numpy()
        if numbers.mean() < _MOSTLY:
            return
        if numbers.all():
            raise UsageError(f"{self.where}: column {name} holds numbers as text; store numbers")
        row = int(known[~numbers][0])
        odd = printable(str(values[row]), 40)
        raise UsageError(
            f"{self.where}: column {name}, row {row + 1}: {odd!r} is no number, as most "
            "of the column are; leave it blank where there is no value"
        )

    def _vectors(self, name: str) -> npt.NDArray[np.float32]:
        rows = _rows_of(self.lists[name])
        sizes = {len(row) for row in rows if row is not None}
        if len(sizes) > 1:
            raise UsageError(
                f"{self.where}: column {name} has vectors of different lengths, "
                f"{min(sizes)} to {max(sizes)}; give a light curve as TIMES:RATES"
            )
        size = sizes.pop() if sizes else 0
        if not 0 < size <= MOST_ELEMENTS:
            raise UsageError(
                f"{self.where}: column {name} has vectors of {size} numbers; expected 1 to "
                f"{MOST_ELEMENTS}"
            )
        values = np.full((len(rows), size), np.nan, np.float32)
        for place, row in enumerate(rows):
            if row is not None:
                self._require_finite(name, place, row)
                values[place] = row
        return values

    def _curves(self, times: str, rates: str) -> npt.NDArray[np.object_]:
        for name in (times, rates):
            if name not in self.lists:
                raise UsageError(f"{self.where}: no column {printable(name, 60)!r} of lists")
        both = zip(_rows_of(self.lists[times]), _rows_of(self.lists[rates]), strict=True)
        curves = np.full(len(self.lists[times]), None, dtype=object)
        for place, (when, rate) in enumerate(both):
            if when is None or rate is None or not len(when):
                continue
            if len(when) != len(rate):
                raise UsageError(
                    f"{self.where}: row {place + 1} has {len(when)} {times} and {len(rate)} {rates}"
                )
            if len(when) > MOST_ELEMENTS:
                raise UsageError(
                    f"{self.where}: row {place + 1}: a light curve of {len(when)} points; bin it "
                    f"to at most {MOST_ELEMENTS}"
                )
            self._require_finite(times, place, when)
            self._require_finite(rates, place, rate)
            order = np.argsort(when, kind="stable")
            curves[place] = np.stack([when[order], rate[order]])
        return curves

    def _require_finite(self, name: str, place: int, row: Floats) -> None:
        if not np.isfinite(row).all():
            raise UsageError(
                f"{self.where}: column {name}, row {place + 1}: NaN or infinity among its numbers; "
                "leave the whole list null where there is none"
            )


def is_constant(column: ViewColumn) -> bool:
    """Return whether all known rows of a column have the same value."""
    if column.kind == "curve":
        return False
    known = column.values[column.is_known]
    if column.kind == "vector":
        return bool((known == known[:1]).all())
    return len(set(known.tolist())) <= 1


def _given(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.array([value is not None for value in values], dtype=bool)


def _read_arrays(file: Path, where: str) -> tuple[dict[str, pa.ChunkedArray], dict[str, str]]:
    """Read the columns of a Parquet file that hold lists of numbers; name types of other lists."""
    if not {suffix.lower() for suffix in file.suffixes} & PARQUET:
        return {}, {}
    schema = pq.read_schema(file)
    require_plain(schema, where)
    names = [field.name for field in schema if _is_list_of_numbers(field.type)]
    others = {
        field.name: str(field.type)
        for field in schema
        if pa.types.is_nested(field.type) and field.name not in names
    }
    if not names:
        return {}, others
    table = pq.read_table(file, columns=names, page_checksum_verification=True)
    return {name: table[name] for name in names}, others


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    is_list = any(
        is_kind(kind)
        for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )
    if not is_list:
        return False
    value = kind.value_type
    return bool(pa.types.is_integer(value) or pa.types.is_floating(value))


def _rows_of(column: pa.ChunkedArray) -> list[Floats | None]:
    """Return each list as float64, None where it is null; a null inside a list is NaN."""
    rows: list[Floats | None] = []
    for chunk in column.chunks:
        values = np.asarray(chunk.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False))
        lengths = np.asarray(pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(False))
        known = np.asarray(chunk.is_valid().to_numpy(zero_copy_only=False))
        ends = np.cumsum(np.where(known, lengths, 0))
        for place, end in enumerate(ends):
            begin = ends[place - 1] if place else 0
            rows.append(values[begin:end] if known[place] else None)
    return rows
