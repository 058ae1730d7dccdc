"""Join the columns of a catalog to detections."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.catalog.brought_table import JOIN_KEYS, key_texts, renamed
from raypipe.catalog.column_names import free_name
from raypipe.catalog.reserved import is_reserved
from raypipe.discovery.header_identity import CATALOG
from raypipe.discovery.position_key import SEPARATION, PositionKey, rows_of_others
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import OWN_FILE
from raypipe.redaction import printable
from raypipe.store.fingerprints import part_fingerprint, row_hashes
from raypipe.store.manifest import IDENTITY, ORIGINAL_NAME, OWN_TYPES

log = logging.getLogger(__name__)


class CatalogJoin:
    """Join a catalog's columns to detections that come in tables.

    The first of `JOIN_KEYS` that matches any detection is used, so all detections are looked at
    before columns are added to any. If several rows of the catalog are of one detection, the first
    is used. Columns that identify the detections are combined (`_with_columns`); other columns of
    the catalog are renamed if the detections have one of that name. With `radius_arcsec`, rows are
    joined by position instead: the nearest within that radius (`PositionKey`); its distance is the
    column `separation_arcsec`. Raises UsageError if the catalog lacks the columns of all keys,
    RaypipeError for a column whose name is reserved.
    """

    def __init__(self, catalog: pa.Table, radius_arcsec: float | None = None) -> None:
        known = set(catalog.column_names)
        self._radius = radius_arcsec
        if radius_arcsec is None and not any(set(key) <= known for key in JOIN_KEYS):
            raise UsageError(
                "the catalog has neither " + ", nor ".join(map(" and ".join, JOIN_KEYS))
            )
        if reserved := [name for name in catalog.column_names if is_reserved(name)]:
            raise RaypipeError(f"a catalog cannot fill the columns {', '.join(reserved)}")
        self._catalog = catalog
        self._keys: list[Key | PositionKey]
        if radius_arcsec is not None:
            self._keys = [PositionKey(catalog, radius_arcsec)]
            self._catalog = rows_of_others(catalog)
        else:
            self._keys = [Key(catalog, key) for key in JOIN_KEYS if set(key) <= known]
        self._detections = 0
        self._columns = pa.table({})
        self._place = np.array([], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """Return a hash of the catalog's columns and values, and of the way to join it."""
        own = part_fingerprint(self._catalog.schema, row_hashes(self._catalog))
        return own if self._radius is None else f"{own} within {self._radius!r}"

    @property
    def summary(self) -> dict[str, float]:
        """Return the figures of a join by position, empty for other joins."""
        (key,) = self._keys
        return key.summary() if isinstance(key, PositionKey) else {}

    @property
    def renamed(self) -> dict[str, str]:
        """Return the original names of the catalog's renamed columns, by their new names."""
        return renamed(self._catalog)

    def look(self, detections: pa.Table) -> None:
        """Find the rows of the catalog that these detections need."""
        self._detections += detections.num_rows
        for number, key in enumerate(self._keys, start=1):
            key.look(detections)
            if key.found:
                self._keys = self._keys[:number]
                break

    def settle(self, filled: Collection[str], known: Collection[str] = ()) -> None:
        """Choose the key and the names of columns, after all detections have been looked at.

        `known` are the columns of the detections, `filled` those that have values. Raises
        UsageError, with a key of either side, if no row of the catalog is a detection.
        """
        found = [key for key in self._keys if key.found]
        if not found:
            tried = ", nor by ".join(key.compared() for key in self._keys)
            raise UsageError(
                f"no row of the catalog is a detection of --source, neither by {tried}; correct "
                "the catalog or leave it out"
            )
        (key,) = self._keys = found
        log.info(
            "catalog: %d of %d detections found by %s",
            key.found,
            self._detections,
            " and ".join(key.names),
        )
        if key.repeats:
            log.warning(
                "catalog: %d rows repeat the %s of an earlier row, which is used in their place",
                key.repeats,
                " and ".join(key.names),
            )
        if isinstance(key, PositionKey):
            key.report()
        self._catalog = _beside(self._catalog, set(filled), set(known))
        self._columns = self._catalog.take(pa.array(key.rows[key.wanted])).combine_chunks()
        self._place = np.cumsum(key.wanted) - 1

    def add_columns(self, detections: pa.Table) -> pa.Table:
        """Add the catalog's columns to detections, with nulls if it has no row for one."""
        for key in self._keys:
            places = key.places(detections)
            absent = places < 0
            rows = np.where(absent, 0, self._place[places]) if len(self._place) else places
            new = self._columns.take(pa.array(rows, mask=absent))
            if isinstance(key, PositionKey):
                detections = detections.append_column(SEPARATION, key.separations(detections))
            detections = _with_columns(detections, new)
        return detections


