"""Run the verb `export`: write a latent catalog in formats that other tools open."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypipe.catalog.added_columns import TableName
from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.exporting.export_page import describe_export
from raypipe.exporting.export_summary import Written, claim, record, summarize
from raypipe.exporting.export_target import (
    draft_folder,
    publish_file,
    publish_folder,
    refuse_own_folders,
)
from raypipe.exporting.formats import FORMATS
from raypipe.exporting.formats.content import Content
from raypipe.exporting.formats.fits import write_fits
from raypipe.exporting.formats.hats import require_hats, write_hats
from raypipe.exporting.formats.parquet import write_parquet
from raypipe.exporting.formats.votable import write_votable
from raypipe.model.choice import choose_model
from raypipe.store.layout import exports_folder
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, read_published
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_FILES = {"fits": write_fits, "votable": write_votable, "parquet": write_parquet}
_ENDINGS = {"fits": ".fits", "votable": ".vot", "parquet": ".parquet", "hats": "-hats"}


@verb
def export(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    format: str,
    release: str | None = None,
    model: str | None = None,
    sources: bool = False,
    out: str | Path | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Write the detections of a catalog, or its sources, in a format and return the file's URI.

    `format` is fits, votable, hats or parquet; all have the same rows and numbers, except that HATS
    lacks the rows without a position. The file goes to `exports/<release>/<model_id>/` of the
    workspace, or to the folder `out`, with a README.md and an index.html that describe it. With
    `out` the workspace need not be writable; it then keeps no record of the run. Raises UsageError
    for an unknown format, if there is no catalog, if hats is needed and not installed, and if `out`
    is a folder of the workspace's own files or holds files that no export wrote.
    """
    workspace, settings = call.workspace, call.config
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    if format == "hats":
        require_hats()
    release = choose_release(workspace, release)
    model_id = choose_model(workspace, release, model)
    table: TableName = "sources" if sources else "detections"
    name = f"{table}{_ENDINGS[format]}"
    home = workspace.absolute_uri(exports_folder(release, model_id))
    destination = Workspace(home if out is None else out)
    if out is not None:
        refuse_own_folders(workspace, destination)
        claim(destination, name)

    def write(publication: Publication) -> Written:
        content = Content.of(workspace, publication, table)
        with draft_folder(destination) as folder:
            left_out = _write(content, format, folder / name, settings)
            written = Written.of(content, format, name, left_out)
            # Write the record first: a run that is killed after it can be repeated, but a file that
            # is in no record would be taken for somebody else's.
            files = record(destination, written)
            publish = publish_folder if format == "hats" else publish_file
            publish(destination, folder / name, name)
        describe_export(destination, summarize(workspace, publication, files))
        return written

    with call.recorded(optional=out is not None) as figures:
        written = read_published(workspace, release, model_id, write)
        figures.update({"file": name, "rows": written.rows, "rows_left_out": written.rows_left_out})
    for note in written.notes:
        log.warning("export: %s: %s", name, note)
    log.info("export: %d %s in %s", written.rows, table, destination.absolute_uri(name))
    return destination.absolute_uri(name)


def _write(content: Content, format: str, path: Path, settings: Config) -> int:
    """Write the content and return the number of rows that the format cannot hold."""
    if format == "hats":
        path.mkdir()
        return write_hats(content, path, settings.export.partition_rows)
    _FILES[format](content, path)
    return 0
