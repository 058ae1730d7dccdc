"""A release's detections from the archive's TAP service, page by page, each kept when it is there.

A plan is made first: how many detections each obsid has, cut into pages of whole obsids. Plan and
pages are published in a hidden folder beside the manifest, one for each question, so that the same
command goes on after a death and asks only for what is missing. Every page is checked against the
plan's numbers: rows that a service leaves out, with or without saying so, are asked for in halves.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from raypipe.config import DiscoverConfig
from raypipe.discovery.archive import find_release, product_uri
from raypipe.discovery.archive_query import (
    COLUMNS,
    Column,
    Query,
    check_condition,
    choose_columns,
)
from raypipe.discovery.catalog_columns import positions_in_degrees
from raypipe.discovery.tap import QueryRefused, TapService
from raypipe.errors import ServiceError, UsageError
from raypipe.workspace import Workspace, manifest_folder, part_name

log = logging.getLogger(__name__)

_PLAN = "plan.json"
_MOST_OBSIDS = 1_000_000
_MOST_COLUMNS = 100_000
_SHARE_OF_LIMIT = 0.5
"""Largest page as a share of the service's own limit of rows."""

Counts = list[tuple[int, int]]
"""Obsids and their numbers of detections."""


@dataclass(frozen=True)
class Piece:
    """What one query asks for: consecutive obsids, of a single one perhaps a range of region_id."""

    counts: Counts
    regions: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """How many detections it has."""
        return _rows(self.counts)

    @property
    def conditions(self) -> list[str]:
        """What its detections meet, in ADQL."""
        conditions = [f"o.obsid BETWEEN {self.counts[0][0]} AND {self.counts[-1][0]}"]
        if self.regions:
            conditions.append(f"o.region_id BETWEEN {self.regions[0]} AND {self.regions[1]}")
        return conditions


@dataclass(frozen=True)
class ReleasePages:
    """The pages of one question to one release's TAP service, kept in a workspace."""

    workspace: Workspace
    folder: str
    query: Query
    service: TapService

    def fetch(self) -> pd.DataFrame:
        """Rows of all pages, those that are not there yet asked for and published first."""
        plan = self._plan()
        columns = [column for column in COLUMNS if column.name in set(plan["columns"])]
        held = set(self.workspace.files(self.folder, ".parquet"))
        pages = [(part_name(self.folder, i), page) for i, page in enumerate(plan["pages"])]
        missing = [(name, page) for name, page in pages if name not in held]
        if held:
            log.info("%d of %d pages are there already", len(pages) - len(missing), len(pages))
        for done, (name, counts) in enumerate(missing, start=1):
            table = self._rows_of(Piece(counts), columns)
            self.workspace.write_table(name, table)
            log.info("page %d of %d: %d detections", done, len(missing), table.num_rows)
        tables = [self.workspace.read_table(name) for name, _ in pages]
        whole = pa.concat_tables(tables, promote_options="permissive")
        log.info("%s: %d requests", self.service.url, self.service.session.requests_sent)
        return whole.to_pandas(types_mapper=_NULLABLE.get)

    def _plan(self) -> dict[str, Any]:
        name = f"{self.folder}/{_PLAN}"
        if self.workspace.exists(name):
            plan: dict[str, Any] = self.workspace.read_json(name)
            return plan
        self._try_condition()
        columns = self._columns()
        counts = self._count()
        if not counts:
            condition = f" with {self.query.where}" if self.query.where else ""
            raise UsageError(f"{self.service.url}: no detections{condition}")
        limit = self.service.row_limit()
        most = self.service.settings.page_rows
        if limit is not None:
            most = max(1, min(most, int(limit * _SHARE_OF_LIMIT)))
        pages = cut_into_pages(counts, most)
        log.info("%d detections of %d obsids, %d pages", _rows(counts), len(counts), len(pages))
        plan = {"columns": [column.name for column in columns], "pages": pages}
        self.workspace.write_json(name, plan)
        return plan

    def _try_condition(self) -> None:
        """Let a condition the service cannot read fail first, and as the user's error."""
        if self.query.where is None:
            return
        nowhere = "o.obsid = -1"
        try:
            self.service.search(self.query.total(nowhere), 1)
        except QueryRefused as refused:
            self.service.search(Query(self.query.schema).total(nowhere), 1)
            raise UsageError(f"--where {self.query.where!r} was refused by {refused}") from refused

    def _columns(self) -> list[Column]:
        rows = self.service.search(self.query.available_columns(), _MOST_COLUMNS).table
        pairs = zip(rows["table_name"].to_pylist(), rows["column_name"].to_pylist(), strict=True)
        chosen = choose_columns(pairs, self.service.url)
        absent = [column.name for column in COLUMNS if column not in chosen]
        if absent:
            log.warning(
                "%s has %d of %d columns, not %s",
                self.service.url,
                len(chosen),
                len(COLUMNS),
                ", ".join(absent),
            )
        return chosen

    def _count(self) -> Counts:
        """Detections of each obsid; ServiceError where the service's own sum is another."""
        counts: Counts = []
        while True:
            after = counts[-1][0] if counts else None
            answer = self.service.search(self.query.counts_by_obsid(after), _MOST_OBSIDS)
            obsids, numbers = answer.table["observation"].to_pylist(), answer.table["n"].to_pylist()
            counts += zip(obsids, numbers, strict=True)
            if not (answer.overflow and obsids):
                break
        total, _ = self._total()
        if _rows(counts) != total:
            raise ServiceError(
                f"{self.service.url}: {total} detections in all, but {_rows(counts)} by obsid; "
                "the service leaves rows out"
            )
        return counts

    def _rows_of(self, piece: Piece, columns: Sequence[Column]) -> pa.Table:
        """All rows of a piece, in halves where the service cuts them off."""
        answer = self.service.search(self.query.rows(columns, *piece.conditions), piece.rows)
        got = answer.table.num_rows
        if got == piece.rows and not answer.overflow:
            return answer.table.select([column.name for column in columns])
        if got > piece.rows:
            raise ServiceError(
                f"{self.service.url}: {got} detections where {piece.rows} were counted; the "
                f"catalog has changed: delete {self.workspace.absolute_uri(self.folder)} and run "
                "the same command again"
            )
        log.info("%d of %d rows came: asking in halves", got, piece.rows)
        halves = [self._rows_of(half, columns) for half in self._halves(piece)]
        return pa.concat_tables(halves, promote_options="permissive")

    def _halves(self, piece: Piece) -> list[Piece]:
        """A piece of several obsids by obsid, one of a single obsid by region_id."""
        if len(piece.counts) > 1:
            middle = _middle(piece.counts)
            return [Piece(piece.counts[:middle]), Piece(piece.counts[middle:])]
        first, last = piece.regions or (0, self._total(*piece.conditions)[1])
        if first == last:
            raise ServiceError(
                f"{self.service.url}: {piece.rows} detections were counted where "
                f"{' AND '.join(piece.conditions)}, but they do not come; the service leaves rows "
                "out, or its catalog has changed: then delete "
                f"{self.workspace.absolute_uri(self.folder)} and run the same command again"
            )
        middle = (first + last) // 2
        obsid = piece.counts[0][0]
        halves = []
        for regions in (first, middle), (middle + 1, last):
            rows, _ = self._total(*Piece(piece.counts, regions).conditions)
            if rows:
                halves.append(Piece([(obsid, rows)], regions))
        return halves

    def _total(self, *conditions: str) -> tuple[int, int]:
        row = self.service.search(self.query.total(*conditions), 1).table.to_pylist()[0]
        return int(row["n"]), int(row["largest"] or 0)


