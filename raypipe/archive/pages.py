"""Query a release's detections from the archive's TAP service in pages that survive a crash.

First the number of detections of each obsid is counted, and a plan divides them into pages of whole
obsids. Plan and pages are saved in a hidden folder beside the manifest, one per query, so that the
same command resumes after a crash and requests only the missing pages. The size of each page is
checked against the plan: if the service leaves rows out, with or without reporting it, the page is
requested in halves.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.archive.positions import positions_in_degrees
from raypipe.archive.products import PRODUCTS, find_release, product_uri
from raypipe.archive.query import (
    COLUMNS,
    Column,
    Query,
    check_condition,
    choose_columns,
)
from raypipe.archive.tap import QueryRefused, TapService
from raypipe.config import DiscoverConfig
from raypipe.errors import ServiceError, UsageError
from raypipe.store.layout import manifest_folder, part_name
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

_PLAN = "plan.json"
_MOST_OBSIDS = 1_000_000
_MOST_COLUMNS = 100_000
_SHARE_OF_LIMIT = 0.5
"""Largest page, as a share of the service's row limit."""

Counts = list[tuple[int, int]]
"""Obsids, each with its number of detections."""


@dataclass(frozen=True)
class Piece:
    """Limit a query to consecutive obsids, or to a range of region_id in a single obsid."""

    counts: Counts
    regions: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """Return the number of detections in the piece."""
        return _rows(self.counts)

    @property
    def conditions(self) -> list[str]:
        """Return the ADQL conditions that select the piece."""
        conditions = [f"o.obsid BETWEEN {self.counts[0][0]} AND {self.counts[-1][0]}"]
        if self.regions:
            conditions.append(f"o.region_id BETWEEN {self.regions[0]} AND {self.regions[1]}")
        return conditions