def _beside(catalog: pa.Table, filled: set[str], known: set[str]) -> pa.Table:
    """Name the catalog's columns so that they fit beside those of the detections."""
    theirs = {name.lower() for name in filled | (known - set(catalog.column_names))}
    taken = theirs | {name.lower() for name in catalog.column_names}
    fields, columns = [], []
    for field, column in zip(catalog.schema, catalog.columns, strict=True):
        if field.name == "detection_id":
            continue
        if field.name in OWN_TYPES:
            field, column = (
                field.with_type(OWN_TYPES[field.name]),
                column.cast(OWN_TYPES[field.name]),
            )
        elif field.name.lower() in theirs:
            new = free_name(field.name, taken)
            log.warning(
                "catalog: detections have a column %s: the catalog's is %s", field.name, new
            )
            taken.add(new.lower())
            original = {ORIGINAL_NAME: field.name.encode()} | (field.metadata or {})
            field = field.with_name(new).with_metadata(original)
        fields.append(field)
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))


def _with_columns(detections: pa.Table, given: pa.Table) -> pa.Table:
    """Add the columns of a catalog to detections; combine those that identify the detections.

    The archive and the CSC's file names identify a detection reliably, so a catalog only fills in
    what they leave open. The header of a spectrum outside the CSC does not: its OBJECT and RA_TARG
    are those of the target, so a catalog's values replace them; half a position replaces none.
    """
    are_own = pc.starts_with(detections["detection_id"], OWN_FILE)
    are_placed = are_own
    for name in ("ra", "dec"):
        is_given = pc.is_valid(given[name]) if name in given.column_names else False
        are_placed = pc.and_(are_placed, is_given)
    for field, column in zip(given.schema, given.columns, strict=True):
        at = detections.schema.get_field_index(field.name)
        if at < 0:
            detections = detections.append_column(field, column)
            continue
        if field.name in IDENTITY:
            own = detections[field.name]
            are_replaced = are_placed if field.name in ("ra", "dec") else are_own
            first = pc.if_else(are_replaced, column, own)
            column = pc.coalesce(first, own, column)
        detections = detections.set_column(at, field, column)
    at = detections.schema.get_field_index("position_from")
    if at >= 0:
        origin = pc.if_else(are_placed, CATALOG, detections["position_from"])
        detections = detections.set_column(at, "position_from", origin.cast(pa.large_string()))
    return detections


class Key:
    """Look up the rows of a catalog by one key.

    `rows` are the rows with distinct keys, and `wanted` those of them that are among the `found`
    detections. `repeats` rows have the key of an earlier row and are left out.
    """

    def __init__(self, catalog: pa.Table, names: Sequence[str]) -> None:
        self.names = list(names)
        texts = key_texts(_frame(catalog.select(self.names)))
        repeated = texts.duplicated()
        self.rows = np.flatnonzero(~repeated)
        self.repeats = int((repeated & (texts != "")).sum())
        self.wanted = np.zeros(len(self.rows), dtype=bool)
        self.found = 0
        self._texts = texts[self.rows]
        self._seen = ""

    def compared(self) -> str:
        """Name the key's columns, with a value of the catalog and one of a detection."""
        one = next((text for text in self._texts if text), "")
        shown = [repr(printable(text, 60)) if text else "none" for text in (one, self._seen)]
        names = " and ".join(self.names)
        return f"{names} (the catalog has {shown[0]}, the detections have {shown[1]})"

    def look(self, detections: pa.Table) -> None:
        """Note which rows of the catalog these detections need."""
        places = self.places(detections)
        self.wanted[places[places >= 0]] = True
        self.found += int((places >= 0).sum())

    def places(self, detections: pa.Table) -> np.ndarray:
        """Return the places of detections in `rows`, -1 for those that are not there."""
        texts = key_texts(_frame(detections.select(self.names)))
        self._seen = self._seen or next((text for text in texts if text), "")
        places = self._texts.get_indexer(texts)
        places[texts == ""] = -1
        return places


def _frame(keys: pa.Table) -> pd.DataFrame:
    return keys.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
