"""Read the detections of a catalog and the view of a table, and join them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from raypipe.aligning.pairs import Pairs, Rows
from raypipe.alignment.bundle import encoded
from raypipe.alignment.spectrum_inputs import LatentPosteriors, read_posteriors
from raypipe.alignment.text_encoder import TextEncoder
from raypipe.alignment.view_table import ViewColumn, ViewTable
from raypipe.alignment.views import ViewScale
from raypipe.catalog.matching import matched_rows
from raypipe.catalog.split import TEST, TRAIN, VALIDATION, assign_splits
from raypipe.config_align import AlignConfig
from raypipe.errors import UsageError
from raypipe.identity import source_keys

log = logging.getLogger(__name__)

FEWEST_SOURCES = 50
"""Fewest sources with both spectrum and view: below, neither training nor judgement is possible."""
_FEWEST_JUDGED = 5
_MATCHED_BY = ("detection_id", "obsid", "obi", "region_id", "name", "ra", "dec")


@dataclass(frozen=True)
class AlignData:
    """Hold n detections with latents, and the view of those that a table has.

    `detection_ids`, `sources` (keys) and `place` are (n,): `place` is the row of the view, -1 if
    there is none. `columns` are those of the view, with texts already encoded; `how` says how rows
    were joined, and `fingerprint` is a hash of all data from which an alignment learns.
    """

    detection_ids: pa.ChunkedArray
    sources: Rows
    posteriors: LatentPosteriors
    place: Rows
    columns: tuple[ViewColumn, ...]
    how: str
    fingerprint: str

    @property
    def paired(self) -> Rows:
        """Return the rows of detections that have a view."""
        return np.flatnonzero(self.place >= 0)


@dataclass(frozen=True)
class Division:
    """Hold which pairs are for training, validation and test; each source is in one of them."""

    train: Rows
    validation: Rows
    test: Rows


def join_view(
    catalog: pa.Table,
    table: ViewTable,
    encoder: TextEncoder | None,
    key: str | None,
    radius_arcsec: float,
) -> AlignData:
    """Join a view to the rows of a catalog that have latents.

    Raises UsageError if no row matches, or if too few sources have both a spectrum and a view.
    """
    posteriors, known = read_posteriors(catalog)
    rows = np.flatnonzero(known)
    identity = [name for name in _MATCHED_BY if name in catalog.column_names]
    frame = catalog.select(identity).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    place, how = matched_rows(frame, table.identity, radius_arcsec, table.file, key)
    columns = tuple(encoded(table.columns, encoder))
    filled = np.asarray(np.stack([column.is_known for column in columns]).any(axis=0))
    place = np.where((place >= 0) & filled[place], place, -1)[rows]
    sources = source_keys(catalog["name"].to_pylist(), catalog["detection_id"].to_pylist())[rows]
    number = len(np.unique(sources[place >= 0]))
    log.info(
        "align: %d of %d detections, of %d sources, have a row of %s, joined by %s",
        (place >= 0).sum(),
        len(rows),
        number,
        table.file,
        how,
    )
    if number < FEWEST_SOURCES:
        raise UsageError(
            f"{table.file}: only {number} sources have both latents and a row with values; an "
            f"alignment needs at least {FEWEST_SOURCES}"
        )
    ids = catalog["detection_id"].take(pa.array(rows))
    fingerprint = _fingerprint(columns, place, posteriors.take(rows))
    return AlignData(ids, sources, posteriors.take(rows), place, columns, how, fingerprint)


def divide(sources: Rows, config: AlignConfig) -> Division:
    """Divide pairs by the keys of their sources (n,); raises UsageError if a part is too small."""
    splits = assign_splits(sources, config.seed, config.test_fraction, config.validation_fraction)
    parts = [np.flatnonzero(splits == name) for name in (TRAIN, VALIDATION, TEST)]
    numbers = [len(np.unique(sources[rows])) for rows in parts]
    if min(numbers) < _FEWEST_JUDGED:
        raise UsageError(
            f"{numbers[0]} sources to train, {numbers[1]} for validation and {numbers[2]} to "
            f"judge; each needs {_FEWEST_JUDGED}: change align.test_fraction or "
            "align.validation_fraction"
        )
    return Division(*parts)


def make_pairs(data: AlignData, division: Division, config: AlignConfig) -> tuple[Pairs, ViewScale]:
    """Scale the view of all pairs by a scale that is fitted to the rows of training.

    `division` is that of the paired detections. Columns that are constant in the rows of training
    are left out. Raises UsageError if no column is left.
    """
    rows = data.paired
    seen = np.unique(data.place[rows[division.train]])
    columns = _varying(data.columns, seen)
    scale = ViewScale.fit([column.take(seen) for column in columns], config.curve_points)
    view = scale.transform(columns)
    pairs = Pairs(
        data.posteriors.take(rows), view, data.place[rows], data.sources[rows], view.row_groups()
    )
    return pairs, scale


def used_columns(columns: Sequence[ViewColumn], scale: ViewScale) -> list[ViewColumn]:
    """Return the columns that a scale has, in its order."""
    by_name = {column.name: column for column in columns}
    return [by_name[column.name] for column in scale.columns]


def _varying(columns: Sequence[ViewColumn], rows: Rows) -> list[ViewColumn]:
    from raypipe.alignment.view_table import is_constant

    kept = []
    for column in columns:
        here = column.take(rows)
        if not here.is_known.any() or is_constant(here):
            log.warning(
                "align: column %s is constant among the matched rows: left out", column.name
            )
        else:
            kept.append(column)
    if not kept:
        raise UsageError("the columns of the view are constant among the rows that match")
    return kept


def _fingerprint(columns: Sequence[ViewColumn], place: Rows, posteriors: LatentPosteriors) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(f"{column.name} {column.kind} {column.values.shape}\n".encode())
        if column.kind == "category":
            digest.update(json.dumps(column.values.tolist()).encode())
        elif column.kind == "curve":
            for curve in column.values:
                digest.update(b"\0" if curve is None else np.ascontiguousarray(curve).tobytes())
        else:
            digest.update(np.ascontiguousarray(column.values).tobytes())
    for values in (place, posteriors.mean, posteriors.factors):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