@dataclass(frozen=True)
class ReleasePages:
    """Keep the pages of one query to a release's TAP service in a workspace until removed.

    `archive_release` is the archive's name of the release, `release` that of the manifest.
    """

    workspace: Workspace
    archive_release: str
    release: str
    query: Query
    service: TapService

    @property
    def question(self) -> str:
        """Return a hash of the query and the service's address."""
        text = json.dumps([self.service.url, self.query.rows(COLUMNS)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def origin(self) -> str:
        """Return the service and the condition of the query, for display."""
        return self.service.name + (f" where {self.query.where}" if self.query.where else "")

    @property
    def folder(self) -> str:
        """Return the folder of the plan and the pages."""
        return f"{manifest_folder(self.release)}/.pages/{self.question}"

    def detections(self) -> Iterator[pa.Table]:
        """Yield manifest rows page by page; missing pages are requested and saved.

        Raises UsageError if the service refuses the condition or no detection meets it,
        ServiceError if the service fails.
        """
        repeated = 0
        for page in self._pages():
            unique = _without_repeats(page)
            repeated += page.num_rows - unique.num_rows
            yield _with_identity(unique, self.archive_release, self.release)
        if repeated:
            log.warning("left out %d rows that repeat a detection", repeated)
        log.info("%s: %d requests", self.service.name, self.service.session.requests_sent)

    def remove(self) -> None:
        """Remove the pages and then the plan; without a plan the pages could not be identified."""
        for name in self.workspace.files(self.folder):
            if not name.endswith(_PLAN):
                self.workspace.delete(name)
        self.workspace.delete_folder(self.folder)
        home = self.folder.rsplit("/", 1)[0]
        if not self.workspace.folders(home):
            self.workspace.delete_folder(home)

    def _pages(self) -> Iterator[pa.Table]:
        plan = self._plan()
        columns = [column for column in COLUMNS if column.name in set(plan["columns"])]
        held = set(self.workspace.files(self.folder, ".parquet"))
        if held:
            log.info("%d of %d pages are already saved", len(held), len(plan["pages"]))
        for number, counts in enumerate(plan["pages"]):
            name = part_name(self.folder, number)
            if name in held:
                yield self.workspace.read_table(name)
                continue
            page = self._rows_of(Piece(counts), columns)
            self.workspace.write_table(name, page)
            log.info("page %d of %d: %d detections", number + 1, len(plan["pages"]), page.num_rows)
            yield page

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
            raise UsageError(f"{self.service.name} has no detections{condition}")
        limit = self.service.row_limit()
        most = self.service.settings.page_rows
        if limit is not None:
            most = max(1, min(most, int(limit * _SHARE_OF_LIMIT)))
        pages = cut_into_pages(counts, most)
        log.info("%d detections of %d obsids in %d pages", _rows(counts), len(counts), len(pages))
        plan = {"columns": [column.name for column in columns], "pages": pages}
        self.workspace.write_json(name, plan)
        return plan

    def _try_condition(self) -> None:
        """Test the condition on no rows, so that a syntax error in it is reported as the user's."""
        if self.query.where is None:
            return
        nowhere = "o.obsid = -1"
        try:
            self.service.search(self.query.total(nowhere), 1)
        except QueryRefused as refused:
            self.service.search(Query(self.query.schema).total(nowhere), 1)
            raise UsageError(f"--where {self.query.where!r} is refused by {refused}") from refused

    def _columns(self) -> list[Column]:
        rows = self.service.search(self.query.available_columns(), _MOST_COLUMNS).table
        pairs = zip(rows["table_name"].to_pylist(), rows["column_name"].to_pylist(), strict=True)
        chosen = choose_columns(pairs, self.service.name)
        absent = [column.name for column in COLUMNS if column not in chosen]
        if absent:
            log.warning(
                "%s has %d of %d columns; missing: %s",
                self.service.name,
                len(chosen),
                len(COLUMNS),
                ", ".join(absent),
            )
        return chosen

    def _count(self) -> Counts:
        """Count detections by obsid; raises ServiceError if the service's total differs."""
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
                f"{self.service.name} counts {total} detections in all but {_rows(counts)} by "
                "obsid: it leaves rows out; run the same command again later"
            )
        return counts

    def _rows_of(self, piece: Piece, columns: Sequence[Column]) -> pa.Table:
        """Request all rows of a piece, in halves if the service cuts them off."""
        answer = self.service.search(self.query.rows(columns, *piece.conditions), piece.rows)
        got = answer.table.num_rows
        if got == piece.rows and not answer.overflow:
            return answer.table.select([column.name for column in columns])
        if got > piece.rows:
            raise ServiceError(
                f"{self.service.name} returned {got} detections where it had counted "
                f"{piece.rows}: the catalog has changed; delete "
                f"{self.workspace.absolute_uri(self.folder)} and run the same command again"
            )
        log.info("received %d of %d rows: requesting them in halves", got, piece.rows)
        halves = [self._rows_of(half, columns) for half in self._halves(piece)]
        return pa.concat_tables(halves, promote_options="permissive")

    def _halves(self, piece: Piece) -> list[Piece]:
        """Divide a piece by obsid or, if it has a single obsid, by region_id."""
        if len(piece.counts) > 1:
            middle = _middle(piece.counts)
            return [Piece(piece.counts[:middle]), Piece(piece.counts[middle:])]
        first, last = piece.regions or (0, self._total(*piece.conditions)[1])
        if first == last:
            raise ServiceError(
                f"{self.service.name} counted {piece.rows} detections where "
                f"{' AND '.join(piece.conditions)} but does not return them; it leaves rows out, "
                "or its catalog has changed: in this case delete "
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


def release_pages(
    workspace: Workspace,
    archive_release: str,
    release: str,
    where: str | None,
    settings: DiscoverConfig,
) -> ReleasePages:
    """Prepare the queries for a manifest; nothing is requested yet.

    `where` is an ADQL condition on m (sources) and o (their observations). Raises UsageError if the
    release is unknown or `where` is not a single condition.
    """
    home = find_release(archive_release)
    where = check_condition(where) if where is not None else None
    service = TapService(settings.tap_url or home.tap_url, settings)
    return ReleasePages(workspace, archive_release, release, Query(home.schema, where), service)


def cut_into_pages(counts: Counts, most: int) -> list[Counts]:
    """Divide obsids into runs of at most `most` detections; larger obsids get a page each."""
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
    """Return where to cut a page so that the rows of both sides are about equal, neither empty."""
    half = _rows(counts) / 2
    sums = itertools.accumulate(rows for _, rows in counts)
    cut = next(i for i, rows in enumerate(sums, start=1) if rows >= half)
    return min(cut, len(counts) - 1)


_KEY = ["obsid", "obi", "region_id"]


def _without_repeats(page: pa.Table) -> pa.Table:
    """Keep one row per detection; a page has all rows of its obsids."""
    order = [(name, "ascending") for name in [*_KEY, "name"]]
    page = page.sort_by(order)
    keys = np.stack([page[name].to_numpy() for name in _KEY])
    return page.filter(np.append(True, (np.diff(keys) != 0).any(axis=0)))


def _with_identity(page: pa.Table, archive_release: str, release: str) -> pa.Table:
    """Add detection_id and the URIs of the products to a page; convert positions to degrees."""
    keys = list(zip(*(page[name].to_pylist() for name in _KEY), strict=True))
    columns = {name: page[name] for name in page.column_names}
    columns["detection_id"] = pa.array([f"{release}:{o}.{b}.{r}" for o, b, r in keys])
    for product in PRODUCTS:
        columns[f"{product[:3]}_uri"] = pa.array(
            [product_uri(archive_release, o, b, r, product) for o, b, r in keys]
        )
    positions = positions_in_degrees(page.select(["ra", "dec"]), archive_release)
    columns.update({name: positions[name] for name in positions.column_names})
    return pa.table(columns)