def archive_detections(
    workspace: Workspace, source: str, release: str, where: str | None, settings: DiscoverConfig
) -> tuple[pd.DataFrame, str]:
    """Manifest rows of a release of the archive, and what they were asked of.

    `source` is the archive's name of the release, `release` the manifest's; `where` an ADQL
    condition on m (sources) and o (observations of them). Raises UsageError for a condition the
    service refuses or that no detection meets, ServiceError where the service fails.
    """
    home = find_release(source)
    where = check_condition(where) if where is not None else None
    service = TapService(settings.tap_url or home.tap_url, settings)
    query = Query(home.schema, where)
    question = json.dumps([service.url, query.rows(COLUMNS)])
    digest = hashlib.sha256(question.encode()).hexdigest()[:16]
    folder = f"{manifest_folder(release)}/.pages/{digest}"
    rows = ReleasePages(workspace, folder, query, service).fetch()
    rows = positions_in_degrees(rows)
    keys = ["obsid", "obi", "region_id"]
    unique = rows.sort_values([*keys, "name"], ignore_index=True).drop_duplicates(keys)
    if len(unique) < len(rows):
        log.warning("%d rows repeat a detection and are left out", len(rows) - len(unique))
    identities = unique[keys].itertuples(index=False)
    named = [(f"{obsid}.{obi}.{region}", (obsid, obi, region)) for obsid, obi, region in identities]
    uris = {
        f"{product[:3]}_uri": [product_uri(source, *key, product) for _, key in named]
        for product in ("pha3", "arf3", "rmf3")
    }
    identity = {"detection_id": [f"{release}:{name}" for name, _ in named]}
    made = pd.DataFrame({**identity, **uris}, index=unique.index)
    return made.join(unique), service.url + (f" where {where}" if where else "")


def cut_into_pages(counts: Counts, most: int) -> list[Counts]:
    """Runs of obsids with at most `most` detections; an obsid with more is a page of its own."""
    pages: list[Counts] = []
    held = 0
    for obsid, rows in counts:
        if not pages or held + rows > most:
            pages.append([])
            held = 0
        pages[-1].append((obsid, rows))
        held += rows
    return pages


def _rows(counts: Counts) -> int:
    return sum(rows for _, rows in counts)


def _middle(counts: Counts) -> int:
    """Where to cut a page so that both sides have about as many rows, and at least one obsid."""
    half = _rows(counts) / 2
    sums = itertools.accumulate(rows for _, rows in counts)
    cut = next(i for i, rows in enumerate(sums, start=1) if rows >= half)
    return min(cut, len(counts) - 1)


_NULLABLE = {
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}
"""How nullable columns of a page come into pandas."""
