"""Publish the latent catalog in one step, so that no reader sees half of an update.

The name of a part depends on its content, so that a file never changes. A numbered list names the
parts that form the catalog; the list with the highest number is valid. To publish means to create
the next list, which only one of several writers can do.

Columns that a verb adds to a catalog are published in the same way, each verb's in a list of its
own; `raypipe.catalog.added_columns` writes and reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa

from raypipe._version import __version__
from raypipe.errors import RaypipeError
from raypipe.store.layout import catalog_folder, columns_folder
from raypipe.store.workspace import Workspace

_LIST = re.compile(r"/published-(\d{5})\.json$")
_ATTEMPTS = 5
_FIELDS = {
    "release": str,
    "model_id": str,
    "number": int,
    "rows": int,
    "source_rows": int,
    "parts": list,
    "sources": str,
    "fingerprint": str,
    "raypipe_version": str,
    "published": str,
}
"""Fields of a list, and their types in JSON."""

_ADDED_FIELDS = {"verb": str, "catalog": str, "others": list, "about": dict}
"""Further fields of a list of added columns; catalogs of earlier versions lack them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Publication:
    """Describe one publication of a catalog, or of the columns that a verb has added to one.

    `parts` and `sources` are names of files in the workspace: the parts have one row per detection,
    the other file has one row per source. `fingerprint` is a hash of everything that they were made
    from.

    Of added columns, `verb` made them from the catalog with the fingerprint `catalog`, by the
    settings `about`; `sources` is empty if sources have no such columns, and `others` are further
    tables of the verb.
    """

    release: str
    model_id: str
    number: int
    rows: int
    source_rows: int
    parts: tuple[str, ...]
    sources: str
    fingerprint: str
    raypipe_version: str = __version__
    published: str = ""
    verb: str = ""
    catalog: str = ""
    others: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Return the name of the list."""
        folder = _folder(self.release, self.model_id, self.verb)
        return f"{folder}/published-{self.number:05d}.json"

    @property
    def files(self) -> set[str]:
        """Return the names of all files of the publication."""
        return {*self.parts, *self.others, self.sources} - {""}


class PublishedMeanwhileError(RaypipeError):
    """Report that another run has published a different catalog since this run began."""


def find_publication(
    workspace: Workspace, release: str, model_id: str, verb: str = ""
) -> Publication | None:
    """Return the valid publication of a release by a model, None if there is none.

    It is that of the catalog or, if a verb is given, of the columns that the verb has added.
    """
    names = workspace.files(_folder(release, model_id, verb), ".json")
    lists = [name for name in names if _LIST.search(name)]
    if not lists:
        return None
    content = workspace.read_object(lists[-1], _FIELDS)
    for name in content.keys() & _ADDED_FIELDS.keys():
        if not isinstance(content[name], _ADDED_FIELDS[name]):
            raise workspace.unexpected(lists[-1], f"its field {name} has the wrong type")
    parts, others = tuple(content["parts"]), tuple(content.get("others", ()))
    if not parts or not all(isinstance(name, str) for name in (*parts, *others)):
        raise workspace.unexpected(lists[-1], "not the list of a catalog (no names of parts)")
    try:
        found = Publication(**content | {"parts": parts, "others": others})
    except TypeError as error:
        raise workspace.unexpected(lists[-1], f"not the list of a catalog ({error})") from error
    if found.name != lists[-1]:
        raise workspace.unexpected(lists[-1], f"this is the list of another catalog, {found.name}")
    return found


def published_models(workspace: Workspace, release: str) -> list[str]:
    """Return the ids of the models with a catalog of a release, sorted."""
    known = workspace.folders(f"catalog/{release}")
    return [model_id for model_id in known if find_publication(workspace, release, model_id)]


def require_publication(workspace: Workspace, release: str, model_id: str) -> Publication:
    """Return the valid publication of a release by a model; raises RaypipeError without one."""
    found = find_publication(workspace, release, model_id)
    if found is None:
        raise RaypipeError(
            f"{workspace.uri} {release}: the catalog by {model_id} is not complete; "
            "run raypipe embed again"
        )
    return found


def publish(
    workspace: Workspace, new: Publication, base: Publication | None, leftovers: Iterable[str] = ()
) -> Publication:
    """Replace the publication `base` by `new` in one step, and remove the files of `base`.

    `leftovers`, files that existed when the work began, are removed too unless they belong to the
    new catalog. Two runs may publish the same catalog. Raises PublishedMeanwhileError if a
    different one has been published since `base`, and RaypipeError if files of `new` are missing.
    """
    if base is not None and base.fingerprint == new.fingerprint and base.files == new.files:
        published = base
    else:
        number = (base.number if base else 0) + 1
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        _require_files(workspace, new)
        published = _create(workspace, replace(new, number=number, published=when))
    for name in {*leftovers, *(base.files if base else ())} - published.files:
        workspace.delete(name)
    return published


def read_published(
    workspace: Workspace,
    release: str,
    model_id: str,
    read: Callable[[Publication], T],
) -> T:
    """Return `read(publication)`; read again if another run has replaced the publication."""
    for attempt in range(_ATTEMPTS):
        publication = require_publication(workspace, release, model_id)
        try:
            return read(publication)
        except RaypipeError:
            if find_publication(workspace, release, model_id) == publication:
                raise
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def read_detections(
    workspace: Workspace, release: str, model_id: str, columns: list[str] | None = None
) -> pa.Table:
    """Read the rows of all detections, in order of parts; raises RaypipeError without a catalog."""

    return read_published(
        workspace, release, model_id, lambda found: detections_of(workspace, found, columns)
    )


def read_sources(
    workspace: Workspace, release: str, model_id: str, columns: list[str] | None = None
) -> pa.Table:
    """Read the rows of all sources; raises RaypipeError without a catalog."""

    return read_published(
        workspace, release, model_id, lambda found: sources_of(workspace, found, columns)
    )


def detections_of(
    workspace: Workspace, publication: Publication, columns: list[str] | None = None
) -> pa.Table:
    """Read the rows of all detections of one publication, in order of parts."""
    with ThreadPoolExecutor(8) as pool:
        tables = pool.map(lambda name: workspace.read_table(name, columns), publication.parts)
        table = pa.concat_tables(tables, promote_options="permissive")
    return _whole(workspace, publication, table, publication.rows)


def sources_of(
    workspace: Workspace, publication: Publication, columns: list[str] | None = None
) -> pa.Table:
    """Read the rows of all sources of one publication."""
    table = workspace.read_table(publication.sources, columns)
    return _whole(workspace, publication, table, publication.source_rows)


def _folder(release: str, model_id: str, verb: str) -> str:
    return columns_folder(release, model_id, verb) if verb else catalog_folder(release, model_id)


def _whole(workspace: Workspace, publication: Publication, table: pa.Table, rows: int) -> pa.Table:
    """Return the table; raises RaypipeError unless it has as many rows as were published."""
    if table.num_columns and table.num_rows != rows:
        problem = f"it states {rows} rows, but {table.num_rows} were read"
        raise workspace.unexpected(publication.name, problem)
    return table


def _create(workspace: Workspace, new: Publication) -> Publication:
    data = (json.dumps(asdict(new), indent=1) + "\n").encode()
    if workspace.create_bytes(new.name, data):
        return new
    other = find_publication(workspace, new.release, new.model_id, new.verb)
    if other and other.fingerprint == new.fingerprint and other.files == new.files:
        return other
    raise PublishedMeanwhileError(
        f"{workspace.absolute_uri(new.name)}: another run has published a different catalog "
        "since this run began, which has changed nothing; run the same command again to replace it"
    )


def _require_files(workspace: Workspace, new: Publication) -> None:
    with ThreadPoolExecutor(16) as pool:
        names = sorted(new.files)
        there = pool.map(workspace.exists, names)
        gone = [name for name, is_so in zip(names, there, strict=True) if not is_so]
    if gone:
        raise RaypipeError(
            f"{workspace.absolute_uri(gone[0])}: another run has removed this file since it was "
            f"written (files removed: {len(gone)}); run the same command again"
        )
